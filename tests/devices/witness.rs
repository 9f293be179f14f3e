//! Programs whose filters tell a tracer what they allow, each under one that writes it down.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use sandbox_policies::Program;
use system_tests::{Result, program};

use crate::filters;

/// How the name of what the witness of a program has written ends.
const WITNESSED: &str = "witnessed";

/// Copies of the device programs, and what has been written down.
pub struct Witness(tempfile::TempDir);

impl Witness {
    /// All programs of devices.
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let devices = |it: &Program| !matches!(it, Program::Launcher | Program::Core);
        for device in Program::ALL.into_iter().filter(devices) {
            let mut bytes = fs::read(program(device.name())?).expect("a program");
            filters::tell_what_is_allowed(&mut bytes, device);
            let copy = folder.path().join(device.name());
            fs::write(&copy, bytes).expect("room for a program");
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("ours");
        }
        Ok(Self(folder))
    }

    /// What runs `device-NAME` as the back end `id`.
    pub fn command(&self, name: &str, id: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rule-witness"));
        command.arg(self.0.path().join(format!("{id}.{WITNESSED}")));
        command.arg(self.0.path().join(format!("device-{name}")));
        command
    }

    /// The rules that allowed something to those that have ended, a line each.
    pub fn used(&self) -> BTreeSet<String> {
        let entries =
            fs::read_dir(self.0.path()).expect("the folder").map(|entry| entry.expect("an entry").path());
        let witnessed = entries.filter(|path| path.extension().is_some_and(|it| it == WITNESSED));
        let texts = witnessed.map(|path| fs::read_to_string(path).expect("what a witness has written"));
        texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }
}
