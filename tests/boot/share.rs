//! A guest that mounts directories of the host.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use system_tests::{Machine, Result, warnings};

#[test]
fn a_stock_driver_mounts_directories_and_finds_what_it_did_to_files() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let (shared, given) = (folder.path().join("shared"), folder.path().join("given"));
    for path in [&shared, &given] {
        fs::create_dir(path).expect("a folder");
        fs::write(path.join("from-host"), "written on the host").expect("a file");
    }
    // Where the host's file system maps no owners (tmpfs before Linux 6.3), root's program is a stranger.
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).expect("its owner");
    fs::write(folder.path().join("secret"), "secret").expect("a file");
    symlink("../secret", shared.join("out")).expect("a link");
    let ended = Machine::new("share")
        .option("cpus", "2")
        .option("device", &format!("fs,path={},tag=shared,queues=2", shared.display()))
        .option("device", &format!("fs,path={},tag=given,readonly=on", given.display()))
        .run()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    assert_eq!(ended.said("mounted")?, "0", "{}", ended.everything());
    assert_eq!(ended.said("read")?, "written on the host");
    assert_eq!(ended.said("link")?, "../secret 1", "a link out leads nowhere in the guest");
    let done = ended.said("tree")?;
    assert!(done.starts_with("operations=1500") && done.ends_with("wrong=0"), "{}", ended.everything());
    assert!(ended.said("change")?.contains("Read-only"), "{}", ended.everything());
    assert_eq!(ended.said("given")?, "written on the host");
    assert_eq!(ended.said("program")?, "runs", "{}", ended.everything());
    assert_eq!(ended.said("removed")?, "busybox from-host out");
    let mut left: Vec<_> =
        fs::read_dir(&shared).expect("a folder").flatten().map(|it| it.file_name()).collect();
    left.sort();
    assert_eq!(left, ["busybox", "from-host", "out"]);
    assert_eq!(fs::read_dir(&given).expect("a folder").count(), 1);
    warnings::none_of_ours(&ended)
}
