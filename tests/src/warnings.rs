//! What a guest's kernel may complain of: nothing, but for what the machine cannot help.

use crate::environment::is_nested;
use crate::{Ended, Result};

/// Lines that come from the host's processor, or from the guest's own kernel whatever the machine does, by a part of each,
/// with why.
const NOT_OURS: [(&str, &str); 3] = [
    // The processor is vulnerable and its microcode, which no monitor can supply, is not new enough.
    ("Speculative Return Stack Overflow: ", "the host's microcode"),
    // Hyper-threads and a mitigation that needs them off: the host's processor again.
    ("/admin-guide/hw-vuln/", "the host's processor"),
    // Linux's nvdimm_has_flush looks for mappings to NVDIMMs before it looks whether the region has a flush of its own. No
    // virtio-pmem has such mappings, so the kernel says this of each one, and flushes it all the same.
    ("unable to guarantee persistence of writes", "the guest's driver, of every virtio-pmem"),
];

/// The same of an emulated processor, which the emulator takes away from the guest for as long as it likes.
const NOT_OURS_IN_THE_NESTED_RIG: [(&str, &str); 1] = [
    // Three timers in a row were due by the time the one before was served. On a processor that is none it says nothing
    // of ours; on a real one it would be a vCPU that something holds up.
    ("hrtimer: interrupt took ", "the emulator's pace"),
];

/// The same where the console's program dies while the guest writes to `hvc0`.
const OF_A_CONSOLE_THAT_IS_AWAY: [(&str, &str); 1] = [
    // Linux's driver waits for the host to take what it wrote, with the processor's interrupts off, so that what is due
    // there every half second waits for the successor as well. A successor serves in some milliseconds; the emulator
    // takes a second for it, more than that check stands.
    ("clocksource: Long readout interval", "the driver's wait, at the emulator's pace"),
];

/// Asserts that the kernel's log has no warning, or worse, that the machine gave cause for.
pub fn none_of_ours(ended: &Ended) -> Result<()> {
    none_but(ended, &[])
}

/// As `none_of_ours`, of a guest whose console died under what it wrote.
pub fn none_but_of_waiting_for_its_console(ended: &Ended) -> Result<()> {
    none_but(ended, &OF_A_CONSOLE_THAT_IS_AWAY)
}

/// Asserts that the log has no warnings but the known ones, to which `more` belong in the nested rig.
fn none_but(ended: &Ended, more: &[(&'static str, &'static str)]) -> Result<()> {
    let emulated = NOT_OURS_IN_THE_NESTED_RIG.iter().chain(more).filter(|_| is_nested());
    let known: Vec<&str> = NOT_OURS.iter().chain(emulated).map(|(part, _)| *part).collect();
    let is_ours = |line: &&str| known.iter().all(|part| !line.contains(part));
    let ours: Vec<&str> = ended.warnings()?.into_iter().filter(is_ours).collect();
    assert!(ours.is_empty(), "the guest's kernel complains:\n{}", ours.join("\n"));
    Ok(())
}
