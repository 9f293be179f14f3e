//! A stand-in for `vmm-core`, `device-blk` and, by `user_network`, others in the tests of supervision: it takes the hand-over
//! and then does what the first word of the kernel's command line says, or the disk's serial. It applies no confinement of its own and needs no
//! KVM.

#![expect(unsafe_code, reason = "the control channel is inherited, as descriptor 3")]

use std::fs::File;
use std::io::{IoSlice, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use protocol::{
    Abandon, Channel, Counter, Counters, DeviceLost, DeviceOptions, Exit, Failure, FailureKind, FromCore,
    FromDevice, Message, Phase, Ready, Reconnect, Reconnected, Refused, Replace, SetOutcome, Setting,
    Statistic, Statistics, ToCore, ToDevice, Violation, frame, limits,
};

use crate::user_network;

/// The programs for which this one stands in; passt is none of ours.
pub const NAMES: [&str; 4] = ["vmm-core", "device-blk", "device-net", "passt"];

/// The one amount that a stand-in takes.
const SET: u64 = 1 << 20;

/// Where a frame has the sender's minor version.
const MINOR_AT: usize = 5;

/// connect(9, 0x1000, 110)
const VIOLATION: Violation = Violation { call: 42, arguments: [9, 0x1000, 110, 0, 0, 0] };

/// Stands in, if the launcher spawned this program under one of the names.
pub fn run() -> Option<ExitCode> {
    let name = std::env::args().next().filter(|name| NAMES.contains(&name.as_str()))?;
    // It is for acts that wait for it, and comes when the launcher has said that all are ready.
    signal().thread_block().expect("a mask");
    // SAFETY: the launcher gave us descriptor 3, and nothing else in this program has touched it.
    let control = unsafe { OwnedFd::from_raw_fd(3) };
    if name == "passt" {
        return Some(user_network::passt(control.into()));
    }
    let control = Channel::from_fd(control).expect("descriptor 3 is the control channel");
    Some(match name.as_str() {
        "device-blk" => device(&control),
        "device-net" => user_network::device(&control),
        _ => core(control),
    })
}

/// By which a test says when to act.
fn signal() -> SigSet {
    SigSet::from(Signal::SIGUSR1)
}

/// A disk whose serial says what it does.
fn device(control: &Channel) -> ExitCode {
    let Some((ToDevice::Setup(setup), _fds)) = control.receive(Phase::HandOver).expect("a setup") else {
        return ExitCode::from(99);
    };
    let say = |message: FromDevice| control.send(&message, &[]).expect("the launcher listens");
    let ready = || say(FromDevice::Ready(Ready { landlock_abi: 0, lacking: Vec::new() }));
    let DeviceOptions::Blk(blk) = setup.options else { return ExitCode::from(98) };
    match blk.serial.as_str() {
        "exit-at-once" => return ExitCode::from(6),
        "abort-at-once" => std::process::abort(),
        "fail" => {
            let text = "the disk is no disk".to_owned();
            say(FromDevice::Failed(Failure { kind: FailureKind::Resource, text }));
            return ExitCode::from(3);
        }
        "die" => {
            ready();
            std::process::abort();
        }
        "exit" => {
            ready();
            return ExitCode::from(1);
        }
        act if act.ends_with("-unasked") => {
            ready();
            say(unasked(act));
        }
        act @ ("keep" | "lack-later") => {
            assert!(setup.keep, "the launcher has a keep for every device");
            take_up_the_keep(control, act);
        }
        "keep-twice" => (0..2).for_each(|_| say(FromDevice::Keeps)),
        "keep-late" => {
            ready();
            say(FromDevice::Keeps);
        }
        act if act.starts_with("raw-") => {
            ready();
            say_raw(control, act);
        }
        act if act.starts_with("refused") => {
            claim_a_refusal(act, ready, || say(FromDevice::Violation(VIOLATION)))
        }
        // Somebody else's message, by its number.
        "claim-to-be-core" => {
            ready();
            control.send(&FromCore::Exited(Exit::PowerOff), &[]).expect("the launcher listens");
        }
        "older" => return obey_as_an_older_one(control, 2),
        "of-minor-4" => return obey_as_an_older_one(control, 4),
        "ignore-stop" => {
            ready();
            std::thread::sleep(Duration::MAX);
        }
        _ => ready(),
    }
    obey(control, &blk.serial)
}

/// And is ready then; of "lack-later" later processes find that the host has become a poorer one.
fn take_up_the_keep(control: &Channel, act: &str) {
    control.send(&FromDevice::Keeps, &[]).expect("the launcher listens");
    let layer = format!("layer {}", count_in_keep(control).min(2));
    let lacking = if act == "keep" { Vec::new() } else { vec![layer] };
    let ready = FromDevice::Ready(Ready { landlock_abi: 0, lacking });
    control.send(&ready, &[]).expect("the launcher listens");
}

/// What is no message.
fn say_raw(control: &Channel, act: &str) {
    let keeps = frame::encode(FromDevice::Keeps.kind(), &[], 0).expect("a frame");
    let (bytes, fds) = match act {
        "raw-junk" => (vec![0xFF; 64], 0),
        "raw-byte" => (vec![0], 0),
        "raw-long" => (vec![0; limits::MAX_FRAME + 1], 0),
        "raw-cut" => (keeps.split_last().map(|(_, rest)| rest.to_vec()).unwrap_or_default(), 0),
        _ => (keeps, 253),
    };
    let fds = vec![control.as_fd().as_raw_fd(); fds];
    let rights = [ControlMessage::ScmRights(&fds)];
    let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
    let parts = [IoSlice::new(&bytes)];
    let raw = control.as_fd().as_raw_fd();
    match sendmsg::<()>(raw, &parts, rights, MsgFlags::empty(), None) {
        // The kernel keeps them from a launcher that takes none: the most that is left is to claim that there are some.
        Err(Errno::EPERM) if !fds.is_empty() => {
            let claim = frame::encode(FromDevice::Keeps.kind(), &[], fds.len()).expect("a frame");
            sendmsg::<()>(raw, &[IoSlice::new(&claim)], &[], MsgFlags::empty(), None)
        }
        sent => sent,
    }
    .expect("the launcher listens");
}

/// An answer to what nobody asked.
fn unasked(act: &str) -> FromDevice {
    match act {
        "set-unasked" => FromDevice::Set(SetOutcome::set()),
        "statistics-unasked" => FromDevice::Statistics(Statistics::Told(Vec::new())),
        _ => FromDevice::Counters(Counters { entries: Vec::new() }),
    }
}

/// Answers what it is asked, until it is told to stop.
pub fn obey(control: &Channel, act: &str) -> ExitCode {
    let say = |message: FromDevice| control.send(&message, &[]).expect("the launcher listens");
    while let Some((message, _)) = control.receive::<ToDevice>(Phase::Serving).expect("a message") {
        match message {
            ToDevice::Query => {
                let counters = Counters { entries: Vec::new() };
                control.send(&FromDevice::Counters(counters), &[]).expect("the launcher listens");
            }
            ToDevice::Set(_) if act == "set-and-die" => std::process::abort(),
            ToDevice::Set(setting) => say(FromDevice::Set(outcome(setting))),
            ToDevice::Statistics => match act {
                "ask-and-die" => std::process::abort(),
                "ask-in-vain" => say(FromDevice::Statistics(Statistics::refused("there is nobody to ask"))),
                _ => {
                    let statistics = [(4, 300 << 20), (77, 5)].map(|(tag, value)| Statistic { tag, value });
                    say(FromDevice::Statistics(Statistics::Told(statistics.to_vec())));
                }
            },
            ToDevice::Stop => {
                eprintln!("told to stop");
                break;
            }
            _ => {}
        }
    }
    ExitCode::SUCCESS
}

fn outcome(setting: Setting) -> SetOutcome {
    eprintln!("told of {setting:?}");
    match setting {
        Setting::Balloon(SET) | Setting::Mem(SET) | Setting::Disk(Some(_)) => SetOutcome::set(),
        Setting::Balloon(_) | Setting::Mem(_) => SetOutcome::refused("the stand-in does not like it"),
        _ => SetOutcome::refused("a stand-in\nwill not"),
    }
}

/// A device of this minor version, which has said so by its only frame and is not to be asked what it does not know.
fn obey_as_an_older_one(control: &Channel, minor: u8) -> ExitCode {
    let message = FromDevice::Ready(Ready { landlock_abi: 0, lacking: Vec::new() });
    let mut frame = frame::encode(message.kind(), &message.encode().expect("a body"), 0).expect("a frame");
    *frame.get_mut(MINOR_AT).expect("a header") = minor;
    nix::unistd::write(control, &frame).expect("the launcher listens");
    while let Some((message, _)) = control.receive::<ToDevice>(Phase::Serving).expect("a message") {
        match message {
            ToDevice::Query => eprintln!("asked"),
            ToDevice::Stop => break,
            ToDevice::Set(setting) => eprintln!("told of {setting:?}"),
            _ => {}
        }
    }
    ExitCode::SUCCESS
}

/// Says that it is about to die, and has no intention to.
fn claim_a_refusal(act: &str, ready: impl Fn(), claim: impl Fn()) {
    match act {
        "refused-at-once" => {}
        "refused-on-signal" => {
            ready();
            // By a call that the spawner does not list: this is for the first process of a device.
            signal().wait().expect("the signal");
        }
        _ => ready(),
    }
    claim();
    std::thread::sleep(Duration::MAX);
}

/// Counts the processes that had this keep before, and this one.
fn count_in_keep(control: &Channel) -> u8 {
    let answer = control.receive::<ToDevice>(Phase::HandOver).expect("an answer");
    let answer = answer.filter(|(message, _)| *message == ToDevice::Keep);
    let mut keep = answer.and_then(|(_, fds)| fds.into_iter().next()).map(File::from).expect("a keep");
    assert_eq!(keep.metadata().expect("a file").len(), limits::KEEP_SIZE as u64);
    let mut count = [0];
    // All processes have one position.
    keep.rewind().expect("its start");
    keep.read_exact(&mut count).expect("a page");
    count = count.map(|before| before.saturating_add(1));
    // By the calls that a device's filter has.
    keep.rewind().expect("its start");
    keep.write_all(&count).expect("a page");
    let [count] = count;
    eprintln!("process {count} of this device");
    count
}

/// What ends a core before it has said that it is ready.
fn before_it_is_ready(control: &Channel, act: &str) -> Option<ExitCode> {
    Some(ExitCode::from(match act {
        "exit-at-once" => 6,
        "abort-at-once" => std::process::abort(),
        "fail" => {
            let text = "cannot load the kernel: a stand-in\n\x1b[2Jcannot".to_owned();
            let failed = FromCore::Failed(Failure { kind: FailureKind::Kernel, text });
            control.send(&failed, &[]).expect("the launcher listens");
            4
        }
        // Until it is told to end.
        "never-ready" => {
            let told = control.receive::<ToCore>(Phase::Serving).expect("a word");
            if told.is_some() { 0 } else { 99 }
        }
        _ => return None,
    }))
}

fn core(control: Channel) -> ExitCode {
    let Some((ToCore::Setup(setup), fds)) = control.receive(Phase::HandOver).expect("a setup") else {
        return ExitCode::from(99);
    };
    let sockets = sockets(&control);
    let say = |message: FromCore| control.send(&message, &[]).expect("the launcher listens");
    let ready = || say(FromCore::Ready(Ready { landlock_abi: 0, lacking: Vec::new() }));
    let act = setup.command_line.split_whitespace().next().unwrap_or_default();
    if let Some(code) = before_it_is_ready(&control, act) {
        return code;
    }
    ready();
    match act {
        "counters-unasked" => {
            say(FromCore::Counters(Counters { entries: Vec::new() }));
            std::thread::sleep(Duration::MAX);
        }
        "ready-twice" => {
            ready();
            std::thread::sleep(Duration::MAX);
        }
        "hang-up" => {
            drop(OwnedFd::from(control));
            return ExitCode::from(0);
        }
        "die" => std::process::abort(),
        "flood" => {
            for number in 0..100_000 {
                eprintln!("\x1b[31mline {number} {}", "x".repeat(2000));
            }
            say(FromCore::Exited(Exit::PowerOff));
        }
        "power-off" => {
            eprintln!("given {} descriptors and {} sockets", fds.len(), sockets.len());
            say(FromCore::Exited(Exit::PowerOff));
        }
        "reset" => say(FromCore::Exited(Exit::Reset)),
        "crash" => say(FromCore::Exited(Exit::GuestCrash("triple fault".to_owned()))),
        "refused" => {
            say(FromCore::Violation(VIOLATION));
            std::thread::sleep(Duration::MAX);
        }
        "reconnected-unasked" => {
            say(FromCore::Reconnected(Reconnected { slot: 1 }));
            std::thread::sleep(Duration::MAX);
        }
        _ => {
            if front_ends(&control, sockets, act) {
                say(FromCore::Exited(Exit::PowerOff));
            }
        }
    }
    ExitCode::SUCCESS
}

/// The guest obeys its power button or not. Successors of devices are taken, or the first few are not.
fn front_ends(control: &Channel, sockets: Vec<Option<OwnedFd>>, act: &str) -> bool {
    let refused = if act == "refuse-twice" { 2 } else { 0 };
    let mut front_ends = FrontEnds {
        control,
        sockets,
        refused,
        lost: Vec::new(),
        choosy: act == "refuse-replacements",
        undecided: act == "never-choose" || act.ends_with("-late"),
        late: match act {
            "refuse-late" => Some(FromCore::Refused(Refused::new(1, "it is another device"))),
            "take-up-late" => Some(FromCore::Reconnected(Reconnected { slot: 1 })),
            _ => None,
        },
    };
    if act == "say-that-it-hangs" {
        signal().wait().expect("the signal");
        front_ends.give_up(1, DeviceLost { hung: true, ..DeviceLost::new(1, "it stands still") });
    }
    front_ends.serve(act != "ignore")
}

/// The vhost-user sockets that come until the word to start.
fn sockets(control: &Channel) -> Vec<Option<OwnedFd>> {
    let mut sockets = Vec::new();
    while let Some((message, fds)) = control.receive::<ToCore>(Phase::HandOver).expect("a message") {
        sockets.extend(fds.into_iter().map(Some));
        if message == ToCore::Start {
            break;
        }
    }
    sockets
}

/// A core without a guest: it sees back ends go and takes their successors.
struct FrontEnds<'a> {
    control: &'a Channel,
    /// By PCI device number less one.
    sockets: Vec<Option<OwnedFd>>,
    /// Successors that are lost at once.
    refused: u32,
    /// Their sockets.
    lost: Vec<OwnedFd>,
    /// Whether replacements are refused.
    choosy: bool,
    /// Whether it does not say which of two it has.
    undecided: bool,
    /// What it says of that when the device is given up.
    late: Option<FromCore>,
}

impl FrontEnds<'_> {
    /// Until told to stop, or, with the answer true, that the power button was pressed if that is obeyed.
    fn serve(mut self, obey: bool) -> bool {
        loop {
            let mut fds = vec![PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
            let sockets = self.sockets.iter().flatten();
            fds.extend(sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::empty())));
            poll(&mut fds, PollTimeout::NONE).expect("something happens");
            self.notice_losses();
            let mut now = [PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
            if poll(&mut now, PollTimeout::ZERO).expect("a look") == 0 {
                continue;
            }
            let message = self.control.receive::<ToCore>(Phase::Serving).expect("a message");
            match message {
                Some((ToCore::PowerButton, _)) if obey => return true,
                Some((ToCore::Stop, _)) | None => return false,
                Some((message, fds)) => self.obey(message, fds),
            }
        }
    }

    /// Says that a back end is lost which has not hung up.
    fn give_up(&mut self, slot: usize, lost: DeviceLost) {
        let place = self.sockets.get_mut(slot.saturating_sub(1)).expect("a device");
        self.lost.extend(place.take());
        self.say(FromCore::DeviceLost(lost));
    }

    fn obey(&mut self, message: ToCore, fds: Vec<OwnedFd>) {
        match message {
            ToCore::Query => {
                let entries = vec![Counter { name: "exits".to_owned(), value: 3 }];
                self.say(FromCore::Counters(Counters { entries }));
            }
            ToCore::Reconnect(Reconnect { slot }) => {
                let place = self.sockets.get_mut(usize::from(slot).saturating_sub(1)).expect("a device");
                assert!(place.is_none(), "a successor for one that was not lost");
                *place = fds.into_iter().next();
                if let Some(left) = self.refused.checked_sub(1) {
                    self.refused = left;
                    // Kept open: only its process's end ends it.
                    self.lost.extend(place.take());
                    self.say(FromCore::DeviceLost(DeviceLost::new(slot, "it is another device")));
                } else {
                    self.say(FromCore::Reconnected(Reconnected { slot }));
                }
            }
            ToCore::Replace(Replace { slot }) if self.undecided => {
                self.lost.extend(fds);
                eprintln!("slot {slot} has two to choose from");
            }
            ToCore::Replace(Replace { slot }) => {
                let place = self.sockets.get_mut(usize::from(slot).saturating_sub(1)).expect("a device");
                match fds.into_iter().next() {
                    Some(new) if !self.choosy => {
                        assert!(place.replace(new).is_some(), "a replacement for one that was lost");
                        self.say(FromCore::Reconnected(Reconnected { slot }));
                    }
                    new => {
                        self.lost.extend(new);
                        self.say(FromCore::Refused(Refused::new(slot, "it is another device")));
                    }
                }
            }
            ToCore::Abandon(Abandon { slot }) => {
                eprintln!("slot {slot} is given up");
                self.late.take().into_iter().for_each(|word| self.say(word));
            }
            _ => {}
        }
    }

    fn notice_losses(&mut self) {
        for (place, slot) in self.sockets.iter_mut().zip(1..) {
            let Some(socket) = place else { continue };
            let mut ends = [PollFd::new(socket.as_fd(), PollFlags::empty())];
            if poll(&mut ends, PollTimeout::ZERO).expect("a look") > 0 {
                *place = None;
                let lost = FromCore::DeviceLost(DeviceLost::new(slot, "it hung up"));
                self.control.send(&lost, &[]).expect("the launcher listens");
            }
        }
    }

    fn say(&self, message: FromCore) {
        self.control.send(&message, &[]).expect("the launcher listens");
    }
}
