//! A system call that a policy refuses, made by each thread of the confined core and of a confined device: the process
//! dies, and `vmm` says which call it was and with which arguments.
//!
//! What an attacker would do from inside is done from outside: the next system call of a thread is made another by ptrace,
//! before its filter sees it. Needs the right to trace processes that are not dumpable: root's.

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use system_tests::{Result, Running};

use crate::guest::{Guest, UP};
use crate::house::{House, Who};
use crate::moments::{Step, Victim, program_among};

/// socket(AF_UNIX, SOCK_SEQPACKET, 0), and what is in the other registers.
const SOCKET: (libc::c_long, [u64; 6]) = (libc::SYS_socket, [1, 5, 0, 0xa, 0xb, 0xffff_ffff_ffff_fffc]);

/// What is said of it.
const TOLD: &str = "killed by SIGSYS: it made the system call socket(41) with arguments \
                    (0x1, 0x5, 0x0, 0xa, 0xb, 0xfffffffffffffffc), which its policy forbids";

/// Has `thread` make this system call instead of its next.
fn substitute(thread: i32, (number, arguments): (libc::c_long, [u64; 6])) {
    let thread = Pid::from_raw(thread);
    let stopped = || waitpid(thread, Some(WaitPidFlag::__WALL)).expect("a tracee stops");
    ptrace::seize(thread, Options::PTRACE_O_TRACESYSGOOD).expect("we may trace it");
    ptrace::interrupt(thread).expect("a tracee");
    assert!(matches!(stopped(), WaitStatus::PtraceEvent(..)));
    ptrace::syscall(thread, None).expect("a tracee");
    assert!(matches!(stopped(), WaitStatus::PtraceSyscall(_)));
    let mut registers = ptrace::getregs(thread).expect("a tracee");
    registers.orig_rax = number.cast_unsigned();
    let [rdi, rsi, rdx, r10, r8, r9] = arguments;
    (registers.rdi, registers.rsi, registers.rdx) = (rdi, rsi, rdx);
    (registers.r10, registers.r8, registers.r9) = (r10, r8, r9);
    ptrace::setregs(thread, registers).expect("a tracee");
    ptrace::detach(thread, None).expect("a tracee");
}

/// The threads of a process that run code of its own, with their names, the first first.
fn threads(pid: i32) -> Vec<(i32, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives");
    let ids = tasks.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let name = |id: i32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/task/{id}/comm")).expect("it lives");
        (id, name.trim_end().to_owned())
    };
    let mut threads: Vec<(i32, String)> = ids.map(name).collect();
    threads.retain(|(_, name)| name != crate::expectations::KERNEL_THREAD);
    threads.sort_unstable();
    threads
}

/// A machine whose guest is up, and the process of its victim.
fn start(house: &House, victim: Victim, options: &str) -> Result<(Running, i32)> {
    let running = house.start_with(Guest::KeepsDriving, None, options)?;
    let pid = victim.at(Step::Confined, &running)?;
    running.wait_for(UP)?;
    Ok((running, pid))
}

/// One machine for each thread of the victim. Returns how many there were.
fn strike_each_thread(victim: Victim, code: i32, line: &str) -> Result<usize> {
    let house = House::new(Who::Caller)?;
    let mut number = 0;
    loop {
        let (running, pid) = start(&house, victim, ",on-failure=stop")?;
        let threads = threads(pid);
        let Some((thread, name)) = threads.get(number) else { return Ok(number) };
        substitute(*thread, SOCKET);
        let ended = running.wait()?;
        assert_eq!(ended.code(), Some(code), "{name}: {}", ended.everything());
        assert!(ended.log.lines().any(|found| found == line), "{name}: {}", ended.everything());
        house.check_left()?;
        number += 1;
    }
}

#[test]
fn a_call_that_the_core_is_refused_is_told_by_name_on_each_of_its_threads() -> Result<()> {
    let line = format!("vmm: the core died: {TOLD}");
    let threads = strike_each_thread(Victim::Core, 8, &line)?;
    assert_eq!(threads, crate::expectations::CORE.threads.len());
    Ok(())
}

#[test]
fn a_call_that_a_device_is_refused_is_told_by_name_on_each_of_its_threads() -> Result<()> {
    let line = format!("vmm: device blk0 is lost: {TOLD}");
    let threads = strike_each_thread(Victim::Device, 7, &line)?;
    assert_eq!(threads, crate::expectations::DEVICE_BLK.threads.len());
    Ok(())
}

/// One that was started again is under the filter of its spawner as well, which is stricter about what it does not list
/// itself: that kills at once.
#[test]
fn a_call_that_a_successor_is_refused_is_told_if_its_spawner_lists_it() -> Result<()> {
    let house = House::new(Who::Caller)?;
    let (running, first) = start(&house, Victim::Device, "")?;
    let serves_again = |times: usize| {
        running.wait_for_log("the successor", |log| {
            let whole = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            (whole.filter(|line| line.contains("blk0 serves again")).count() == times).then_some(())
        })
    };
    substitute(first, SOCKET);
    serves_again(1)?;
    let successor = || program_among(running.pid(), "device-blk").expect("a live device-blk");
    substitute(successor(), (libc::SYS_mount, [1, 2, 3, 4, 5, 6]));
    serves_again(2)?;
    substitute(successor(), (libc::SYS_ptrace, [0; 6]));
    serves_again(3)?;
    running.signal(Signal::SIGQUIT)?;
    let ended = running.wait()?;
    let deaths: Vec<&str> = ended.log.lines().filter(|line| line.contains("blk0 died: ")).collect();
    let [first, second, third] = deaths.as_slice() else { panic!("{}", ended.everything()) };
    assert!(first.contains(TOLD), "{first}");
    assert!(second.contains("the system call mount(165) with arguments (0x1, 0x2, 0x3, 0x4, 0x5, 0x6), "));
    assert!(third.contains("killed by SIGSYS: ") && third.contains("did not say which"), "{third}");
    house.check_left()
}
