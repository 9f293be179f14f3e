//! The outer machine: QEMU's command line, and a watchdog over the guest's progress.
//!
//! The guest writes into files on the host through virtio-serial ports: `output` and `heartbeat`, a
//! line every two seconds. A heart that stops while QEMU burns processor time is a fault of the
//! emulator's, known and rare; anything else that stops is reported as what it is.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::failure::{Outcome, Tried};

/// No heartbeat for so long: the guest has stopped. Far beyond what a busy host delays it.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(150);
/// No output for so long though the heart beats: a test that hangs. Tests have limits of their own,
/// all shorter.
const OUTPUT_LIMIT: Duration = Duration::from_secs(2400);
/// What the outer kernel says when one of its processors makes no progress, and when one could not even begin to handle an
/// exception, which has come upon another until its stack was full, in its own entry or in what all have in common: nothing
/// that runs in user space can bring either about.
const KERNEL_FAULTS: [&str; 3] =
    ["watchdog: BUG: soft lockup", "RIP: 0010:asm_exc_", "RIP: 0010:error_entry+"];
/// How often to look.
const INTERVAL: Duration = Duration::from_millis(200);
/// Processor time in clock ticks (of 10 ms, USER_HZ) that a stuck QEMU burns within
/// [`HEARTBEAT_LIMIT`]: at least a third of one processor; an idle one burns next to none.
const SPINNING_TICKS: u64 = 5_000;

/// Not a model of a real processor: guests of the guest would complain of microcode that it lacks. No
/// XSAVE: the emulation of SVM does not intercept XSETBV, so that KVM reports sizes of areas that are not
/// those its guest switched on, and Linux warns ("XSAVE consistency problem") under any monitor.
///
/// No nested paging: the emulation of it goes wrong where a nested page fault comes at a bad moment. With it guests die of a
/// triple fault or a panic at a random moment of their boot, about one in ten on a busy host, under QEMU as the inner monitor
/// as well as under ours; with huge pages behind their memory (see `tests/nested/init`) less often, but then whole runs stood
/// still or the outer kernel itself crashed, its thread of a vCPU having faulted until its stack was full. KVM's shadow paging has
/// no such faults, and huge pages make up for most of what it costs.
const CPU: &str = "max,-npt,-xsave,-xsaveopt,-xgetbv1,-avx,-avx2,-f16c,-fma";

/// As many as the least host has. With more, one waits for another whose thread the host does not run, and whole runs take a
/// fourth longer.
const PROCESSORS: &str = "2";

/// An outer machine about to run.
pub struct Machine<'a> {
    /// The uncompressed kernel: under emulation it starts seconds sooner than a bzImage.
    pub kernel: &'a Path,
    /// What it runs.
    pub initramfs: &'a Path,
    /// Where its output goes.
    pub folder: &'a Path,
}

/// How the machine ended.
pub enum Ended {
    /// By itself; whether the job was done is seen in its output.
    PoweredOff,
    /// The emulator's own fault: no heartbeat while QEMU's threads spin, or a processor that spins in the outer kernel. In
    /// words.
    Stuck(String),
    /// Stopped in another way. In words.
    Silent(String),
}

impl Machine<'_> {
    /// Runs the machine until it powers off or stops making progress.
    pub fn run(&self) -> Outcome<Ended> {
        for name in ["output", "heartbeat", "kernel.log"] {
            let file = self.file(name);
            File::create(&file).tried(|| format!("cannot write {}", file.display()))?;
        }
        crate::progress::step("outer guest: starting");
        let log = File::create(self.file("qemu.log")).tried(|| "cannot write qemu.log".to_owned())?;
        let mut qemu = self
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .tried(|| "cannot run setpriv (util-linux)".to_owned())?;
        let ended = self.watch(&mut qemu);
        // Ended or not: nothing of ours stays behind.
        let _ = qemu.kill();
        let _ = qemu.wait();
        ended
    }

    /// What the job has written.
    pub fn output(&self) -> String {
        fs::read(self.file("output"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// What the outer kernel said if it ended by one of [`KERNEL_FAULTS`]. The kernel and the processor are at fault there,
    /// whatever runs in user space.
    fn kernel_fault(&self) -> Option<String> {
        let log = fs::read(self.file("kernel.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        log.lines()
            .find(|line| KERNEL_FAULTS.iter().any(|said| line.contains(said)))
            .map(|line| line.trim().to_owned())
    }

    /// The ends of all logs, for somebody who must find out what happened.
    pub fn last_words(&self) -> String {
        let mut words = String::new();
        for name in ["qemu.log", "kernel.log", "output"] {
            let bytes = fs::read(self.file(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default();
            words.push_str(&format!("--- end of {name}\n{}\n", tail.join("\n")));
        }
        words
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn command(&self) -> Command {
        // Whatever ends this tool ends QEMU: an orphan would take two processors for ever.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(["-accel", "tcg,thread=multi,tb-size=512", "-M", "q35", "-cpu", CPU])
            .args(["-smp", PROCESSORS, "-m", "4G"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", &kernel_command_line()])
            .arg("-serial")
            .arg(format!("file:{}", self.file("kernel.log").display()))
            .args(["-device", "virtio-serial-pci"]);
        for port in ["output", "heartbeat"] {
            command
                .arg("-chardev")
                .arg(format!("file,id={port},path={}", self.file(port).display()))
                .arg("-device")
                .arg(format!("virtserialport,chardev={port},name={port}"));
        }
        command
    }

    fn watch(&self, qemu: &mut Child) -> Outcome<Ended> {
        let mut heart = Pulse::new();
        let mut output = Pulse::new();
        let mut ticks_at_beat = 0;
        loop {
            if qemu.try_wait().tried(|| "cannot wait for QEMU".to_owned())?.is_some() {
                return Ok(self.kernel_fault().map_or(Ended::PoweredOff, Ended::Stuck));
            }
            if heart.beats(&self.file("heartbeat")) {
                ticks_at_beat = processor_ticks(qemu.id());
            }
            if output.beats(&self.file("output")) {
                let text = self.output();
                crate::progress::step(&format!("outer guest: {}", text.lines().last().unwrap_or_default()));
            }
            if heart.silent_for() > HEARTBEAT_LIMIT {
                let burnt = processor_ticks(qemu.id()).saturating_sub(ticks_at_beat);
                let text = format!(
                    "no heartbeat for {} s, {} s of processor time burnt meanwhile",
                    HEARTBEAT_LIMIT.as_secs(),
                    burnt.checked_div(100).unwrap_or(0)
                );
                return Ok(if burnt >= SPINNING_TICKS { Ended::Stuck(text) } else { Ended::Silent(text) });
            }
            if output.silent_for() > OUTPUT_LIMIT {
                let text = format!("the job wrote nothing for {} s", OUTPUT_LIMIT.as_secs());
                return Ok(Ended::Silent(text));
            }
            std::thread::sleep(INTERVAL);
        }
    }
}

/// When a file last grew.
struct Pulse {
    length: u64,
    since: Instant,
}

impl Pulse {
    fn new() -> Self {
        Self { length: 0, since: Instant::now() }
    }

    fn beats(&mut self, file: &Path) -> bool {
        let length = fs::metadata(file).map_or(0, |metadata| metadata.len());
        let grown = length > self.length;
        if grown {
            self.length = length;
            self.since = Instant::now();
        }
        grown
    }

    fn silent_for(&self) -> Duration {
        self.since.elapsed()
    }
}

/// User and system time of process `pid` in clock ticks; 0 if it is gone.
fn processor_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name, which may hold anything: state is field 3, utime 14, stime 15 (proc(5)).
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let times = fields.split_whitespace().skip(11).take(2);
    times.filter_map(|field| field.parse::<u64>().ok()).fold(0, u64::saturating_add)
}

fn kernel_command_line() -> String {
    // Landlock must be named: Debian's 6.1 has it built in and not switched on. The checks that the
    // kernel makes of timers and of its crypto cost seconds under emulation and tell us nothing. Processors that are idle
    // do not halt (idle=poll), and their tick goes on (nohz=off): machines have stood still with all of theirs halted and a
    // process of theirs about to run, as if the interrupt that says so had been lost. Nor has the emulator to wake a thread
    // of its own for each interrupt then, which it does more slowly than what the interrupt is for.
    let mut line = String::from(
        "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check mitigations=off nokaslr random.trust_cpu=on \
         cryptomgr.notests lsm=landlock,yama softlockup_panic=1 watchdog_thresh=60 nohz=off idle=poll",
    );
    if let Some(khz) = tsc_khz() {
        line.push_str(&format!(" tsc_early_khz={khz}"));
    }
    line
}

/// The rate of the host's time stamp counter, which QEMU shows to its guest, where it can be known:
/// without frequency scaling the processor's frequency is that of the counter.
fn tsc_khz() -> Option<u64> {
    if Path::new("/sys/devices/system/cpu/cpu0/cpufreq").exists() {
        return None;
    }
    let processor = fs::read_to_string("/proc/cpuinfo").ok()?;
    let megahertz = processor.lines().find_map(|line| line.strip_prefix("cpu MHz")?.split_once(':'))?.1;
    // "2599.998": three digits after the point make it kilohertz.
    megahertz.trim().replace('.', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_burns_ticks() {
        let before = processor_ticks(std::process::id());
        let mut number = 1_u64;
        while processor_ticks(std::process::id()) == before {
            for _ in 0..1_000_000 {
                number = std::hint::black_box(number.wrapping_mul(3));
            }
        }
        assert_eq!(processor_ticks(u32::MAX), 0);
    }

    #[test]
    fn a_pulse_is_growth() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("heartbeat");
        let mut pulse = Pulse::new();
        assert!(!pulse.beats(&file));
        fs::write(&file, "x").unwrap();
        assert!(pulse.beats(&file));
        assert!(!pulse.beats(&file));
    }
}
