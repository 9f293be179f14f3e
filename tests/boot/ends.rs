//! How machines end, and who may run them.

use system_tests::{Machine, Result};

#[test]
fn a_reboot_ends_with_nine() -> Result<()> {
    let ended = Machine::new("reboot").run()?;
    assert_eq!(ended.said("job-done")?, "reboot");
    assert_eq!(ended.code(), Some(9), "{}", ended.everything());
    Ok(())
}

#[test]
fn what_is_typed_reaches_the_guest() -> Result<()> {
    let mut running = Machine::new("console").start()?;
    running.wait_for("listening")?;
    running.type_line("forty-two")?;
    assert_eq!(running.wait_for("heard")?, "forty-two");
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    Ok(())
}

/// An ordinary user who may open /dev/kvm needs nothing else (in a rig where we are one already, this is
/// the same as any other boot).
#[test]
fn an_ordinary_user_boots_a_guest() -> Result<()> {
    let disk = system_tests::Disk::empty(1 << 20)?;
    let ended = Machine::new("hello").as_user(65534).disk(disk.path(), "").run()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    assert_eq!(ended.said("job-done")?, "hello");
    Ok(())
}
