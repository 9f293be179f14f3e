//! Arguments that make no machine.

use system_tests::Result;

use crate::refusal::{USAGE, refused, says};

/// A kernel that can be opened; whether it is one is never looked at here.
const KERNEL: &str = "--kernel=/dev/null";

#[test]
fn no_kernel_named() -> Result<()> {
    says(&refused(USAGE, &["--memory=512M"])?, &["kernel"]);
    Ok(())
}

#[test]
fn memory_out_of_range() -> Result<()> {
    for memory in ["0", "1K", "100T", "99999999999999999999G", "-1", "lots"] {
        says(&refused(USAGE, &[KERNEL, &format!("--memory={memory}")])?, &["memory"]);
    }
    Ok(())
}

#[test]
fn cpus_out_of_range() -> Result<()> {
    for cpus in ["0", "33", "256", "-1", "two"] {
        says(&refused(USAGE, &[KERNEL, &format!("--cpus={cpus}")])?, &["cpus"]);
    }
    Ok(())
}

#[test]
fn an_unknown_device_names_the_nearest() -> Result<()> {
    says(&refused(USAGE, &[KERNEL, "--device=bkl,path=/disk.raw"])?, &["bkl", "blk"]);
    Ok(())
}

#[test]
fn an_unknown_device_option_names_the_nearest() -> Result<()> {
    says(&refused(USAGE, &[KERNEL, "--device=blk,path=/disk.raw,raedonly=on"])?, &["raedonly", "readonly"]);
    Ok(())
}

#[test]
fn an_unknown_option_names_the_nearest() -> Result<()> {
    says(&refused(USAGE, &[KERNEL, "--memroy=1G"])?, &["memroy", "--memory"]);
    Ok(())
}

#[test]
fn a_command_line_too_long() -> Result<()> {
    says(&refused(USAGE, &[KERNEL, &format!("--cmdline={}", "x".repeat(4096))])?, &["4096"]);
    Ok(())
}
