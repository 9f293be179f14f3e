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
const NOT_OURS_IN_THE_NESTED_RIG: [(&str, &str); 2] = [
    // Three timers in a row were due by the time the one before was served. On a processor that is none it says nothing
    // of ours; on a real one it would be a vCPU that something holds up.
    ("hrtimer: interrupt took ", "the emulator's pace"),
    // What checks the clocks each half second came more than another one late. The same; and where a console's program dies
    // while the guest writes to hvc0, Linux's driver waits for its successor with the processor's interrupts off: some
    // milliseconds, for which the emulator takes a second.
    ("clocksource: Long readout interval", "the emulator's pace"),
];

/// Asserts that the kernel's log has no warning, or worse, that the machine gave cause for.
pub fn none_of_ours(ended: &Ended) -> Result<()> {
    let emulated = NOT_OURS_IN_THE_NESTED_RIG.iter().filter(|_| is_nested());
    let known: Vec<&str> = NOT_OURS.iter().chain(emulated).map(|(part, _)| *part).collect();
    let is_ours = |line: &&str| known.iter().all(|part| !line.contains(part));
    let ours: Vec<&str> = ended.warnings()?.into_iter().filter(is_ours).collect();
    assert!(ours.is_empty(), "the guest's kernel complains:\n{}", ours.join("\n"));
    Ok(())
}
