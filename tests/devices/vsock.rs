//! Sockets.

use system_tests::Result;
use system_tests::sockets::{converse, echo, listen};

use crate::qemu::Qemu;

const MANY: usize = 200;

#[test]
fn a_guest_of_qemu_has_many_connections_both_ways() -> Result<()> {
    Qemu::each(has_connections)
}

fn has_connections(qemu: Qemu) -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("vm");
    let (served, until) = (echo(listen(&path, 5000)?, MANY), listen(&path, 5002)?);
    let option = format!("--path={}", path.display());
    let options = ["-device", "vhost-user-vsock-pci,chardev="];
    let guest = qemu.device("vsock", &["--cid=42", &option], &options)?.start("vsock")?;
    guest.running.wait_for("echoing")?;
    converse(&path, MANY)?;
    let until = echo(until, 1);
    let ended = guest.wait()?;
    assert_eq!(ended.said("reached")?, format!("connections={MANY} rounds=20 wrong=0"));
    assert!(served.join().expect("an end").expect("a number") > 0);
    assert!(until.join().expect("an end").is_ok());
    assert!(ended.said("nobody")?.contains("reset"), "{}", ended.everything());
    Ok(())
}
