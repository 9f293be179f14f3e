//! Stands in for programs that the launcher spawns, beside which it is put under their names. As `vmm-core` it has no guest
//! and drives the disk itself, or does not touch it; as `device-blk` it is one of an older minor version.

mod core;
mod old_device;

use std::process::ExitCode;

fn main() -> ExitCode {
    let name = std::env::args().next().unwrap_or_default();
    if name == "device-blk" && std::env::args().any(|argument| argument.starts_with("--sandbox-log=")) {
        // One that is older than that word.
        eprintln!("device-blk: invalid option '--sandbox-log'");
        return ExitCode::from(2);
    }
    let end = match name.as_str() {
        "vmm-core" => core::run(),
        "device-blk" => old_device::run(),
        _ => Err(system_tests::Error::Unexpected(
            "this program stands in for vmm-core and device-blk; the launcher runs it".to_owned(),
        )),
    };
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stand-in for {name}: {error}");
            ExitCode::from(97)
        }
    }
}
