//! A guest whose sockets reach the host, and the other way round, without a network.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use system_tests::sockets::{ask, converse, echo, listen};
use system_tests::{Machine, Result, warnings};

/// Connections at once, each way.
const MANY: usize = 200;

#[test]
fn a_stock_driver_has_many_connections_both_ways() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("vm");
    // Where the host's file system maps no owners (tmpfs before Linux 6.3), root's program is a stranger.
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).expect("its owner");
    let (served, until) = (echo(listen(&path, 5000)?, MANY), listen(&path, 5002)?);
    let device = format!("vsock,cid=42,path={}", path.display());
    let running = Machine::new("vsock").option("cpus", "2").option("device", &device).start()?;
    running.wait_for("echoing")?;
    converse(&path, MANY).inspect_err(|_| println!("{}\n{}", running.console(), running.log()))?;
    let mut refused = ask(&path, 1025)?;
    assert_eq!(refused.read(&mut [0]).expect("an end"), 0, "nobody listens in the guest");
    let until = echo(until, 1);
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    assert_eq!(ended.said("reached")?, format!("connections={MANY} rounds=20 wrong=0"));
    assert!(served.join().expect("an end").expect("a number") > 0);
    assert!(until.join().expect("an end").is_ok());
    assert!(ended.said("nobody")?.contains("reset"), "{}", ended.everything());
    assert_eq!(ended.everything().matches("@@ended ").count(), MANY);
    assert!(!ended.everything().contains("@@lost"), "{}", ended.everything());
    assert!(!path.exists(), "the name goes with the machine");
    warnings::none_of_ours(&ended)
}
