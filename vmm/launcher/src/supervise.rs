//! The life of a machine after the hand-over: one event loop over signals, pidfds, control channels and logs.
//!
//! Invariants: the loop never blocks on a child; whatever a child says has the bounds of `protocol` or of
//! [`log_relay`]; the first cause of the end is the one that is reported; the loop returns when every child is reaped,
//! however the end came, and a child that does not end by itself is killed; what the spawner makes meanwhile is a child too.
//!
//! ```text
//! Starting ──all ready──▶ Running ──signal──▶ PowerButton
//!     └───────────── a verdict ─────────────────┴──▶ Ending ──grace over──▶ Killing
//! ```
//!
//! The end of a device's program is no verdict while the machine runs, unless the user said so: [`recovery`].

pub mod amounts;
mod cause;
mod clients;
mod device_event;
mod events;
mod journal;
pub mod log_relay;
mod messages;
mod recover;
mod recovery;
mod replace;
mod second;
mod settings;
mod signals;
pub mod silence;
mod statistics;
pub mod system_call;
mod verdict;
mod words;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sandbox_policies::{Program, Requirement};

use crate::error::Error;
use crate::exit_code::Code;
use crate::handover::Processes;
use crate::{report, terminal};
use cause::End;
pub use clients::Clients;
use events::{Event, Events};
pub use journal::Journal;
pub use recovery::Recovery;
pub use settings::Asker;
use signals::Asked;
pub use signals::Signals;
use silence::Looks;
use verdict::Verdict;

/// From the word to start until all are ready: a host with much to do and a large kernel have room in it.
const START: Duration = Duration::from_secs(60);
/// For the programs to end by themselves once the machine has ended: I/O in flight is finished in this time.
const GRACE: Duration = Duration::from_secs(5);
/// Milliseconds for whoever reads what we say to take how the machine ended.
const LAST_WORD: u16 = 1000;
/// For the spawner to hand over what it was making when all others had ended.
const LAST_ANSWER: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Running,
    /// The guest was asked to power off, because of this signal.
    PowerButton(u8),
    Ending,
    Killing,
}

/// The supervisor of one machine.
#[derive(Debug)]
pub struct Supervisor {
    processes: Processes,
    /// Devices by PCI device number less one.
    devices: Vec<Recovery>,
    journal: Journal,
    clients: Clients,
    signals: Signals,
    events: Events,
    /// Of the spawner: a process for this device, the one that is to serve it or the second one of this request.
    asked: VecDeque<(usize, Option<u64>)>,
    /// Second processes asked for so far.
    requests: u64,
    requirement: Requirement,
    /// That holds for ourselves, once we are confined.
    landlock_abi: u8,
    shutdown_timeout: Duration,
    state: State,
    deadline: Option<Instant>,
    verdict: Option<Verdict>,
    /// Whether the core owes an answer to `Query` of the user's.
    asked_counters: bool,
    /// The size of the terminal is not yet that of the console that has it.
    resized: bool,
    /// At whether devices answer.
    looks: Looks,
    /// How long the spawner is waited for when all others have ended.
    last_answer: Option<Instant>,
}

/// How the machine ended: the code, and a line for a person.
#[derive(Debug)]
pub struct Outcome {
    /// For the shell.
    pub code: Code,
    /// What to say, if anything.
    pub text: Option<String>,
}

impl Supervisor {
    /// Watches processes that have all they need.
    pub fn new(
        processes: Processes,
        devices: Vec<Recovery>,
        journal: Journal,
        clients: Clients,
        signals: Signals,
        requirement: Requirement,
        shutdown_timeout: Duration,
    ) -> Result<Supervisor, Error> {
        let events = Events::new(&signals, &processes)?;
        clients.watch(&events)?;
        Ok(Supervisor {
            processes,
            devices,
            journal,
            clients,
            signals,
            events,
            asked: VecDeque::new(),
            requests: 0,
            requirement,
            landlock_abi: 0,
            shutdown_timeout,
            state: State::Starting,
            deadline: after(START),
            verdict: None,
            asked_counters: false,
            // At first it has none.
            resized: true,
            looks: Looks::default(),
            last_answer: None,
        })
    }

    /// Runs until every child is gone.
    pub fn run(mut self) -> Result<Outcome, Error> {
        while !self.is_over() {
            let recovered = self.devices.iter().filter(|_| self.recovers());
            let deadlines = recovered.filter_map(Recovery::deadline).chain(self.deadline);
            let leaving =
                self.processes.all.iter().filter(|process| process.ended.is_none() && self.recovers());
            let deadlines = deadlines.chain(leaving.filter_map(|process| process.dismissed));
            let deadlines = deadlines.chain(self.looks.next().filter(|_| self.recovers()));
            let deadlines = deadlines.chain(self.last_answer);
            let events = self.events.wait(deadlines.min())?;
            events.into_iter().for_each(|event| self.on_event(event));
            if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                self.on_deadline();
            }
            self.carry_on();
            self.processes.bury();
            if self.recovers() {
                self.follow_terminal();
            }
        }
        report::wait_at_most(LAST_WORD);
        self.journal.close();
        let verdict = self.verdict.take();
        let verdict = verdict.unwrap_or(Verdict { code: Code::Internal, text: None, hearsay: false });
        Ok(Outcome { code: verdict.code, text: verdict.text })
    }

    /// Whether every child is gone. One that the spawner is still making would be left in its control group, and with its
    /// disk: it comes, and is killed.
    fn is_over(&mut self) -> bool {
        if self.processes.all.iter().any(|process| process.ended.is_none()) {
            return false;
        }
        self.last_answer = self.last_answer.or_else(|| after(LAST_ANSWER));
        self.asked.is_empty() || self.last_answer.is_some_and(|until| until <= Instant::now())
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Signal => {
                if let Some(asked) = self.signals.next() {
                    self.on_asked(asked);
                }
            }
            Event::Spawner => self.on_spawner(),
            Event::Listener => self.on_client(),
            Event::Client(client) => self.on_request(client),
            Event::Log(index) => {
                if let Some(process) = self.processes.all.get_mut(index)
                    && !process.log.relay()
                {
                    self.events.forget(&process.log);
                }
            }
            Event::Control(index) => self.read_messages(index),
            Event::Ended(index) => self.on_ended(index),
            Event::UserNetwork(index) => self.on_user_network(index),
        }
    }

    /// The guest's link is down when its network ends; the device sees it, and nothing else hangs on it. A network that ends
    /// before the guest runs is one that could not be had.
    fn on_user_network(&mut self, index: usize) {
        let Some(network) = self.processes.user_networks.get_mut(index) else { return };
        if !network.relay() {
            self.events.forget(&network.log);
        }
        let how = match network.ended() {
            Ok(None) => return,
            Ok(Some(ended)) => verdict::describe(End::of(ended, None)),
            Err(error) => error.to_string(),
        };
        self.events.forget(&network.child);
        self.events.forget(&network.log);
        let device = network.device.clone();
        match self.state {
            State::Starting => self.fail(&Error::NoUserNetwork { device, how }),
            State::Ending | State::Killing => {}
            _ => report::say(&format!("device {device} has no network any more: {how}")),
        }
    }

    fn on_asked(&mut self, asked: Asked) {
        match (asked, self.state) {
            (Asked::Resize, _) => self.resized = true,
            (Asked::Counters, State::Running | State::PowerButton(_)) => self.ask_counters(),
            (Asked::Counters, _) | (_, State::Killing) => {}
            (Asked::End(signal), State::Running) => self.press_power_button(signal),
            (Asked::End(signal), State::PowerButton(_)) => {
                self.conclude(verdict::of_signal(signal, "it came while the guest was powering off"));
                self.kill();
            }
            (Asked::End(signal) | Asked::EndNow(signal), _) => {
                self.conclude(verdict::of_signal(signal, "the machine is killed"));
                self.kill();
            }
        }
    }

    fn on_ended(&mut self, index: usize) {
        let Some(process) = self.processes.all.get_mut(index) else { return };
        let ended = match process.child.try_wait() {
            Ok(Some(ended)) => ended,
            Ok(None) => return,
            Err(error) => return self.fail(&error.into()),
        };
        self.events.forget(&process.child);
        self.events.forget(&process.log);
        process.ended = Some(ended);
        process.log.relay_rest();
        // Its last message is why it ended.
        self.read_messages(index);
        self.set_no_more(index);
        self.ask_no_more(index);
        self.amount_no_more(index);
        let said = self.processes.all.get(index).and_then(|process| process.refused);
        let end = End::of(ended, said);
        if let Some(device) = self.second(index) {
            return self.on_second_ended(device, end);
        }
        let Some(process) = self.processes.all.get(index) else { return };
        // Once the end has begun, to end well is what is asked of all; a death is still told from it.
        let unasked = match self.state {
            State::Killing => false,
            _ if process.dismissed.is_some() => false,
            State::Ending => end != End::Exited(0),
            _ => true,
        };
        if unasked {
            let verdict = verdict::of_end(&process.name, process.program, end, process.ready.is_some());
            self.on_death(index, verdict, end);
        }
    }

    fn on_deadline(&mut self) {
        match self.state {
            State::Starting => {
                let late = self.processes.all.iter().find(|process| process.ready.is_none());
                if let Some(late) = late {
                    let verdict = verdict::of_silence(&late.name, late.program, START.as_secs());
                    self.conclude(verdict);
                }
            }
            State::PowerButton(signal) => {
                let seconds = self.shutdown_timeout.as_secs();
                let why = format!("the guest did not power off within {seconds} s of its power button");
                self.conclude(verdict::of_signal(signal, &why));
            }
            State::Running | State::Ending | State::Killing => {}
        }
        self.kill();
    }

    /// All programs are ready and the guest is about to run: from here on we need no file any more.
    fn on_ready(&mut self) {
        if self.state != State::Starting || self.processes.all.iter().any(|process| process.ready.is_none()) {
            return;
        }
        let confined = report::confinement(&self.processes.all);
        let groups = &self.processes.groups;
        match sandbox_policies::confine_launcher(self.requirement, groups.directory()) {
            Ok(ours) => {
                // Confinement has set a hook of its own, which ends the process without a look at the terminal.
                terminal::restore_on_panic();
                let abi = ours.landlock_abi;
                self.landlock_abi = abi;
                report::say(&format!("{confined}, vmm (seccomp, landlock ABI {abi}), {groups}"));
                report::lacking(&self.processes.all, &ours).iter().for_each(|line| report::say(line));
                for device in &mut self.devices {
                    let process = device.process.and_then(|index| self.processes.all.get(index));
                    device.lacking = process.map(report::lacking_of).unwrap_or_default();
                }
                self.state = State::Running;
                self.deadline = None;
                report::wait_at_most(0);
            }
            Err(error) => self.fail(&error.into()),
        }
    }

    fn press_power_button(&mut self, signal: u8) {
        // Should the core not take it, the time limit ends it.
        let _ = self.tell_core(&protocol::ToCore::PowerButton, &[]);
        self.state = State::PowerButton(signal);
        self.deadline = after(self.shutdown_timeout);
    }

    fn ask_counters(&mut self) {
        self.asked_counters = self.asked_counters || self.tell_core(&protocol::ToCore::Query, &[]).is_ok();
    }

    fn fail(&mut self, error: &Error) {
        self.conclude(verdict::ours(error));
        self.kill();
    }

    /// Takes note of why the machine ends, and asks all programs to end.
    fn conclude(&mut self, verdict: Verdict) {
        if self.verdict.as_ref().is_none_or(|earlier| verdict.replaces(earlier)) {
            self.verdict = Some(verdict);
        }
        if matches!(self.state, State::Ending | State::Killing) {
            return;
        }
        self.state = State::Ending;
        self.deadline = after(GRACE);
        self.tell_all_to_stop();
    }

    fn kill(&mut self) {
        if self.state == State::Ending {
            let left = self.processes.all.iter().filter(|process| process.ended.is_none());
            let names: Vec<&str> = left.map(|process| process.name.as_str()).collect();
            if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) && !names.is_empty() {
                report::say(&format!(
                    "{} did not stop within {} s; killed",
                    names.join(", "),
                    GRACE.as_secs()
                ));
            }
        }
        self.state = State::Killing;
        self.deadline = None;
        let left = self.processes.all.iter().filter(|process| process.ended.is_none());
        for process in left {
            // It can fail only for one that is dead, whose end is an event of its own.
            let _ = process.child.kill();
        }
    }

    fn core(&self) -> Option<usize> {
        self.processes.all.iter().position(|process| process.program == Program::Core)
    }
}

fn after(time: Duration) -> Option<Instant> {
    // A time limit beyond the clock is none.
    Instant::now().checked_add(time)
}
