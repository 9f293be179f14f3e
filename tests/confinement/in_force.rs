//! The filters that live processes stand under, read back from the kernel and compared with the policies, instruction by
//! instruction: what a posture's count of filters cannot say.
//!
//! Root may read them, of a kernel with CONFIG_CHECKPOINT_RESTORE, through ptrace(2): the thread stops for as long.
#![expect(
    unsafe_code,
    reason = "PTRACE_SECCOMP_GET_FILTER writes through a pointer, and no safe library has it"
)]

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use sandbox_policies::{Program, Stage, policy, posture};
use system_tests::{Result, within};

use crate::driver::DONE;
use crate::expectations::KERNEL_THREAD;
use crate::guest::Guest;
use crate::house::{House, Who};
use crate::moments::{program_among, spawner};

/// `ptrace.h`'s, of Linux 4.4 and later.
const GET_FILTER: u32 = 0x420c;

/// The longest filter: BPF_MAXINSNS.
const LONGEST: usize = 4096;

/// `BPF_JMP | BPF_JEQ | BPF_K` with the number of clone3, of which the next instruction is skipped if it is another.
const IF_CLONE3: Instruction = [0x15, 0, 0, 1, 0xB3, 1, 0, 0];
/// `BPF_RET | BPF_K` with SECCOMP_RET_ERRNO and ENOSYS.
const ENOSYS: Instruction = [6, 0, 0, 0, 38, 0, 5, 0];

/// What the kernel writes for one instruction, `struct sock_filter`.
type Instruction = [u8; 8];

/// Filter number `index` of a stopped thread, 0 being the first that it got; `None`: it has no more.
fn filter(thread: Pid, index: usize) -> nix::Result<Option<Vec<Instruction>>> {
    let mut room = vec![Instruction::default(); LONGEST];
    // SAFETY: the kernel writes at most BPF_MAXINSNS instructions of 8 bytes, and refuses to install longer filters; `room`
    // has place for as many, and nobody else uses it meanwhile.
    let count = Errno::result(unsafe { libc::ptrace(GET_FILTER, thread.as_raw(), index, room.as_mut_ptr()) });
    match count {
        Ok(count) => {
            room.truncate(usize::try_from(count).expect("a number of instructions"));
            Ok(Some(room))
        }
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// All filters of a live thread, in the order in which it got them.
fn filters(thread: i32) -> nix::Result<Vec<Vec<Instruction>>> {
    let thread = Pid::from_raw(thread);
    ptrace::seize(thread, Options::empty())?;
    ptrace::interrupt(thread)?;
    // A tracee stops for its tracer whatever else it is waited for by.
    waitpid(thread, Some(WaitPidFlag::__WALL))?;
    let all = (0..).map(|index| filter(thread, index).transpose()).map_while(|found| found).collect();
    ptrace::detach(thread, None)?;
    all
}

/// As the policy has it.
fn written(program: Program, stage: Stage) -> Vec<Instruction> {
    let bytes = policy::filter(program, stage).expect("a stage of its policy");
    bytes.as_chunks().0.to_vec()
}

/// Each thread of `pid` has just these.
fn has(pid: i32, program: Program, stage: impl Fn(&str) -> Stage, by_spawner: bool) {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a live process");
    let names = posture::read(pid).expect("a live process").threads;
    let mut looked_at = 0;
    for task in tasks.map(|entry| entry.expect("a thread").file_name()) {
        let task: i32 = task.to_str().expect("a number").parse().expect("a number");
        let name = std::fs::read_to_string(format!("/proc/{pid}/task/{task}/comm")).expect("a live thread");
        let name = name.trim_end();
        if name == KERNEL_THREAD {
            continue;
        }
        let found = filters(task).expect("root may");
        let mut wanted = Vec::new();
        if by_spawner {
            wanted.push(written(Program::Launcher, Stage::Spawner));
        }
        if program != Program::Launcher {
            // The one that hides clone3 is no policy's: it looks at one number, and has one other answer than yes.
            let hides = found.get(wanted.len()).filter(|it| it.contains(&IF_CLONE3) && it.contains(&ENOSYS));
            wanted.extend(hides.filter(|hides| hides.len() < 16).cloned());
            wanted.push(written(program, Stage::Setup));
        }
        wanted.push(written(program, stage(name)));
        let lengths = |all: &[Vec<Instruction>]| all.iter().map(Vec::len).collect::<Vec<_>>();
        assert!(found == wanted, "{program:?} {name}: {:?}, not {:?}", lengths(&found), lengths(&wanted));
        looked_at += 1;
    }
    assert!(looked_at > 0 && looked_at >= names.len() - 1, "{program:?}: {looked_at} of {}", names.len());
}

/// Of a core's thread by its name.
fn of_core(thread: &str) -> Stage {
    if thread.starts_with("vcpu") { Stage::Vcpu } else { Stage::Control }
}

#[test]
fn the_filters_of_live_processes_are_those_of_the_policies() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("not root: nobody else may read filters");
        return Ok(());
    }
    let house = House::new(Who::Caller)?;
    let running = house.start(Guest::Drives, None)?;
    running.wait_for(DONE)?;
    let find = |name: &str| program_among(running.pid(), name).expect("a live process of it");
    has(running.pid(), Program::Launcher, |_| Stage::Serve, false);
    has(spawner(&running), Program::Launcher, |_| Stage::Spawner, false);
    has(find("vmm-core"), Program::Core, of_core, false);
    let first = find("device-blk");
    has(first, Program::DeviceBlk, |_| Stage::Serve, false);
    // A successor has the spawner's as well.
    kill(Pid::from_raw(first), Signal::SIGKILL).expect("it lives");
    running.wait_for_log("a successor", |log| log.contains("vmm: device blk0 serves again").then_some(()))?;
    let successor =
        within("the successor", || program_among(running.pid(), "device-blk").filter(|it| *it != first))?;
    has(successor, Program::DeviceBlk, |_| Stage::Serve, true);
    drop(running);
    house.check_left()
}
