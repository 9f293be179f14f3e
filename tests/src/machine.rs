//! A machine: the command line of `vmm`, the running program, its end.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::environment::{artifact, patience, program, within};
use crate::error::tried;
use crate::{Capture, Error, Result, children};

/// Which form of the distribution's kernel to boot.
#[derive(Clone, Copy, Debug)]
pub enum Kernel {
    /// As packaged.
    BzImage,
    /// The ELF file within.
    Vmlinux,
}

/// A machine to be started.
pub struct Machine {
    kernel: Kernel,
    job: String,
    command_line: String,
    arguments: Vec<String>,
    user: Option<u32>,
    terminal: Option<PathBuf>,
}

impl Machine {
    /// A machine with one CPU and 256 MiB whose guest does `job`.
    pub fn new(job: &str) -> Self {
        let (job, command_line) = (job.to_owned(), String::new());
        Self { kernel: Kernel::BzImage, job, command_line, arguments: Vec::new(), user: None, terminal: None }
    }

    /// Boots this form of the kernel.
    pub fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = kernel;
        self
    }

    /// Adds an option of `vmm` and its value.
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.arguments.extend([format!("--{name}"), value.to_owned()]);
        self
    }

    /// Adds words to the kernel's command line.
    pub fn command_line(mut self, words: &str) -> Self {
        self.command_line = words.to_owned();
        self
    }

    /// Adds a disk with further options (`,readonly=on`).
    pub fn disk(self, path: &Path, options: &str) -> Self {
        self.option("device", &format!("blk,path={}{options}", path.display()))
    }

    /// Runs `vmm` as an ordinary user of this number, if we may choose.
    pub fn as_user(mut self, user: u32) -> Self {
        self.user = Some(user);
        self
    }

    /// Gives it a terminal as its standard input.
    pub fn on_terminal(mut self, path: &Path) -> Self {
        self.terminal = Some(path.to_owned());
        self
    }

    /// Starts it.
    pub fn start(&self) -> Result<Running> {
        let kernel = artifact(match self.kernel {
            Kernel::BzImage => "vmlinuz",
            Kernel::Vmlinux => "vmlinux",
        })?;
        let vmm = program("vmm")?;
        let mut command = match &self.terminal {
            None => Command::new(vmm),
            Some(terminal) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "exec \"$@\" < \"$0\""]).arg(terminal).arg(vmm);
                shell
            }
        };
        command.arg("--kernel").arg(kernel).arg("--initrd").arg(artifact("initramfs")?).args([
            "--cmdline",
            &format!("console=ttyS0 panic=-1 vmm.job={} {}", self.job, self.command_line),
        ]);
        for (option, usual) in [("--cpus", "1"), ("--memory", "256M")] {
            if !self.arguments.iter().any(|argument| argument == option) {
                command.args([option, usual]);
            }
        }
        command.args(&self.arguments);
        if let Some(user) = self.user
            && nix::unistd::geteuid().is_root()
        {
            use std::os::unix::process::CommandExt;
            command.uid(user).gid(user);
        }
        Running::start(command)
    }

    /// Starts it and waits for its end.
    pub fn run(&self) -> Result<Ended> {
        self.start()?.wait()
    }
}

/// A machine that runs; dropped, it is killed.
pub struct Running {
    child: Child,
    console: Capture,
    log: Capture,
}

/// A machine that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How `vmm` ended.
    pub status: ExitStatus,
    /// What the guest wrote.
    pub console: String,
    /// What `vmm` wrote.
    pub log: String,
}

impl Running {
    /// Starts `vmm`, or a program that becomes it, with pipes to and from it.
    pub fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(tried("cannot run vmm"))?;
        let (Some(console), Some(log)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Error::Unexpected("vmm has no pipes".to_owned()));
        };
        Ok(Self { child, console: Capture::of(console), log: Capture::of(log) })
    }

    /// The process id of `vmm`.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(i32::MAX)
    }

    /// The process of ours that runs `program`, as soon as there is one; of several the one that is found first.
    pub fn process(&self, program: &str) -> Result<i32> {
        within(&format!("a process {program}"), || {
            children(self.pid()).into_iter().find(|process| process.name == program).map(|it| it.pid)
        })
    }

    /// Waits until the guest has said `word` and returns what it said after it.
    pub fn wait_for(&self, word: &str) -> Result<String> {
        let found = self.console.wait_for(patience(), |text| marked(text, word).map(str::to_owned));
        found.ok_or_else(|| self.silent(format!("the guest's line @@{word}")))
    }

    /// Waits until `find` finds something in what the guest says.
    pub fn wait_for_console<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> Result<T> {
        self.console.wait_for(patience(), find).ok_or_else(|| self.silent(what.to_owned()))
    }

    /// What the guest has said so far.
    pub fn console(&self) -> String {
        self.console.text()
    }

    /// What `vmm` has said so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Waits until `find` finds something in what `vmm` says.
    pub fn wait_for_log<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> Result<T> {
        self.log.wait_for(patience(), find).ok_or_else(|| self.silent(what.to_owned()))
    }

    /// Types a line on the guest's console.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        let Some(stdin) = self.child.stdin.as_mut() else {
            return Err(Error::Unexpected("vmm has no standard input".to_owned()));
        };
        stdin.write_all(format!("{line}\n").as_bytes()).map_err(tried("cannot type on the console"))
    }

    /// Sends `vmm` a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid()), signal)
            .map_err(|errno| Error::Unexpected(format!("cannot send vmm {signal}: {errno}")))
    }

    /// Waits for the end of `vmm` and of all who hold its pipes.
    pub fn wait(mut self) -> Result<Ended> {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().map_err(tried("cannot wait for vmm"))? {
                break status;
            }
            if started.elapsed() > patience() {
                return Err(self.silent("the end of vmm".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        Ok(Ended { status, console: self.console.wait_for_end()?, log: self.log.wait_for_end()? })
    }

    fn silent(&self, what: String) -> Error {
        let seen = format!("--- console\n{}\n--- vmm\n{}", self.console.text(), self.log.text());
        Error::Silent { what, patience: patience(), seen }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Gone already: nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// The exit code; a signal has none.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// What the guest said after `word`.
    pub fn said(&self, word: &str) -> Result<&str> {
        marked(&self.console, word)
            .ok_or_else(|| Error::Unexpected(format!("the guest never said @@{word}\n{}", self.everything())))
    }

    /// The kernel's warnings and worse, each as `<level>[time] text`.
    pub fn warnings(&self) -> Result<Vec<&str>> {
        let (_, rest) = self
            .console
            .split_once("@@warnings-begin")
            .ok_or_else(|| Error::Unexpected(format!("no warnings were read\n{}", self.everything())))?;
        let (between, _) = rest
            .split_once("@@warnings-end")
            .ok_or_else(|| Error::Unexpected(format!("warnings without an end\n{}", self.everything())))?;
        Ok(between.lines().map(str::trim).filter(|line| !line.is_empty()).collect())
    }

    /// Console and log, for the message of an assertion.
    pub fn everything(&self) -> String {
        format!("{}\n--- console\n{}\n--- vmm\n{}", self.status, self.console, self.log)
    }
}

/// What follows `@@word` on its line, once the line is whole.
fn marked<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    text.split_inclusive('\n').filter(|line| line.ends_with('\n')).find_map(|line| {
        // The console of a kernel that still prints may have put something before.
        let (_, marked) = line.trim_end().split_once("@@")?;
        let (said, rest) = marked.split_once(' ').unwrap_or((marked, ""));
        (said == word).then_some(rest)
    })
}

#[cfg(test)]
mod tests {
    use super::marked;

    #[test]
    fn a_marked_line_counts_when_it_is_whole() {
        assert_eq!(marked("boot\r\n@@cpus 4\r\n", "cpus"), Some("4"));
        assert_eq!(marked("@@cpus 4", "cpus"), None);
        assert_eq!(marked("@@cpuset 4\n", "cpus"), None);
        assert_eq!(marked("@@ready\n", "ready"), Some(""));
    }
}
