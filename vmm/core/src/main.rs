//! `vmm-core`: runs the vCPUs of one VM. Started by `vmm`, never by hand.

use protocol::{Channel, Failure, FailureKind, FromCore, Ready, ViolationFrame};
use sandbox_policies::{LastWord, Program, Requirement, Stage};
use std::process::ExitCode;
use vmm_core::threads::Threads;
use vmm_core::{Error, handoff, heap, log, machine};

/// Where the launcher puts the control channel.
const CONTROL: i32 = 3;

fn main() -> ExitCode {
    let ended = arguments(std::env::args().skip(1)).and_then(serve);
    // Not by returning: the standard library's clean-up makes system calls that no serving list has.
    sandbox_policies::end_process(ended.map_or_else(|error| exit_code(error.kind()), |()| 0))
}

fn serve(requirement: Requirement) -> Result<(), Error> {
    // Promise: from here on no new file, no new process, no socket; only what setting up needs.
    let ViolationFrame { before, after } = ViolationFrame::of_core()?;
    let last_word = LastWord { before, after };
    let report = sandbox_policies::stage_one(Program::Core, requirement, last_word).inspect_err(|error| {
        // There is nobody to tell but the log: the channel is not checked yet.
        log::line(format_args!("{error}"));
    })?;
    let channel = Channel::from_fd(vmm_core::inherited(CONTROL))?;
    let ready = Ready { landlock_abi: report.landlock_abi, lacking: report.lacking };
    serve_channel(&channel, ready).inspect_err(|error| {
        let failure = Failure::new(error.kind(), &error.to_string());
        if channel.send(&FromCore::Failed(failure), &[]).is_err() {
            log::line(format_args!("{error}"));
        }
    })
}

fn serve_channel(channel: &Channel, ready: Ready) -> Result<(), Error> {
    // Receive, and check what was received.
    let Some(hand_over) = handoff::receive(channel)? else { return Ok(()) };
    heap::share_among_threads();
    // Map and build: guest memory, VM, kernel, devices, and every thread that there will be.
    let mut threads = Threads::default();
    let control = machine::build(hand_over, channel, &mut threads)?;
    // Promise less: each thread gives up what its own work does not need.
    threads.confine(Stage::Control)?;
    channel.send(&FromCore::Ready(ready), &[])?;
    // Serve.
    threads.serve();
    control.serve()
}

fn arguments(arguments: impl Iterator<Item = String>) -> Result<Requirement, Error> {
    let given: Vec<String> = arguments.collect();
    let wrong = || {
        let error = Error::Arguments(format!("unexpected arguments {given:?}"));
        log::line(format_args!("{error}"));
        error
    };
    match given.as_slice() {
        [hand_over, sandbox, rest @ ..] if hand_over == "--hand-over=3" => {
            match rest {
                [] => {}
                // Whoever executes us decides it, before the first byte of the hand-over; see there.
                [log] if log.starts_with("--sandbox-log=") => sandbox_policies::log_refusals(),
                _ => return Err(wrong()),
            }
            sandbox.strip_prefix("--sandbox=").and_then(|word| word.parse().ok()).ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

/// The table that all programs share.
fn exit_code(kind: FailureKind) -> i32 {
    match kind {
        FailureKind::Internal | FailureKind::HandOver | FailureKind::Memory => 1,
        FailureKind::Resource => 3,
        FailureKind::Kernel | FailureKind::Initrd => 4,
        FailureKind::Kvm => 5,
        FailureKind::Sandbox => 6,
        FailureKind::Device => 7,
    }
}
