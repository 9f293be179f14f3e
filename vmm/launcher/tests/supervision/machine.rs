//! A machine with the stand-in for its core.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::OnceLock;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::stand_in;

/// Where the programs are.
static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();

pub struct Machine {
    folder: tempfile::TempDir,
    vmm: Child,
    errors: BufReader<ChildStderr>,
    log: String,
}

/// How a machine ended.
pub struct Ended {
    /// Exit code; none when a signal ended `vmm`.
    pub code: Option<i32>,
    /// All of its standard error.
    pub log: String,
}

impl Machine {
    /// Starts one whose core does `act`.
    pub fn start(act: &str) -> Machine {
        Machine::with(act, &[])
    }

    /// The same, with more arguments.
    pub fn with(act: &str, arguments: &[&str]) -> Machine {
        let arguments = [&["--console=none"], arguments].concat();
        Machine::on(Stdio::null(), Stdio::null(), act, &arguments)
    }

    /// The same, with these as standard input and output.
    pub fn on(input: Stdio, output: Stdio, act: &str, arguments: &[&str]) -> Machine {
        let folder = tempfile::tempdir().expect("a folder");
        let vmm = PROGRAMS.get().expect("installed").join("vmm");
        let disk = std::fs::File::create(folder.path().join("disk.raw")).expect("a disk");
        disk.set_len(4096).expect("a disk");
        let kernel = folder.path().join("kernel");
        std::fs::write(&kernel, "not looked at").expect("a kernel");
        let mut command = Command::new(vmm);
        command.arg("--kernel").arg(kernel).arg("--cmdline").arg(act).args(arguments);
        command.current_dir(folder.path()).stdin(input).stdout(output).stderr(Stdio::piped());
        let mut vmm = command.spawn().expect("vmm runs");
        let errors = BufReader::new(vmm.stderr.take().expect("a pipe"));
        Machine { folder, vmm, errors, log: String::new() }
    }

    /// Until the launcher says what holds: the guest runs.
    pub fn wait_until_confined(&mut self) {
        self.wait_for("vmm: confined: ");
    }

    /// Until a line that begins so.
    pub fn wait_for(&mut self, beginning: &str) {
        self.line(beginning);
    }

    /// Until there were lines that begin so, in any order.
    pub fn wait_for_all(&mut self, beginnings: &[&str]) {
        let mut missing = beginnings.to_vec();
        while !missing.is_empty() {
            let line = self.line("");
            missing.retain(|beginning| !line.starts_with(beginning));
        }
    }

    /// The next line that begins so.
    pub fn line(&mut self, beginning: &str) -> String {
        loop {
            let mut line = String::new();
            let count = self.errors.read_line(&mut line).expect("text");
            self.log.push_str(&line);
            assert!(count > 0, "vmm ended and did not say {beginning:?}: {}", self.log);
            if line.starts_with(beginning) {
                return line;
            }
        }
    }

    /// Sends a signal to the launcher.
    pub fn send(&self, signal: Signal) {
        kill(pid(self.vmm.id()), signal).expect("vmm lives");
    }

    /// The launcher's children.
    pub fn children(&self) -> Vec<u32> {
        let id = self.vmm.id();
        let list = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        list.split_whitespace().filter_map(|number| number.parse().ok()).collect()
    }

    /// Kills the one child that was spawned as `program`, or the spawner as `vmm`.
    pub fn kill_program(&self, program: &str) {
        self.signal_program(program, Signal::SIGKILL);
    }

    /// Sends a signal to it.
    pub fn signal_program(&self, program: &str, signal: Signal) {
        let is = |child: &u32| {
            let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            let name = line.split(|byte| *byte == 0).next().unwrap_or_default();
            name.ends_with(program.as_bytes())
        };
        let found: Vec<u32> = self.children().into_iter().filter(is).collect();
        assert_eq!(found.len(), 1, "{program}: {found:?}\n{}", self.log);
        found.into_iter().for_each(|child| kill(pid(child), signal).expect("it lives"));
    }

    /// Kills the launcher's children.
    pub fn kill_children(&self) {
        for child in self.children() {
            // One that died by itself just now is reaped by the launcher at any moment.
            let _ = kill(pid(child), Signal::SIGKILL);
        }
    }

    /// Runs `vmm ctl` on the machine's control socket, which is `control` in its folder.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        ctl(&self.folder.path().join("control"), arguments).output().expect("vmm runs")
    }

    /// The folder of the machine.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Keeps the folder beyond the end.
    pub fn keep(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    /// What is in the folder of the machine.
    pub fn files(&self) -> BTreeSet<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path()).expect("a folder");
        entries.map(|entry| entry.expect("an entry").path()).collect()
    }

    /// Waits for the end. No child is left: each has the writing end of a pipe of the launcher's as its log, and the
    /// launcher ends after it has reaped them; those of a launcher that was killed are looked for.
    pub fn end(mut self) -> Ended {
        let children = self.children();
        let mut rest = Vec::new();
        self.errors.read_to_end(&mut rest).expect("a pipe");
        self.log.push_str(&String::from_utf8_lossy(&rest));
        let code = self.vmm.wait().expect("our child").code();
        for child in children {
            // Death by the parent's death signal is on its way, not done, when the parent is reaped.
            until(&format!("the end of {child}"), || !is_stand_in(child));
        }
        Ended { code, log: std::mem::take(&mut self.log) }
    }
}

/// `vmm ctl` on this control socket.
pub fn ctl(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAMS.get().expect("installed").join("vmm"));
    command.arg("ctl").arg(socket).args(arguments);
    command
}

/// A program that is installed.
pub fn program(name: &str) -> PathBuf {
    PROGRAMS.get().expect("installed").join(name)
}

/// Puts a copy of `vmm`, and of this program under the names of those that it spawns, into a folder. Before there are
/// threads: a file that is open for writing in a child that another thread has just forked cannot be executed.
pub fn install() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let programs = stand_in::NAMES.map(|name| ("/proc/self/exe", name));
    for (from, name) in [(env!("CARGO_BIN_EXE_vmm"), "vmm")].into_iter().chain(programs) {
        let to = folder.path().join(name);
        std::fs::copy(from, &to).expect("a copy");
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755)).expect("permissions");
    }
    PROGRAMS.set(folder.path().to_owned()).expect("installed once");
    folder
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).expect("a pid"))
}

/// Whether the process lives and is a stand-in: ids are used again.
fn is_stand_in(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let alive = !stat.is_empty() && !stat.contains(") Z ") && !stat.contains(") X ");
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    // A pid namespace of its own: no other process of this test has one.
    let nested = status.lines().any(|line| line.starts_with("NSpid:") && line.split_whitespace().count() > 2);
    alive && nested
}

/// Looks again and again until it is so: what is on its way comes, and a test that waits for ever says nothing.
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !is_so() {
        assert!(started.elapsed() < std::time::Duration::from_secs(60), "{what} does not come");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
