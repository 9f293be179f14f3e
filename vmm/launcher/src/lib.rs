//! `vmm`, the launcher: it opens everything, spawns the core and the devices by descriptor, each into a confinement of
//! its own, hands over to each what it serves, gives up its own rights, and supervises until all are gone.
//!
//! It is the one program of a machine that knows paths. It never maps guest memory and never reads a byte that a guest
//! or a device wrote beyond the bounded frames of `protocol` and bounded lines of log. It has one thread, because its
//! children die with the thread that spawned them.

mod balloon_statistics;
mod cgroup;
mod cli;
mod config;
mod control_socket;
mod ctl;
mod device;
mod device_option;
mod device_process;
mod doctor;
mod dry_run;
mod error;
mod exit_code;
mod handover;
mod inputs;
mod inspect;
mod json;
mod keep;
mod listening;
mod machine;
mod memory;
mod nearest;
mod network;
mod open;
mod policy;
mod programs;
mod report;
mod sandbox_log;
mod size;
mod spawn;
mod spawner;
mod supervise;
mod terminal;
mod terminal_size;
mod user_network;

use std::io::Write;

use cli::{CommandLine, Request};
use config::{Config, Speculation};
use error::Error;
use exit_code::Code;
use inputs::{Inputs, Purpose};
use machine::Machine;
use sandbox_policies::{Requirement, speculation};
use supervise::{Clients, Journal, Outcome, Recovery, Signals, Supervisor};
use terminal::RawMode;

/// The program: what the arguments ask for, and the process's end.
pub fn main() -> ! {
    let outcome = cli::parse(std::env::args_os()).and_then(|request| match request {
        Request::Print(text) => Ok(print(&text)),
        Request::Run(line) => run(*line),
        Request::Control(line) => ctl::run(&line).map(|text| print(&text)),
        Request::Inspect(line) => inspect::run(&line).map(|(text, code)| Outcome { code, ..print(&text) }),
        Request::Doctor(line) => doctor::run(&line).map(|(text, code)| Outcome { code, ..print(&text) }),
        Request::Policy(line) => policy::run(&line).map(|text| print(&text)),
    });
    let outcome =
        outcome.unwrap_or_else(|error| Outcome { code: error.code(), text: Some(error.to_string()) });
    if let Some(text) = outcome.text {
        report::say(&text);
    }
    // Everything is dropped by now. Returning would first take down the standard library's signal stack, by a system
    // call that the filter of a confined launcher does not have.
    sandbox_policies::end_process(outcome.code.number().into())
}

/// For the fuzz target of what a user writes: whether these arguments and this settings file make a machine that could be
/// opened, and if not what he would be told.
#[cfg(feature = "fuzzing")]
pub fn understands(arguments: &[std::ffi::OsString], file: &str) -> Result<(), String> {
    let understand = || match cli::parse(arguments.iter().cloned())? {
        Request::Run(line) => {
            let file = Config::from_toml(file, std::path::Path::new("settings"))?;
            Machine::new(line.settings.or(file)).map(drop)
        }
        _ => Ok(()),
    };
    understand().map_err(|error: Error| error.to_string())
}

fn run(line: CommandLine) -> Result<Outcome, Error> {
    let settings = match &line.config {
        Some(path) => line.settings.or(Config::from_toml(&open::settings(path)?, path)?),
        None => line.settings,
    };
    let machine = Machine::new(settings)?;
    if line.dry_run {
        let inputs = Inputs::open(&machine, Purpose::DryRun)?;
        return Ok(print(&dry_run::plan(&machine, &inputs)));
    }
    // Before anything is opened: a tracer that held a disk would hold its lock.
    if line.sandbox_log
        && let Some(outcome) = sandbox_log::split()?
    {
        return Ok(outcome);
    }
    if machine.speculation == Speculation::Restricted {
        restrict_speculation(handover::requirement(&machine))?;
    }
    let mut inputs = Inputs::open(&machine, Purpose::Run)?;
    let memory = memory::create(machine.memory, machine.huge_pages)?;

    // All input is good. From here on there is something to put back and to end: the terminal and the processes do so
    // when they are dropped, and a signal is an event.
    let signals = Signals::take()?;
    let _terminal = if machine.has_terminal() { RawMode::enter()? } else { None };
    let _other_ends = inputs.take_other_ends();
    let user_networks = inputs.take_user_networks();
    let processes = handover::hand_over(&machine, &inputs, &memory, user_networks)?;
    let journal = Journal::new(inputs.events.take());
    let clients = Clients::new(inputs.control.take());
    drop((memory, inputs));
    handover::start(&processes)?;
    let mut devices = Recovery::of(&machine.devices);
    for device in devices.iter_mut().filter(|device| device.process.is_some()) {
        device.keep = Some(keep::create()?);
    }
    let requirement = handover::requirement(&machine);
    Supervisor::new(processes, devices, journal, clients, signals, requirement, machine.shutdown_timeout)?
        .run()
}

/// For this process and all that will come of it, the spawner's successors included.
fn restrict_speculation(requirement: Requirement) -> Result<(), Error> {
    for found in speculation::restrict() {
        if requirement == Requirement::Required {
            return Err(Error::Confinement(sandbox_policies::Error::Layer { layer: "speculation", found }));
        }
        report::say(&format!("lacking: speculation: {found}"));
    }
    Ok(())
}

/// Prints what was asked for; a reader that goes away has what it wanted.
fn print(text: &str) -> Outcome {
    let _ = std::io::stdout().write_all(text.as_bytes());
    Outcome { code: Code::PoweredOff, text: None }
}
