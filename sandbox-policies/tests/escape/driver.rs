//! Spawns a probe for each attempt, and judges what became of both.

use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use nix::unistd::{ftruncate, pipe2, read};
use sandbox_policies::spawn::{Child, Ended, Identity, Plan, spawn};
use sandbox_policies::{Directory, Program, Requirement, Root, Stage};

use crate::Count;
use crate::attempts::{self, Attempt, Hand};
use crate::probe::{self, word};

/// The confinements that attempts are made in.
const CONFINEMENTS: [(Program, Stage); 34] = [
    (Program::Launcher, Stage::Serve),
    (Program::Core, Stage::Setup),
    (Program::DeviceBlk, Stage::Setup),
    (Program::DeviceBlkQcow2, Stage::Setup),
    (Program::DeviceRng, Stage::Setup),
    (Program::DeviceNet, Stage::Setup),
    (Program::DeviceConsole, Stage::Setup),
    (Program::DevicePmem, Stage::Setup),
    (Program::DeviceBalloon, Stage::Setup),
    (Program::DeviceFs, Stage::Setup),
    (Program::DeviceVsock, Stage::Setup),
    (Program::DeviceMem, Stage::Setup),
    (Program::Core, Stage::Control),
    (Program::Core, Stage::Vcpu),
    (Program::DeviceBlk, Stage::Serve),
    (Program::DeviceBlk, Stage::StandAlone),
    (Program::DeviceBlkQcow2, Stage::Serve),
    (Program::DeviceBlkQcow2, Stage::StandAlone),
    (Program::DeviceRng, Stage::Serve),
    (Program::DeviceRng, Stage::StandAlone),
    (Program::DeviceNet, Stage::Serve),
    (Program::DeviceNet, Stage::StandAlone),
    (Program::DeviceConsole, Stage::Serve),
    (Program::DeviceConsole, Stage::StandAlone),
    (Program::DevicePmem, Stage::Serve),
    (Program::DevicePmem, Stage::StandAlone),
    (Program::DeviceBalloon, Stage::Serve),
    (Program::DeviceBalloon, Stage::StandAlone),
    (Program::DeviceFs, Stage::Serve),
    (Program::DeviceFs, Stage::StandAlone),
    (Program::DeviceVsock, Stage::Serve),
    (Program::DeviceVsock, Stage::StandAlone),
    (Program::DeviceMem, Stage::Serve),
    (Program::DeviceMem, Stage::StandAlone),
];

/// `SIGSYS`, which ends a process whose system call was refused.
const SIGSYS: i32 = 31;

/// The attempt that a filter refuses because of where it enters the kernel: nobody tells of that.
const OTHER_ENTRY: &str = "32-bit call, int 0x80";

/// Bytes of a refused call as it is told: its number and six arguments.
const CALL: usize = 4 + 6 * 8;

/// Whether this program says in this stage which of its calls was refused.
fn tells(program: Program, stage: Stage) -> bool {
    program != Program::Launcher && stage != Stage::StandAlone
}

/// A probe and the driver's ends of its descriptors.
pub struct Probe {
    /// The process.
    pub child: Child,
    /// The driver's end of its control channel.
    pub control: OwnedFd,
    /// Who it is outside.
    pub identity: Identity,
    /// The driver's end of its log.
    pub log: OwnedFd,
    /// What it has as its root, if that is not empty.
    _folder: Option<tempfile::TempDir>,
}

impl Probe {
    /// Spawns a probe and hands it guest memory.
    pub fn start(
        program: Program,
        stage: Stage,
        task: &str,
        requirement: Requirement,
    ) -> Result<Self, String> {
        let text = |step: &'static str| move |error: nix::Error| format!("{step}: {error}");
        let executable = File::open("/proc/self/exe").map_err(|error| error.to_string())?;
        let null =
            File::options().read(true).write(true).open("/dev/null").map_err(|error| error.to_string())?;
        let (log, log_end) = pipe2(OFlag::O_CLOEXEC).map_err(text("pipe"))?;
        let (control, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(text("socketpair"))?;
        let identity = Identity::for_child(1);
        let folder = (program.root() != Root::Empty).then(tempfile::tempdir).transpose();
        let folder = folder.map_err(|error| error.to_string())?;
        let root = folder.as_ref().map(|folder| File::open(folder.path())).transpose();
        let root = root.map_err(|error| error.to_string())?;
        let child = spawn(&Plan {
            program: executable.as_fd(),
            name: probe::NAME,
            arguments: &[program.name(), stage.key(), task, &requirement.to_string()],
            log: log_end.as_fd(),
            control: theirs.as_fd(),
            null: null.as_fd(),
            identity,
            requirement,
            directory: root.as_ref().map(|root| Directory { descriptor: root.as_fd(), readonly: false }),
            group: None,
        })
        .map_err(|error| error.to_string())?;

        hand_memory(&control, true).map_err(text("hand memory over"))?;
        Ok(Self { child, control, identity, log, _folder: folder })
    }

    /// The next packet; empty when the probe has ended.
    pub fn hear(&self) -> Vec<u8> {
        hear(&self.control)
    }

    /// Waits until it is in its serving stage.
    pub fn confined(&mut self) -> Result<(), String> {
        match self.hear().split_first() {
            Some((&word::CONFINED, _)) => Ok(()),
            Some((_, text)) => Err(format!("not confined: {}", String::from_utf8_lossy(text))),
            None => Err(format!("died before its stage two: {:?}", self.child.wait())),
        }
    }
}

/// The next packet on this channel; empty at its end.
pub fn hear(control: &OwnedFd) -> Vec<u8> {
    let mut packet = [0; 512];
    let length = read(control, &mut packet).unwrap_or(0);
    packet.get(..length).unwrap_or(&[]).to_vec()
}

/// Sends guest memory, sealed as a launcher seals it or not at all.
pub fn hand_memory(control: &OwnedFd, sealed: bool) -> nix::Result<()> {
    let memory = memfd_create(c"guest", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    ftruncate(&memory, Hand::SIZE.cast_signed())?;
    if sealed {
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&memory, FcntlArg::F_ADD_SEALS(seals))?;
    }
    let fds = [memory.as_raw_fd()];
    let (parts, bytes) = ([ControlMessage::ScmRights(&fds)], [std::io::IoSlice::new(b"h")]);
    // A probe that is gone is found out when it is asked.
    sendmsg::<()>(control.as_raw_fd(), &bytes, &parts, MsgFlags::MSG_NOSIGNAL, None).ok();
    Ok(())
}

/// Makes all attempts in all confinements; prints a row for each attempt.
pub fn each_escape_is_refused_in_each_confinement(who: &str) -> Result<Count, String> {
    let mut count = Count::default();
    for (index, attempt) in attempts::all().enumerate() {
        let mut row = format!("{who} {:<24} {:<44}", attempt.row, attempt.name);
        for (program, stage) in CONFINEMENTS {
            let outcome = judge(program, stage, index);
            let shown = outcome.as_ref().map_or("ESCAPED", |how| how.as_str());
            write!(row, " {shown}").map_err(|error| error.to_string())?;
            count.add(
                &format!("{who} {} {} {}", program.name(), stage.key(), name(attempt)),
                outcome.map(drop),
            );
        }
        println!("{row}");
    }
    Ok(count)
}

fn name(attempt: &Attempt) -> String {
    format!("{}: {}", attempt.row, attempt.name)
}

/// How one attempt was refused; an error when it was not, or when the probe never stood in its confinement.
fn judge(program: Program, stage: Stage, index: usize) -> Result<String, String> {
    let mut probe = Probe::start(program, stage, &index.to_string(), Requirement::Required)?;
    probe.confined()?;
    let answer = probe.hear();
    let ended = probe.child.wait().map_err(|error| error.to_string())?;
    let tells = tells(program, stage)
        && attempts::all().nth(index).is_some_and(|attempt| attempt.name != OTHER_ENTRY);
    match (answer.split_first(), ended) {
        (None, Ended::Signaled(SIGSYS)) if !tells => Ok("SIGSYS".to_owned()),
        (Some((&word::TOLD, call)), Ended::Signaled(SIGSYS)) if tells => match call.split_last() {
            Some((&word::END, call)) if call.len() == CALL => Ok("SIGSYS, told".to_owned()),
            _ => Err(format!("it told {call:?}")),
        },
        (Some((&word::REFUSED, number)), Ended::Exited(0)) => {
            let number = number.try_into().map(i32::from_le_bytes).unwrap_or(0);
            Ok(format!("{:?}", nix::errno::Errno::from_raw(number)))
        }
        (Some((&word::ESCAPED, _)), _) => Err("it got through".to_owned()),
        (answer, ended) => Err(format!("answer {answer:?}, ended {ended:?}")),
    }
}
