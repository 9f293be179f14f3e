//! Machines of several sizes, and both forms of the kernel.

use system_tests::{Ended, Kernel, Machine, Result, warnings};

/// A guest that says how large it finds its machine, and powers off.
fn boots(kernel: Kernel, cpus: &str, memory: &str) -> Result<Ended> {
    let ended = Machine::new("hello").kernel(kernel).option("cpus", cpus).option("memory", memory).run()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    assert_eq!(ended.said("cpus")?, cpus, "{}", ended.everything());
    assert_eq!(ended.said("job-done")?, "hello");
    warnings::none_of_ours(&ended)?;
    Ok(ended)
}

/// Asserts that the guest has between 3/4 and all of `given` KiB: its kernel keeps a part for itself.
fn has_memory(ended: &Ended, given: u64) -> Result<()> {
    let kibibytes: u64 = ended.said("memory")?.parse().expect("a number of KiB");
    let kept = given.checked_sub(kibibytes).expect("not more than there is");
    assert!(kept <= given.div_euclid(4), "{kibibytes} KiB of {given}");
    Ok(())
}

#[test]
fn a_bzimage_boots_on_one_cpu_in_128_mebibytes() -> Result<()> {
    let ended = boots(Kernel::BzImage, "1", "128M")?;
    // Of so little memory the kernel itself takes a larger part.
    let kibibytes: u64 = ended.said("memory")?.parse().expect("a number of KiB");
    assert!((64 * 1024..128 * 1024).contains(&kibibytes), "{kibibytes} KiB");
    Ok(())
}

#[test]
fn a_vmlinux_boots_on_four_cpus_above_four_gibibytes() -> Result<()> {
    has_memory(&boots(Kernel::Vmlinux, "4", "5G")?, 5 << 20)
}

#[test]
fn a_bzimage_boots_on_four_cpus() -> Result<()> {
    has_memory(&boots(Kernel::BzImage, "4", "512M")?, 512 << 10)
}

#[test]
fn a_vmlinux_boots_on_one_cpu() -> Result<()> {
    has_memory(&boots(Kernel::Vmlinux, "1", "512M")?, 512 << 10)
}
