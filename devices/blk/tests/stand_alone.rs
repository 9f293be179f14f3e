//! `device-blk` started by hand: what it says, what it refuses, and that it leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_device-blk"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().unwrap()
}

fn disk(folder: &Path, size: u64) -> String {
    let path = folder.join("disk");
    std::fs::File::create(&path).unwrap().set_len(size).unwrap();
    path.display().to_string()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Starts the program listening at `socket`, and waits until it does.
fn listen(socket: &Path, disk: &str) -> Child {
    let mut child = program()
        .arg(format!("--socket-path={}", socket.display()))
        .arg(format!("--path={disk}"))
        .spawn()
        .unwrap();
    while !socket.exists() {
        assert_eq!(child.try_wait().unwrap(), None, "it ended before it listened");
        std::thread::yield_now();
    }
    child
}

#[test]
fn says_what_it_can_do() {
    let output = run(&["--print-capabilities"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "{\"type\":\"block\",\"features\":[\"read-only\",\"blk-file\"]}\n");
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8(help.stdout).unwrap();
    for option in ["--socket-path", "--fd", "--blk-file", "--read-only", "--direct", "--sandbox"] {
        assert!(text.contains(option), "{option}");
    }
}

#[test]
fn bad_command_lines_and_disks_are_one_line_and_a_code() {
    let folder = folder();
    let good = format!("--path={}", disk(folder.path(), 4096));
    let odd_path = folder.path().join("odd");
    std::fs::write(&odd_path, [0; 1000]).unwrap();
    let odd = format!("--path={}", odd_path.display());
    let socket = format!("--socket-path={}", folder.path().join("socket").display());
    let cases: [(&[&str], i32); 12] = [
        (&[], 2),
        (&[&good], 2),
        (&["--fd=0", &good], 2),
        (&["--fd=99", &good], 2),
        (&["--fd=x", &good], 2),
        (&[&socket], 2),
        (&[&socket, "--fd=5", &good], 2),
        (&[&socket, &good, "--colour"], 2),
        (&[&socket, &good, "--sandbox=no"], 2),
        (&["--hand-over=4"], 2),
        (&[&socket, "--path=/nowhere/at/all"], 3),
        (&["--socket-path=/nowhere/at/all", &good], 3),
    ];
    for (arguments, code) in cases {
        let output = run(arguments);
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), log.lines().count()), (Some(code), 1), "{arguments:?}: {log}");
    }
    assert!(!folder.path().join("socket").exists());
    // What only the confined process finds out.
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let output = program().args(["--fd=3", &odd]).stdin(Stdio::null()).output();
    drop(theirs);
    assert_eq!(output.unwrap().status.code(), Some(2), "descriptor 3 is not inherited");
    let mut child = listen(&folder.path().join("socket"), odd_path.to_str().unwrap());
    let _front_end = UnixStream::connect(folder.path().join("socket")).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("1000 bytes") && log.lines().count() == 1, "{log}");
}

#[test]
fn without_its_hand_over_the_confined_life_refuses_to_start() {
    let output = run(&["--hand-over=3", "--sandbox=required"]);
    assert_eq!(output.status.code(), Some(6));
}

#[test]
fn one_front_end_is_served_and_the_socket_removed() {
    let folder = folder();
    let disk = disk(folder.path(), 1 << 20);
    let socket = folder.path().join("socket");
    // Left by a crash: nobody listens there any more.
    drop(UnixListener::bind(&socket).unwrap());
    let stale = std::fs::symlink_metadata(&socket).unwrap();
    let mut child = program()
        .arg(format!("--socket-path={}", socket.display()))
        .arg(format!("--path={disk}"))
        .spawn()
        .unwrap();
    use std::os::unix::fs::MetadataExt;
    while std::fs::symlink_metadata(&socket).map_or(true, |entry| entry.ctime_nsec() == stale.ctime_nsec()) {
        assert_eq!(child.try_wait().unwrap(), None, "it ended before it listened");
        std::thread::yield_now();
    }
    let mut front_end = loop {
        // Bound but not listening yet.
        if let Ok(stream) = UnixStream::connect(&socket) {
            break stream;
        }
    };
    let get_features: Vec<u8> = [1u32, 1, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
    front_end.write_all(&get_features).unwrap();
    let mut reply = [0; 20];
    front_end.read_exact(&mut reply).unwrap();
    assert!(!socket.exists());
    drop(front_end);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn signals_end_it_before_and_after_it_has_a_front_end() {
    for connected in [false, true] {
        let folder = folder();
        let disk = disk(folder.path(), 1 << 20);
        let socket = folder.path().join("socket");
        let mut child = listen(&socket, &disk);
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let front_end = connected.then(|| {
            let mut stream = loop {
                if let Ok(stream) = UnixStream::connect(&socket) {
                    break stream;
                }
            };
            let get_features: Vec<u8> = [1u32, 1, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
            stream.write_all(&get_features).unwrap();
            stream.read_exact(&mut [0; 20]).unwrap();
            stream
        });
        kill(pid, Signal::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(128 + 15), "connected: {connected}");
        assert!(!socket.exists());
        if let Some(mut stream) = front_end {
            // The confined process is gone too: its end of the connection is closed.
            assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
        }
        let log = BufReader::new(child.stderr.take().unwrap()).lines().count();
        assert_eq!(log, 0);
    }
}

#[test]
fn a_refused_system_call_is_told_by_its_number() {
    let folder = folder();
    let disk = disk(folder.path(), 1 << 20);
    let socket = folder.path().join("socket");
    let mut child = listen(&socket, &disk);
    let mut front_end = loop {
        if let Ok(stream) = UnixStream::connect(&socket) {
            break stream;
        }
    };
    let get_features: Vec<u8> = [1u32, 1, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
    front_end.write_all(&get_features).unwrap();
    front_end.read_exact(&mut [0; 20]).unwrap();
    let id = child.id();
    let confined = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    make_socket(Pid::from_raw(confined.trim().parse().unwrap()));
    assert_eq!(child.wait().unwrap().code(), Some(7));
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    let told = "the device process made system call 41 with arguments (0x1, 0x2, 0x0, ";
    assert!(log.contains(told) && log.lines().count() == 1, "{log}");
}

/// Has a thread make socket(AF_UNIX, SOCK_DGRAM, 0) as its next system call.
fn make_socket(thread: Pid) {
    let stopped = || waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    ptrace::seize(thread, ptrace::Options::PTRACE_O_TRACESYSGOOD).unwrap();
    ptrace::interrupt(thread).unwrap();
    assert!(matches!(stopped(), WaitStatus::PtraceEvent(..)));
    ptrace::syscall(thread, None).unwrap();
    assert!(matches!(stopped(), WaitStatus::PtraceSyscall(_)));
    let mut registers = ptrace::getregs(thread).unwrap();
    (registers.orig_rax, registers.rdi, registers.rsi, registers.rdx) = (41, 1, 2, 0);
    ptrace::setregs(thread, registers).unwrap();
    ptrace::detach(thread, None).unwrap();
}

#[test]
#[cfg(not(feature = "fault-points"))]
fn a_users_program_has_no_fault_points() {
    let refused = run(&["--die-at=after-io:1"]);
    assert_eq!(refused.status.code(), Some(2));
    let program = std::fs::read(env!("CARGO_BIN_EXE_device-blk")).unwrap();
    let has = |word: &[u8]| program.windows(word.len()).any(|window| window == word);
    assert!(has(b"--no-discard") && !has(b"before-giving-back") && !has(b"die-at"));
}
