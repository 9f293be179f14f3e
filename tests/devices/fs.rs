//! A directory.

use std::fs;
use std::os::unix::fs::symlink;

use system_tests::Result;

use crate::qemu::Qemu;

fn options(tag: &str) -> [String; 2] {
    ["-device".to_owned(), format!("vhost-user-fs-pci,tag={tag},chardev=")]
}

#[test]
fn a_guest_of_qemu_mounts_directories_and_finds_what_it_did_to_files() -> Result<()> {
    Qemu::each(mounts)
}

fn mounts(mut qemu: Qemu) -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    for (tag, readonly) in [("shared", false), ("given", true)] {
        let path = folder.path().join(tag);
        fs::create_dir(&path).expect("a folder");
        fs::write(path.join("from-host"), "written on the host").expect("a file");
        let arguments =
            [format!("--path={}", path.display()), format!("--tag={tag}"), "--read-only".to_owned()];
        let arguments: Vec<&str> =
            arguments.iter().map(String::as_str).take(if readonly { 3 } else { 2 }).collect();
        let options = options(tag);
        qemu = qemu.device("fs", &arguments, &[options[0].as_str(), &options[1]])?;
    }
    fs::write(folder.path().join("secret"), "secret").expect("a file");
    symlink("../secret", folder.path().join("shared/out")).expect("a link");
    let ended = qemu.start("share")?.wait()?;
    assert_eq!(ended.said("mounted")?, "0", "{}", ended.everything());
    assert_eq!(ended.said("read")?, "written on the host");
    assert_eq!(ended.said("link")?, "../secret 1", "a link out leads nowhere in the guest");
    let done = ended.said("tree")?;
    assert!(done.starts_with("operations=1500") && done.ends_with("wrong=0"), "{}", ended.everything());
    assert!(ended.said("change")?.contains("Read-only"), "{}", ended.everything());
    assert_eq!(ended.said("program")?, "runs", "{}", ended.everything());
    assert_eq!(fs::read_dir(folder.path().join("given")).expect("a folder").count(), 1);
    Ok(())
}
