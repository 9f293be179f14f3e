//! Attributes of the calling process that are set by one `prctl` each, and the umask.

use std::ffi::{CStr, CString};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;

use crate::system_calls::{process_control, reset_signal};
use crate::{Program, Report};

/// `PR_SET_MDWE` and its flag `PR_MDWE_REFUSE_EXEC_GAIN`, Linux 6.3.
const SET_MDWE: i32 = 65;
const REFUSE_EXEC_GAIN: u64 = 1;

/// What `ps` and the kernel's log call the calling process. After an exec by descriptor kernels before 6.14
/// call it by the descriptor's number.
pub fn name(program: Program) -> Result<(), Errno> {
    let name = CString::new(program.name()).map_err(|_| Errno::EINVAL)?;
    rename(&name)
}

/// The same by another name.
pub fn rename(name: &CStr) -> Result<(), Errno> {
    prctl::set_name(name)
}

/// No exec can add a privilege any more.
pub fn no_new_privileges() -> Result<(), Errno> {
    prctl::set_no_new_privs()
}

/// The calling process dies with the thread that spawned it. A change of ids undoes this: set it afterwards.
pub fn die_with_spawner() -> Result<(), Errno> {
    prctl::set_pdeathsig(Signal::SIGKILL)
}

/// Nobody of the same user can trace this process, read its memory or take its descriptors.
pub fn not_dumpable() -> Result<(), Errno> {
    prctl::set_dumpable(false)
}

/// Memory that was writable never becomes executable. The seccomp filters see to the same by argument,
/// therefore a kernel that does not know this (before 6.3) is reported and not refused.
pub fn no_executable_gain(report: &mut Report) {
    if let Err(errno) = process_control(SET_MDWE, REFUSE_EXEC_GAIN, 0) {
        report.lacking.push(format!("memory-deny-write-execute: {errno}; Linux 6.3 has it"));
    }
}

/// A fault ends the process by its own signal. The standard library's handler, which is there to tell a stack that
/// overflowed from other faults, takes itself away by a system call that no serving filter lists: the process would die
/// of that, and whoever reads how it died would look for a hole in the policy.
pub fn die_of_faults() -> Result<(), Errno> {
    [Signal::SIGSEGV, Signal::SIGBUS].into_iter().try_for_each(|signal| reset_signal(signal as i32))
}

/// What a program that the spawner started must find set already: one line for each that is not.
pub fn shortcomings() -> Vec<String> {
    let mut found = Vec::new();
    if prctl::get_no_new_privs() != Ok(true) {
        found.push("no_new_privs: not set".to_owned());
    }
    if prctl::get_pdeathsig() != Ok(Some(Signal::SIGKILL)) {
        found.push("death signal: not SIGKILL".to_owned());
    }
    if std::env::vars_os().next().is_some() {
        found.push("environment: not empty".to_owned());
    }
    found
}
