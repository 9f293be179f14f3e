//! Every kind of death, and what the writer finds afterwards.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use sandbox_policies::spawn::Ended;

use crate::front_end::driver::Queue;
use crate::image::{SLOT, SLOTS};
use crate::launcher::{Launcher, Process, fault_points};
use crate::writer::{Random, Writer};

/// Deaths of a run that is not told otherwise: each fault point comes several times.
const DEATHS: u64 = 400;
/// Requests after which a fault point that was not passed is taken for one that never is.
const NEVER: u64 = 20_000;
/// The how manieth passing of a fault point is the last.
const TIMES: [u64; 5] = [1, 2, 3, 8, 21];

/// How a process is to die.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Death {
    Kill,
    Crash,
    StopThenKill,
    /// A policy violation, at this point.
    At(String),
}

impl Death {
    /// For a count by kind.
    fn kind(&self) -> &str {
        match self {
            Self::Kill => "SIGKILL",
            Self::Crash => "SIGSEGV",
            Self::StopThenKill => "SIGSTOP, then SIGKILL",
            Self::At(point) => point.split_once(':').unwrap().0,
        }
    }

    /// The signal that it shows as.
    fn shows_as(&self) -> i32 {
        match self {
            Self::Kill | Self::StopThenKill => 9,
            Self::Crash => 11,
            Self::At(_) => 31,
        }
    }
}

/// The deaths of a run, in turn: each second one is from outside, the others walk through the fault points.
fn deaths(count: u64) -> impl Iterator<Item = Death> {
    // Pid 1 of a namespace ignores a SIGSEGV that is sent to it, and only root may trace what is not dumpable.
    let crash = if nix::unistd::geteuid().is_root() { Death::Crash } else { Death::StopThenKill };
    let outside = [Death::Kill, crash, Death::Kill, Death::StopThenKill];
    let points: Vec<_> =
        TIMES.iter().flat_map(|times| fault_points().map(|point| at(point, *times))).collect();
    let pairs = points.into_iter().cycle().zip(outside.into_iter().cycle());
    pairs
        .flat_map(|(points, outside)| [outside].into_iter().chain(points))
        .take(usize::try_from(count).unwrap())
}

/// The deaths, one after the other, that it takes to die at `point`.
fn at(point: &str, times: u64) -> Vec<Death> {
    let one = |point: &str, times: u64| Death::At(format!("{point}:{times}"));
    match point {
        // Passed by the successor of one that died between the used index and its note.
        "amid-recovery" => vec![one("after-used-index", times), one(point, 1)],
        // Passed once for each queue.
        "before-recovery" | "after-recovery" => vec![one(point, 1 + times % 2)],
        _ => vec![one(point, times)],
    }
}

/// One process of the device, from its start to its death.
struct Life<'w> {
    writer: &'w mut Writer,
    random: &'w mut Random,
    process: Process,
}

impl Life<'_> {
    /// Serves until the process is dead. From outside it is killed after some completions and at any moment then.
    fn run(&mut self, death: &Death) -> Result<(), String> {
        let at_start = self.writer.completed;
        let from_outside = !matches!(death, Death::At(_));
        // Once in a while in the middle of its handshake.
        let mut left = from_outside.then(|| self.random.below(40));
        if left == Some(0) {
            self.strike(death)?;
            left = None;
        }
        // It may die in its handshake; that it did is seen below.
        let _ = self.writer.core.connect(&self.process.connection);
        loop {
            let completed = self.writer.complete()? as u64;
            self.writer.submit(self.random)?;
            left = left.map(|left| left.saturating_sub(completed));
            if left == Some(0) {
                self.strike(death)?;
                left = None;
            }
            if self.writer.completed - at_start > NEVER {
                return Err(format!("{NEVER} requests and it does not die"));
            }
            if self.wait()? {
                return Ok(());
            }
        }
    }

    fn strike(&mut self, death: &Death) -> Result<(), String> {
        for _ in 0..self.random.below(20_000) {
            std::hint::spin_loop();
        }
        match death {
            Death::Kill => self.process.signal(Signal::SIGKILL),
            Death::Crash => self.process.crash(),
            Death::StopThenKill => {
                self.process.stop();
                self.writer.submit(self.random)?;
                self.process.signal(Signal::SIGKILL);
            }
            Death::At(_) => {}
        }
        Ok(())
    }

    /// Waits for the next completion or the end of the process. Returns whether it has ended.
    fn wait(&self) -> Result<bool, String> {
        let queues = &self.writer.core.queues;
        // Both, always: each asks for a call.
        let quiet = queues.iter().filter(|queue| self.writer.core.memory.calls_for_next(queue)).count();
        let calls = queues.iter().map(|queue: &Queue| queue.call.as_fd());
        let mut fds: Vec<PollFd<'_>> = [self.process.pidfd()]
            .into_iter()
            .chain(calls)
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let timeout = if quiet == queues.len() { PollTimeout::from(60_000u16) } else { PollTimeout::ZERO };
        let ready = poll(&mut fds, timeout).unwrap();
        if ready == 0 && timeout != PollTimeout::ZERO {
            return Err("it stands still: no request came back for 60 s".to_owned());
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
        for (queue, _) in queues.iter().zip(&ready[1..]).filter(|(_, called)| **called) {
            queue.call.read().unwrap();
        }
        Ok(ready[0])
    }
}

/// One death and what is left of it.
fn survive(
    launcher: &Launcher,
    writer: &mut Writer,
    random: &mut Random,
    death: &Death,
) -> Result<(), String> {
    let point = if let Death::At(point) = death { Some(point.as_str()) } else { None };
    // Whoever is killed for no reason of its own has requests that are to blame for nothing.
    let process = launcher.start(point, false);
    let mut life = Life { writer, random, process };
    let lived = life.run(death);
    if lived.is_err() {
        life.process.signal(Signal::SIGKILL);
    }
    let (ended, log) = life.process.end();
    lived.map_err(|what| format!("{what}; its log: {log}"))?;
    if ended != Ended::Signaled(death.shows_as()) || !log.is_empty() {
        return Err(format!("ended as {ended:?}; its log: {log}"));
    }
    // What it did before it died counts, and nobody writes now.
    writer.complete()?;
    writer.verify_all(|_| true)
}

#[test]
fn no_death_loses_repeats_or_reorders_a_write() {
    let wanted = std::env::var("VMM_RECOVERY_DEATHS").map_or(DEATHS, |text| text.parse().expect("a number"));
    let disk = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    disk.as_file().set_len((SLOTS * SLOT) as u64).unwrap();
    let launcher = Launcher::new(disk.path());
    let mut writer = Writer::new(disk.reopen().unwrap());
    let seed = 0x9e37_79b9_7f4a_7c15;
    let mut random = Random(seed);
    let mut kinds = BTreeMap::new();
    for (number, death) in deaths(wanted).enumerate() {
        if let Err(what) = survive(&launcher, &mut writer, &mut random, &death) {
            panic!("death {number}, {death:?}: {what}");
        }
        *kinds.entry(death.kind().to_owned()).or_insert(0) += 1;
    }
    // The last one lives, and gives back all that is in flight.
    let life = Life { process: launcher.start(None, false), writer: &mut writer, random: &mut random };
    life.writer.core.connect(&life.process.connection).unwrap();
    while !life.writer.idle() {
        life.writer.complete().unwrap();
        if !life.writer.idle() {
            assert!(!life.wait().unwrap());
        }
    }
    assert_eq!(life.process.finish(), "");
    writer.verify_all(|_| true).unwrap();
    println!("{wanted} deaths, {} requests came back: {kinds:?}", writer.completed);
    assert!(writer.completed > wanted);
}
