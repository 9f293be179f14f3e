//! QEMU, whose devices programs of ours serve, each started on its own as its page says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use system_tests::{Capture, Ended, Error, Result, Running, artifact, program, within};

use crate::witness::Witness;

/// In `/proc/net/unix`: the socket takes connections (`__SO_ACCEPTCON`).
const LISTENS: &str = "00010000";

/// Which QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Release {
    /// The host's own.
    Host,
    /// One of the artifacts, which has the device of any type, `vhost-user-test-device-pci`.
    Next,
}

/// A machine that is being put together.
pub struct Qemu {
    release: Release,
    command_line: String,
    folder: tempfile::TempDir,
    back_ends: Vec<BackEnd>,
    options: Vec<String>,
    /// What writes down which rules its devices' programs use.
    witness: Option<Rc<Witness>>,
}

/// A device program that listens.
struct BackEnd {
    name: String,
    socket: PathBuf,
    arguments: Vec<String>,
    child: Child,
    log: Capture,
}

impl Qemu {
    /// The host's, with no devices yet.
    pub fn new() -> Self {
        Self {
            release: Release::Host,
            command_line: String::new(),
            folder: tempfile::tempdir().expect("a folder"),
            back_ends: Vec::new(),
            options: Vec::new(),
            witness: None,
        }
    }

    /// That of the next release.
    pub fn next() -> Self {
        Self { release: Release::Next, ..Self::new() }
    }

    /// The same, whose devices' programs are this witness's.
    pub fn before(witness: &Rc<Witness>) -> Self {
        Self { witness: Some(Rc::clone(witness)), ..Self::next() }
    }

    /// Has the one and the other go through a test.
    pub fn each(test: impl Fn(Self) -> Result<()>) -> Result<()> {
        test(Self::new())?;
        println!("and once more with that of the next release");
        test(Self::next())
    }

    /// Whether it is that of the next release.
    pub fn is_next(&self) -> bool {
        self.release == Release::Next
    }

    /// Adds words to the kernel's command line.
    pub fn command_line(mut self, words: &str) -> Self {
        self.command_line = words.to_owned();
        self
    }

    /// Starts `device-NAME` with these arguments, and connects QEMU's options to it, in which `chardev=` stands for where it
    /// is.
    pub fn device(mut self, name: &str, arguments: &[&str], options: &[&str]) -> Result<Self> {
        let id = format!("back{}", self.back_ends.len());
        let socket = self.folder.path().join(&id);
        // Should a disk's be gone for a moment, QEMU connects again, a second later at the earliest. Not all of its other
        // devices wait until it has.
        let reconnect = match (name.starts_with("blk"), self.release) {
            (false, _) => "",
            (true, Release::Host) => ",reconnect=1",
            (true, Release::Next) => ",reconnect-ms=1000",
        };
        let chardev = format!("socket,id={id},path={}{reconnect}", socket.display());
        let command = match &self.witness {
            Some(witness) => witness.command(name, &id),
            None => Command::new(program(&format!("device-{name}"))?),
        };
        let arguments = arguments.iter().map(ToString::to_string).collect();
        self.back_ends.push(BackEnd::start(command, name, socket, arguments)?);
        self.options.extend(["-chardev".to_owned(), chardev]);
        let with_id = |option: &&str| option.replace("chardev=", &format!("chardev={id}"));
        self.options.extend(options.iter().map(with_id));
        Ok(self)
    }

    /// Starts a stock guest that does `job`.
    pub fn start(self, job: &str) -> Result<Guest> {
        let file = |name: &str| artifact(name).map(PathBuf::into_os_string);
        let mut command = self.release.command()?;
        command
            .args(["-accel", "tcg", "-M", "q35,memory-backend=memory", "-cpu", "max", "-m", "256M"])
            .args(["-object", "memory-backend-memfd,id=memory,size=256M,share=on"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"])
            .arg("-kernel")
            .arg(file("vmlinuz")?)
            .arg("-initrd")
            .arg(file("initramfs")?)
            .args(["-append", &format!("console=ttyS0 panic=-1 vmm.job={job} {}", self.command_line)])
            .args(&self.options);
        Ok(Guest { running: Running::start(command)?, back_ends: self.back_ends, _folder: self.folder })
    }
}

impl Release {
    /// The program, with its own loader, libraries and firmware.
    fn command(self) -> Result<Command> {
        if self == Self::Host {
            return Ok(Command::new("qemu-system-x86_64"));
        }
        let folder = artifact("qemu")?;
        let libraries = folder.join("lib");
        let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
        command.args(["--inhibit-cache", "--library-path"]).arg(libraries);
        command.arg(folder.join("bin/qemu-system-x86_64")).arg("-L").arg(folder.join("firmware"));
        Ok(command)
    }
}

/// A guest of QEMU's that runs.
pub struct Guest {
    /// QEMU.
    pub running: Running,
    back_ends: Vec<BackEnd>,
    _folder: tempfile::TempDir,
}

impl Guest {
    /// Kills the program of the first device with all that it has started, and starts it again, as a supervisor would. QEMU
    /// is connected to it then.
    pub fn kill_first(&mut self) -> Result<()> {
        let Some(back_end) = self.back_ends.first_mut() else { return Ok(()) };
        back_end.child.kill().expect("it runs");
        back_end.child.wait().expect("a child of ours");
        // What it had started has this open until it is gone, too.
        back_end.log.wait_for_end()?;
        let _ = fs::remove_file(&back_end.socket);
        let (name, socket) = (back_end.name.clone(), back_end.socket.clone());
        let command = Command::new(program(&format!("device-{name}"))?);
        *back_end = BackEnd::start(command, &name, socket, back_end.arguments.clone())?;
        // Its one front end having come, a program takes the name away.
        within("QEMU connects again", || (!back_end.socket.exists()).then_some(()))
    }

    /// Waits until it has powered off. The device programs, whose front end is gone, end as they should and have had nothing
    /// to complain of.
    pub fn wait(self) -> Result<Ended> {
        let ended = self.running.wait()?;
        assert_eq!(ended.code(), Some(0), "{}", ended.everything());
        assert!(!ended.console.contains("I/O error"), "{}", ended.everything());
        for mut back_end in self.back_ends {
            let log = back_end.log.wait_for_end()?;
            let status = back_end.child.wait().map_err(|error| Error::Unexpected(error.to_string()))?;
            assert!(status.success() && log.is_empty(), "device-{}: {status}: {log}", back_end.name);
        }
        Ok(ended)
    }
}

impl BackEnd {
    fn start(mut command: Command, name: &str, socket: PathBuf, arguments: Vec<String>) -> Result<Self> {
        command.arg(format!("--socket-path={}", socket.display())).args(&arguments);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
        let log = Capture::of(child.stderr.take().expect("a pipe"));
        let back_end = Self { name: name.to_owned(), socket, arguments, child, log };
        within(&format!("device-{name} listens"), || listens(&back_end.socket).then_some(()))?;
        Ok(back_end)
    }
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        // Gone already: nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listens(socket: &Path) -> bool {
    let sockets = fs::read_to_string("/proc/net/unix").expect("the kernel's list of sockets");
    let path = socket.to_str().expect("UTF-8");
    sockets.lines().any(|line| line.ends_with(path) && line.split_whitespace().nth(3) == Some(LISTENS))
}
