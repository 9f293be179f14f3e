//! A folder of a machine's own with all that it needs, and the machine started from there, by whom we are or
//! by an ordinary user.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::prctl::set_child_subreaper;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use sandbox_policies::{Program, Stage};
use system_tests::{Result, Running, program};
use tempfile::TempDir;

use crate::guest::Guest;
use crate::terminal::Terminal;
use crate::{filters, leftovers};

/// The ordinary user as whom machines run when we may choose: nobody, in nobody's group.
pub const ORDINARY: u32 = 65534;

/// KVM's device number: the misc major and `KVM_MINOR`.
const KVM: (u64, u64) = (10, 232);

/// Where the control socket is, whose name stays when a machine is killed.
const SOCKETS: &str = "sockets";

/// What is written of a machine that is witnessed.
const WITNESSED: &str = "rules";

/// One machine at a time, so that whatever runs is of this machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Who runs the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Who runs the test.
    Caller,
    /// [`ORDINARY`] if the test is run by root, else its caller, who is one.
    OrdinaryUser,
}

/// The folder, and the right to run machines.
pub struct House {
    folder: TempDir,
    who: Who,
    /// Where the programs are.
    programs: PathBuf,
    kvm: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

impl House {
    /// Furnishes a folder: a disk, and for an ordinary user copies of the programs and a KVM node to which it
    /// has the right. From here on orphans of this process's children become its own children.
    pub fn new(who: Who) -> Result<Self> {
        Self::within(who, &std::env::temp_dir())
    }

    /// The same, the folder being made in `parent`.
    pub fn within(who: Who, parent: &Path) -> Result<Self> {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        set_child_subreaper(true).expect("the right that every process has");
        let folder = tempfile::tempdir_in(parent).expect("a folder");
        open_to_all(folder.path(), 0o755);
        let mut house = Self {
            programs: program("vmm")?.parent().expect("a folder of programs").to_owned(),
            kvm: PathBuf::from("/dev/kvm"),
            who,
            folder,
            _alone: alone,
        };
        let disk = File::create(house.disk()).expect("a disk");
        disk.set_len(4 << 20).expect("room for a disk");
        open_to_all(&house.disk(), 0o666);
        let memory = File::create(house.memory()).expect("a file for persistent memory");
        memory.set_len(2 << 20).expect("room for persistent memory");
        open_to_all(&house.memory(), 0o666);
        if who == Who::OrdinaryUser && nix::unistd::geteuid().is_root() {
            house.copy_programs();
            house.admit();
        }
        Ok(house)
    }

    /// The same with programs that lack rules of their policies ([`filters`]).
    pub fn without_rules(who: Who, rules: &[(Program, Stage, &str)]) -> Result<Self> {
        let mut house = Self::new(who)?;
        if !house.programs.starts_with(house.folder.path()) {
            house.copy_programs();
        }
        for (program, stage, call) in rules {
            let path = house.programs.join(program.name());
            let mut bytes = fs::read(&path).expect("a program");
            filters::remove(&mut bytes, *program, *stage, call);
            fs::write(&path, bytes).expect("room for a program");
        }
        Ok(house)
    }

    /// The same with programs whose filters tell a tracer what they allow ([`filters`]), for [`House::start_witnessed`].
    pub fn with_telling_filters() -> Result<Self> {
        let mut house = Self::new(Who::Caller)?;
        house.copy_programs();
        for program in Program::ALL {
            let path = house.programs.join(program.name());
            let mut bytes = fs::read(&path).expect("a program");
            filters::tell_what_is_allowed(&mut bytes, program);
            fs::write(&path, bytes).expect("room for a program");
        }
        Ok(house)
    }

    /// A machine of which [`House::witnessed`] says afterwards which rules allowed something to it.
    pub fn start_witnessed(
        &self,
        guest: Guest,
        options: &str,
        devices: &[&str],
        more: &[&str],
    ) -> Result<Running> {
        let machine = self.machine(guest, None, options, devices);
        let mut command = self.witness(machine.get_program().as_ref());
        command.args(machine.get_args()).args(more);
        Running::start(command)
    }

    /// The same of a device's program that somebody starts on its own, with these arguments.
    pub fn start_witnessed_alone(&self, program: Program, arguments: &[String]) -> Result<Running> {
        let mut command = self.witness(&self.programs.join(program.name()));
        command.args(arguments);
        Running::start(command)
    }

    fn witness(&self, program: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rule-witness"));
        command.arg(self.folder.path().join(WITNESSED)).arg(program).current_dir(self.folder.path());
        command
    }

    /// The rules of the last machine or program, once it is over: a line each.
    pub fn witnessed(&self) -> String {
        fs::read_to_string(self.folder.path().join(WITNESSED)).expect("what the witness has written")
    }

    fn copy_programs(&mut self) {
        let programs = self.folder.path().join("bin");
        fs::create_dir(&programs).expect("a folder for programs");
        for name in Program::ALL.map(Program::name) {
            let copy = programs.join(name);
            fs::copy(self.programs.join(name), &copy).expect("a copy of a program");
            open_to_all(&copy, 0o755);
        }
        self.programs = programs;
    }

    /// What else an ordinary user needs and may not reach where it is.
    fn admit(&mut self) {
        self.kvm = self.folder.path().join("kvm");
        let node = makedev(KVM.0, KVM.1);
        mknod(&self.kvm, SFlag::S_IFCHR, Mode::empty(), node).expect("root makes device nodes");
        open_to_all(&self.kvm, 0o666);
    }

    /// The disk image.
    pub fn disk(&self) -> PathBuf {
        self.folder.path().join("disk.raw")
    }

    /// A file to be persistent memory.
    pub fn memory(&self) -> PathBuf {
        self.folder.path().join("memory.raw")
    }

    /// The user id of the machine's launcher.
    pub fn user(&self) -> u32 {
        let own = nix::unistd::geteuid().as_raw();
        if own == 0 && self.who == Who::OrdinaryUser { ORDINARY } else { own }
    }

    /// Starts a machine with `guest` and a disk, every layer required. Its input is `terminal`, if there is one.
    pub fn start(&self, guest: Guest, terminal: Option<&Terminal>) -> Result<Running> {
        self.start_with(guest, terminal, "")
    }

    /// The same with further `options` of the disk (`,direct=on`).
    pub fn start_with(&self, guest: Guest, terminal: Option<&Terminal>, options: &str) -> Result<Running> {
        self.start_beside(guest, terminal, options, &[])
    }

    /// The same with more `devices`.
    pub fn start_beside(
        &self,
        guest: Guest,
        terminal: Option<&Terminal>,
        options: &str,
        devices: &[&str],
    ) -> Result<Running> {
        Running::start(self.machine(guest, terminal, options, devices))
    }

    /// The same with a control socket, [`House::control`].
    pub fn start_controlled(&self, guest: Guest, options: &str, devices: &[&str]) -> Result<Running> {
        self.make_place_for_socket();
        let mut command = self.machine(guest, None, options, devices);
        command.arg("--control-socket").arg(self.control());
        Running::start(command)
    }

    /// A machine with `guest`, a disk and more `devices`, whose policies refuse nothing.
    pub fn start_logged(&self, guest: Guest, devices: &[&str], options: &[&str]) -> Result<Running> {
        self.start_told(guest, devices, &[&["--sandbox-log"], options].concat())
    }

    /// A machine with `guest`, a disk and more `devices`, with further options of its own.
    pub fn start_told(&self, guest: Guest, devices: &[&str], options: &[&str]) -> Result<Running> {
        let mut command = self.machine(guest, None, "", devices);
        command.args(options);
        Running::start(command)
    }

    /// The folder of [`House::control`]: a machine's user may make nothing in that of the house.
    pub fn make_place_for_socket(&self) {
        let place = self.folder.path().join(SOCKETS);
        fs::create_dir(&place).expect("a folder for the socket");
        open_to_all(&place, 0o777);
    }

    /// Where a machine with a control socket has it.
    pub fn control(&self) -> PathBuf {
        self.folder.path().join(SOCKETS).join("control")
    }

    /// `vmm` with other arguments, as the machine's user.
    pub fn vmm(&self) -> Command {
        let mut command = Command::new(self.programs.join("vmm"));
        self.as_user(&mut command);
        command
    }

    fn as_user(&self, command: &mut Command) {
        if self.user() != nix::unistd::geteuid().as_raw() {
            command.uid(self.user()).gid(self.user());
        }
    }

    fn machine(&self, guest: Guest, terminal: Option<&Terminal>, options: &str, devices: &[&str]) -> Command {
        let kernel = self.folder.path().join("kernel");
        fs::write(&kernel, guest.image()).expect("a kernel");
        open_to_all(&kernel, 0o644);
        let vmm = self.programs.join("vmm");
        let mut command = match terminal {
            None => Command::new(vmm),
            Some(terminal) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "exec \"$@\" < \"$0\""]).arg(terminal.path()).arg(vmm);
                shell
            }
        };
        command
            .arg("--kernel")
            .arg(kernel)
            .arg("--kvm")
            .arg(&self.kvm)
            .args(["--memory=128M", "--cpus=2", "--sandbox=required"])
            .arg(format!("--device=blk,path={}{options}", self.disk().display()))
            .args(devices.iter().map(|device| format!("--device={device}")))
            .current_dir(self.folder.path())
            .env("TMPDIR", self.folder.path());
        self.as_user(&mut command);
        command
    }

    /// Asserts that of a machine that ran here nothing is left. The machine itself must have been waited for.
    pub fn check_left(&self) -> Result<()> {
        leftovers::no_process()?;
        leftovers::no_lock(&self.disk());
        leftovers::no_lock(&self.memory());
        leftovers::no_file(
            self.folder.path(),
            &["bin", "disk.raw", "kernel", "kvm", "memory.raw", SOCKETS, WITNESSED],
        );
        Ok(())
    }
}

fn open_to_all(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode for what is ours");
}
