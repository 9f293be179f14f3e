//! `vmm inspect VM`: each process of a machine as the kernel shows it, compared with what its policy promises.
//!
//! Who the processes are its launcher says; everything else is read from /proc, with the rights of whoever calls. What
//! the kernel keeps from him is said to be hidden, not guessed. Of landlock the kernel shows nothing to anybody: the ABI is
//! what the process itself has said. A process that the launcher names and that is no child of its is not taken for one
//! of the machine: a pid is used again.

mod shown;

use std::path::PathBuf;

use clap::Parser;
use protocol::{Channel, FromLauncher, ProcessStatus, ToLauncher};
use sandbox_policies::Program;
use sandbox_policies::posture::{self, Posture};
use sandbox_policies::promise::{self, Role};

use crate::control_socket;
use crate::ctl::{ask, unexpected};
use crate::error::Error;
use crate::exit_code::Code;
use crate::user_network;

/// The minor version of the protocol since which a launcher says which processes it has.
const PROCESSES_SINCE: u8 = 5;
/// So often it is asked again when a process is gone by the time that it is looked at.
const ROUNDS: u8 = 5;

const AFTER_HELP: &str = "\
What an ordinary user is not shown of his machine's processes (namespaces, root, descriptors, environment) is
called hidden; root sees all.

Exit codes:
      0  each process is confined as its policy promises, as far as it is shown
      6  one is confined less; the lines that say DIFFERENT say how
      others as of vmm";

/// Says how each process of a machine is confined, from the kernel's own view.
#[derive(Debug, Parser)]
#[command(bin_name = "vmm inspect", after_help = AFTER_HELP, max_term_width = 110)]
pub struct InspectLine {
    /// The machine: the path that it was given with --control-socket.
    #[arg(value_name = "VM")]
    pub machine: PathBuf,

    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}

/// A process of the machine.
#[derive(Debug)]
struct Seen {
    status: ProcessStatus,
    /// None: it is gone.
    posture: Option<Posture>,
    differences: Vec<String>,
}

/// Looks at each process: what is to be printed, and the exit code.
pub fn run(line: &InspectLine) -> Result<(String, Code), Error> {
    let channel = control_socket::client(&line.machine)?;
    // An older launcher hangs up on whoever asks for what it does not know, but not on this; and then its version is known.
    ask(&channel, &ToLauncher::Devices, None)?;
    if channel.peer_minor() < PROCESSES_SINCE {
        let why = "the machine was started by an older vmm, which cannot say which processes it has";
        return Err(Error::Control(why.to_owned()));
    }
    let mut all = look(&channel)?;
    for _ in 1..ROUNDS {
        if all.iter().all(|seen| seen.posture.is_some()) {
            break;
        }
        all = look(&channel)?;
    }
    let different = all.iter().any(|seen| !seen.differences.is_empty());
    let code = if different { Code::Sandbox } else { Code::PoweredOff };
    Ok((if line.json { shown::json(&all) } else { shown::screen(&all) }, code))
}

fn look(channel: &Channel) -> Result<Vec<Seen>, Error> {
    let FromLauncher::Processes(statuses) = ask(channel, &ToLauncher::Processes, None)? else {
        return Err(unexpected());
    };
    let launcher = statuses.first().map_or(0, |launcher| launcher.pid);
    Ok(statuses.into_iter().map(|status| see(status, launcher)).collect())
}

fn see(status: ProcessStatus, launcher: i32) -> Seen {
    let belongs = |posture: &Posture| {
        let parent = posture.threads.first().map_or(0, |main| main.parent);
        posture.pid == launcher || parent == launcher
    };
    let posture = posture::read(status.pid).ok().filter(belongs);
    let differences = match (&posture, role(&status, launcher)) {
        (Some(posture), Some(role)) if status.ready => differences(&status, role, posture),
        (_, None) => vec![format!("program: there is none called {}", status.program)],
        // It is not confined yet as it will be, or it is gone.
        _ => Vec::new(),
    };
    Seen { status, posture, differences }
}

fn role(status: &ProcessStatus, launcher: i32) -> Option<Role> {
    if status.program == user_network::NAME {
        return Some(Role::Foreign);
    }
    let program = Program::ALL.into_iter().find(|program| program.name() == status.program)?;
    Some(match program {
        Program::Launcher if status.pid == launcher => Role::Launcher,
        Program::Launcher => Role::Spawner,
        program => Role::Spawned(program),
    })
}

fn differences(status: &ProcessStatus, role: Role, posture: &Posture) -> Vec<String> {
    let mut found = promise::differences(role, posture);
    if status.landlock_abi == 0 && !matches!(role, Role::Spawner | Role::Foreign) {
        found.push("landlock: none, by its own word".to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(name: &str, program: &str, pid: i32) -> ProcessStatus {
        ProcessStatus {
            name: name.to_owned(),
            program: program.to_owned(),
            state: "serving".to_owned(),
            pid,
            ready: true,
            landlock_abi: 7,
        }
    }

    /// This very process, which nothing confines.
    fn own() -> i32 {
        nix::unistd::getpid().as_raw()
    }

    #[test]
    fn a_process_that_is_not_confined_is_different_and_one_that_is_not_ready_not_yet() {
        let seen = see(status("vmm", "vmm", own()), own());
        assert!(seen.differences.iter().any(|line| line.contains("no_new_privs")), "{seen:?}");
        let text = shown::screen(&[seen]);
        assert!(text.contains("  DIFFERENT    thread "), "{text}");
        let seen = see(ProcessStatus { ready: false, ..status("vmm", "vmm", own()) }, own());
        assert_eq!(seen.differences, Vec::<String>::new());
        assert!(shown::screen(&[seen]).contains("not ready yet"));
    }

    #[test]
    fn a_stranger_with_the_pid_of_one_that_is_gone_is_not_taken_for_it() {
        // Whoever is the parent of this process, it is not the process itself.
        let seen = see(status("blk0", "device-blk", nix::unistd::getppid().as_raw()), own());
        assert!(seen.posture.is_none());
        assert!(shown::screen(&[seen]).contains("is gone"));
    }

    #[test]
    fn a_program_that_nobody_knows_is_a_difference() {
        let seen = see(status("blk0", "device-of-tomorrow", own()), own());
        assert_eq!(seen.differences, ["program: there is none called device-of-tomorrow"]);
    }

    #[test]
    fn no_landlock_is_a_difference_of_all_but_the_spawner() {
        let posture = posture::read(own()).unwrap();
        let bare = ProcessStatus { landlock_abi: 0, ..status("vmm", "vmm", own()) };
        let last = |role| differences(&bare, role, &posture).pop().unwrap_or_default();
        assert_eq!(last(Role::Launcher), "landlock: none, by its own word");
        assert_ne!(last(Role::Spawner), "landlock: none, by its own word");
    }
}
