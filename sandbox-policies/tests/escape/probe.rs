//! The taken-over process: goes the way of a real program (stage one, hand-over, stage two), then makes one
//! attempt.
//!
//! It tells the driver by the control channel: that it is confined, and what the attempt came to, if it lives
//! to say so.

use std::convert::Infallible;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Barrier};
use std::thread;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::{ftruncate, write};
use sandbox_policies::{
    LastWord, Program, Requirement, Stage, confine_launcher, end_process, limit_processes, stage_one,
    stage_two,
};

use crate::attempts::{self, Hand};
use crate::raw::{Answer, call, own};

/// Argument 0 of a probe.
pub const NAME: &str = "escape-probe";

/// What a probe is to do instead of an attempt: enter stage two on all its threads and wait to be looked at.
pub const POSE: &str = "pose";

/// What a probe is to do instead of an attempt: panic.
pub const PANIC: &str = "panic";

/// What a probe is to do instead of an attempt: make and seal an in-flight region, which is allowed while
/// setting up.
pub const INFLIGHT: &str = "in-flight";

/// The first byte of each packet that the driver hears.
pub mod word {
    /// Stage one refused; its error follows.
    pub const UNCONFINED: u8 = b'u';
    /// The serving filter holds; the landlock ABI follows.
    pub const CONFINED: u8 = b'c';
    /// The attempt got through.
    pub const ESCAPED: u8 = b'e';
    /// The attempt was answered by an error; its number follows.
    pub const REFUSED: u8 = b'r';
    /// The policy refused the attempt: the call's number and its arguments follow, and [`END`].
    pub const TOLD: u8 = b't';
    /// The last byte of the above.
    pub const END: u8 = b'.';
}

/// Runs a probe: arguments are the program, the stage, and the number of the attempt or [`POSE`].
pub fn run(arguments: &[String]) -> ! {
    let control = own(3);
    let outcome = confined(arguments, &control);
    if let Err(error) = outcome {
        eprintln!("{error}");
        say(&control, word::UNCONFINED, error.as_bytes());
        end_process(1);
    }
    end_process(0)
}

fn confined(arguments: &[String], control: &OwnedFd) -> Result<(), String> {
    let [_, program, stage, task, rest @ ..] = arguments else { return Err("too few arguments".to_owned()) };
    let program = *Program::ALL.iter().find(|it| it.name() == program).ok_or("which program?")?;
    let stage = *program.stages().iter().find(|it| it.key() == stage).ok_or("which stage?")?;
    let requirement = rest.first().and_then(|word| word.parse().ok()).unwrap_or(Requirement::Required);
    if program == Program::Launcher {
        // Nobody spawns a launcher in earnest; here it stands in throw-away namespaces, and confines itself.
        let hand = hand_over(control)?;
        let report = confine_launcher(requirement, None).map_err(|error| error.to_string())?;
        return make(task, &hand, report.landlock_abi, control);
    }
    let last_word = LastWord { before: vec![word::TOLD], after: vec![word::END] };
    let report = stage_one(program, requirement, last_word).map_err(|error| error.to_string())?;
    let hand = hand_over(control)?;
    if task == POSE {
        return pose(program, stage, report.landlock_abi, control).map(drop);
    }
    limit_processes().map_err(|error| error.to_string())?;
    if stage != Stage::Setup {
        stage_two(program, stage).map_err(|error| error.to_string())?;
    }
    make(task, &hand, report.landlock_abi, control)
}

/// Makes the attempt that `task` numbers, and says what came of it.
pub fn make(task: &str, hand: &Hand, landlock_abi: u8, control: &OwnedFd) -> Result<(), String> {
    say(control, word::CONFINED, &[landlock_abi]);
    assert!(task != PANIC, "on purpose");
    let answer = if task == INFLIGHT {
        in_flight_region().map_err(|error| error.to_string())?
    } else {
        let attempt =
            task.parse().ok().and_then(|index| attempts::all().nth(index)).ok_or("which attempt?")?;
        (attempt.make)(hand)
    };
    match answer {
        Ok(_) => say(control, word::ESCAPED, &[]),
        Err(errno) => say(control, word::REFUSED, &(errno as i32).to_le_bytes()),
    }
    Ok(())
}

/// As the core and the back ends do it.
fn in_flight_region() -> nix::Result<Answer> {
    let region = memfd_create(c"in-flight", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    ftruncate(&region, 1 << 20)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    Ok(fcntl(&region, FcntlArg::F_ADD_SEALS(seals)).map(i64::from))
}

/// What a device is given and a core has: a memfd, mapped shared, to read and to write.
pub fn hand_over(control: &OwnedFd) -> Result<Hand, String> {
    let mut byte = [0];
    let mut space = nix::cmsg_space!(i32);
    let mut pieces = [IoSliceMut::new(&mut byte)];
    let message =
        recvmsg::<()>(control.as_raw_fd(), &mut pieces, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
            .map_err(|errno| format!("hand-over: {errno}"))?;
    let memory = message
        .cmsgs()
        .map_err(|errno| errno.to_string())?
        .find_map(|part| match part {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        })
        .ok_or("hand-over: no memory")?;
    let mapped = |fd: u64, flags: i32| {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, u64::from(flags.unsigned_abs()));
        call(libc::SYS_mmap, [0, Hand::SIZE, u64::from(protection.unsigned_abs()), flags, fd, 0])
            .map(i64::cast_unsigned)
            .map_err(|errno| format!("map: {errno}"))
    };
    Ok(Hand {
        memory_fd: u64::from(memory.unsigned_abs()),
        memory: mapped(u64::from(memory.unsigned_abs()), libc::MAP_SHARED)?,
        page: mapped(u64::MAX, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)?,
    })
}

/// All threads of the program enter their stage two, then wait until the driver has seen enough.
fn pose(program: Program, stage: Stage, landlock_abi: u8, control: &OwnedFd) -> Result<Infallible, String> {
    let text = |error: sandbox_policies::Error| error.to_string();
    let steps = Arc::new(Barrier::new(2));
    if program == Program::Core {
        let steps = steps.clone();
        thread::spawn(move || vcpu(&steps));
    }
    limit_processes().map_err(text)?;
    if program == Program::Core {
        steps.wait();
    }
    stage_two(program, stage).map_err(text)?;
    say(control, word::CONFINED, &[landlock_abi]);
    // Until the driver kills it: a futex is in every serving list.
    loop {
        thread::park();
    }
}

/// The core's other kind of thread.
fn vcpu(confined: &Barrier) -> ! {
    if let Err(error) = stage_two(Program::Core, Stage::Vcpu) {
        eprintln!("{error}");
        end_process(1);
    }
    confined.wait();
    loop {
        thread::park();
    }
}

fn say(control: &OwnedFd, word: u8, rest: &[u8]) {
    let packet: Vec<u8> = [word].iter().chain(rest).copied().collect();
    // A driver that is gone needs no answer.
    write(control, &packet).ok();
}
