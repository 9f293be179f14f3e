//! How long a disk is away when its program dies, natively and without a guest: the real launcher, the real `device-blk` in
//! full confinement, and a stand-in for the core that keeps requests in flight.
//!
//! The time is from the kill to the first request that comes back afterwards. In the same run, in turn with the deaths, the
//! same program is spawned in the same confinement and timed until it is ready: what a recovery can hardly be quicker than.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::{BlkOptions, DeviceOptions, DeviceSetup, FromDevice, Phase, Rates, ToDevice};
use system_tests::spawned::Spawned;
use system_tests::stand_ins::{StandIns, monotonic};
use system_tests::{Error, Result, Running, program};

/// Requests in flight.
const DEPTH: u16 = 8;
/// A program must have served for more than a second, or its death counts with the one before.
const SETTLED: Duration = Duration::from_millis(1100);

/// A machine whose disk dies and is followed.
struct Disk {
    stand_ins: StandIns,
    running: Running,
    deaths: usize,
    away: Vec<u64>,
}

impl Disk {
    fn start(stand_in: &Path, options: &str) -> Result<Self> {
        let stand_ins = StandIns::of(stand_in, &["vmm-core"])?;
        let running = stand_ins.start(&format!("drive {DEPTH}"), 1 << 20, options)?;
        times(&running, 1)?;
        Ok(Self { stand_ins, running, deaths: 0, away: Vec::new() })
    }

    /// Kills the process that serves, and notes how long until a request comes back.
    fn kill(&mut self) -> Result<()> {
        let victim = self.serving()?;
        let died = monotonic()?;
        kill(Pid::from_raw(victim), Signal::SIGKILL)
            .map_err(|errno| Error::Unexpected(format!("cannot kill device-blk: {errno}")))?;
        self.deaths = self.deaths.saturating_add(1);
        let back = times(&self.running, self.deaths.saturating_add(1))?;
        self.away.push(back.saturating_sub(died));
        Ok(())
    }

    /// Which process that is: a spare is one of `vmm`'s children, too.
    fn serving(&self) -> Result<i32> {
        let word = if self.deaths == 0 { "confined: device-blk blk0 (pid " } else { "serves again (pid " };
        let pid = self.running.wait_for_log("which process serves", |log| {
            let whole = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            let mut found = whole.filter_map(|line| line.split_once(word));
            let (_, pid) = found.nth(self.deaths.saturating_sub(1))?;
            Some(pid.chars().take_while(char::is_ascii_digit).collect::<String>())
        })?;
        pid.parse().map_err(|_| Error::Unexpected(format!("{pid}: no pid")))
    }

    /// Ends the machine; all deaths were ours, and all were followed.
    fn end(mut self) -> Result<Vec<u64>> {
        self.running.signal(Signal::SIGTERM)?;
        let ended = self.running.wait()?;
        let died = ended.log.matches(" died: killed by SIGKILL").count();
        if ended.code() != Some(0) || died != self.deaths {
            return Err(Error::Unexpected(ended.everything()));
        }
        Ok(std::mem::take(&mut self.away))
    }
}

/// Kills so often, and prints the distributions.
pub fn recovery(stand_in: &Path, deaths: usize) -> Result<()> {
    let mut plain = Disk::start(stand_in, "")?;
    let mut spared = Disk::start(stand_in, ",spare=on")?;
    let mut spawned = Vec::new();
    for _ in 0..deaths {
        let settled = Instant::now();
        spawned.push(spawn_to_ready(&plain.stand_ins)?);
        std::thread::sleep(SETTLED.saturating_sub(settled.elapsed()));
        plain.kill()?;
        spared.kill()?;
    }
    println!("device-blk killed {deaths} times with {DEPTH} reads in flight; milliseconds");
    println!("                               min   median      p90      p99      max");
    let recovery = row("kill to next completed request", &mut plain.end()?);
    let with_spare = row("the same with a spare         ", &mut spared.end()?);
    let reference = row("spawn to ready, for reference ", &mut spawned);
    println!("ratios of the medians to the last: {:.2}, {:.2}", recovery / reference, with_spare / reference);
    Ok(())
}

/// Waits for the console's line of this number, from 1: when the first request came back.
fn times(running: &Running, number: usize) -> Result<u64> {
    let line = running.wait_for_console("a request that comes back", |console| {
        let mut lines = console.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.nth(number.saturating_sub(1)).map(|line| line.trim().to_owned())
    })?;
    line.parse().map_err(|_| Error::Unexpected(format!("{line}: no time")))
}

/// Nanoseconds from before the spawn until the program says that it is ready.
fn spawn_to_ready(stand_ins: &StandIns) -> Result<u64> {
    let disk = std::fs::File::options()
        .read(true)
        .write(true)
        .open(stand_ins.file("disk.raw"))
        .map_err(|source| Error::System { what: "cannot open the disk".to_owned(), source })?;
    let (_ours, theirs) = UnixStream::pair()
        .map_err(|source| Error::System { what: "cannot make a socket".to_owned(), source })?;
    let wrong = |error: protocol::Error| Error::Unexpected(error.to_string());
    let options = BlkOptions {
        readonly: false,
        direct: false,
        serial: String::new(),
        queues: 1,
        queue_size: 256,
        discard: true,
        backing: Vec::new(),
    };
    let setup = DeviceSetup {
        name: "blk0".to_owned(),
        options: DeviceOptions::Blk(options),
        blamed: false,
        keep: false,
        rates: Rates::default(),
    };
    let program = program("device-blk")?;
    let started = monotonic()?;
    let device = Spawned::start(&program, "device-blk")?;
    device.control.send(&ToDevice::Setup(setup), &[theirs.as_fd(), disk.as_fd()]).map_err(wrong)?;
    let answer = device.control.receive::<FromDevice>(Phase::HandOver).map_err(wrong)?;
    let ready = monotonic()?;
    match answer {
        Some((FromDevice::Ready(_), _)) => Ok(ready.saturating_sub(started)),
        other => Err(Error::Unexpected(format!("device-blk answered {other:?}"))),
    }
}

/// Prints a distribution of nanoseconds in milliseconds; returns its median.
fn row(name: &str, values: &mut [u64]) -> f64 {
    values.sort_unstable();
    let count = values.len();
    // Nearest rank: so many in a hundred are no longer than this one.
    let at = |percent: usize| {
        let place = count.saturating_mul(percent).div_ceil(100).saturating_sub(1);
        let nanoseconds = values.get(place).copied().unwrap_or_default();
        Duration::from_nanos(nanoseconds).as_secs_f64() * 1000.0
    };
    let [least, median, p90, p99, most] = [0, 50, 90, 99, 100].map(at);
    println!("{name} {least:8.2} {median:8.2} {p90:8.2} {p99:8.2} {most:8.2}");
    median
}
