//! A network of a test's own: the test once more, in a process in a user and a network namespace of its own, where it may
//! make what interfaces it likes and meets nobody else's.
//!
//! `unshare` of util-linux and `ip` of iproute2 are needed, or busybox's.

use std::process::{Command, Stdio};

use crate::error::tried;
use crate::{Error, Result};

/// Says to a test program that it is in the namespaces.
pub const INSIDE: &str = "VMM_TEST_NETWORK";

/// Whether this process is in them.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs the test `name` of this program in new ones.
pub fn again_inside(name: &str) -> Result<()> {
    let program = std::env::current_exe().map_err(tried("cannot find this program"))?;
    let mut command = Command::new("unshare");
    // A user namespace in which we are root, and a network namespace; busybox has these letters, too.
    command.args(["-r", "-n"]).arg(program).args(["--exact", name, "--nocapture"]);
    let output =
        command.env(INSIDE, "1").stdin(Stdio::null()).output().map_err(tried("cannot run unshare"))?;
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    // A name that no test has would pass, too.
    if output.status.success() && said.concat().contains("1 passed") {
        // What it measured and by which seed, and not what its harness says of it.
        let told = said.iter().flat_map(|text| text.lines());
        told.filter(|line| line.starts_with("measured: ") || line.starts_with("VMM_"))
            .for_each(|line| println!("{line}"));
        return Ok(());
    }
    Err(Error::Unexpected(format!("{name} failed in a network of its own\n{}", said.concat())))
}

/// One command of `ip`.
pub fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(tried("cannot run ip"))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::Unexpected(format!("ip {arguments}: {why}")))
}
