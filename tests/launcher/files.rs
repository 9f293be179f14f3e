//! Files that are not what they should be.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use system_tests::{Disk, Error, Result};

use crate::refusal::{KERNEL, RESOURCE, USAGE, refused, says};

fn kernel(path: &Path) -> String {
    format!("--kernel={}", path.display())
}

fn device(path: &Path, options: &str) -> String {
    format!("--device=blk,path={}{options}", path.display())
}

/// A file with `content`, in a folder that goes with it.
fn file(content: &[u8]) -> Result<Disk> {
    Disk::with(content, u64::try_from(content.len()).expect("short"))
}

#[test]
fn a_kernel_that_is_missing() -> Result<()> {
    says(&refused(RESOURCE, &["--kernel=/nowhere/vmlinuz"])?, &["/nowhere/vmlinuz"]);
    Ok(())
}

#[test]
fn a_kernel_or_a_disk_that_is_a_folder() -> Result<()> {
    says(&refused(RESOURCE, &["--kernel=/proc"])?, &["/proc", "directory"]);
    let text = file(b"text")?;
    says(
        &refused(RESOURCE, &[kernel(text.path()), device(Path::new("/proc"), "")])?,
        &["/proc", "directory"],
    );
    Ok(())
}

#[test]
fn a_directory_that_is_none() -> Result<()> {
    let text = file(b"text")?;
    let kernel = kernel(text.path());
    for (path, parts) in [
        (text.path().display().to_string(), ["a regular file", "no directory"]),
        ("/nowhere/at/all".to_owned(), ["/nowhere/at/all", "No such file"]),
    ] {
        says(&refused(RESOURCE, &[kernel.clone(), format!("--device=fs,path={path},tag=t")])?, &parts);
    }
    Ok(())
}

#[test]
fn a_vsock_where_none_can_be() -> Result<()> {
    let text = file(b"text")?;
    let kernel = kernel(text.path());
    let folder = tempfile::tempdir().expect("a folder");
    let taken = folder.path().join("taken");
    let _listener = std::os::unix::net::UnixListener::bind(&taken).expect("a socket");
    for (path, parts) in [
        (text.path().display().to_string(), ["no socket", "vsock"]),
        ("/nowhere/at/all".to_owned(), ["/nowhere/at", "No such file"]),
        (taken.display().to_string(), ["somebody listens", "vsock"]),
    ] {
        says(&refused(RESOURCE, &[kernel.clone(), format!("--device=vsock,cid=3,path={path}")])?, &parts);
    }
    assert!(taken.exists() && text.path().exists());
    Ok(())
}

#[test]
fn a_console_where_none_can_be() -> Result<()> {
    let text = file(b"text")?;
    let kernel = kernel(text.path());
    for (place, parts) in [
        ("path=/proc", ["/proc", "directory"]),
        ("path=/nowhere/at/all", ["/nowhere/at/all", "No such file"]),
        ("connect=/nowhere/at/all", ["/nowhere/at/all", "No such file"]),
        ("listen=/nowhere/at/all", ["/nowhere/at/all", "No such file"]),
    ] {
        says(&refused(RESOURCE, &[kernel.clone(), format!("--device=console,{place}")])?, &parts);
    }
    // Standard input of these tests is a pipe.
    says(&refused(USAGE, &[kernel.clone(), "--device=console,stdio=on".to_owned()])?, &["no terminal"]);
    // What a disk has is no console's.
    let disk = Disk::empty(1 << 20)?;
    let console = format!("--device=console,path={}", disk.path().display());
    says(&refused(USAGE, &[kernel, device(disk.path(), ""), console])?, &["console0", "blk0's already"]);
    Ok(())
}

#[test]
fn persistent_memory_that_cannot_be() -> Result<()> {
    let text = file(b"text")?;
    let kernel = kernel(text.path());
    let pmem = |path: &Path, options: &str| format!("--device=pmem,path={}{options}", path.display());
    let (odd, fine) = (Disk::empty((4 << 20) + 512)?, Disk::empty(4 << 20)?);
    for (device, code, parts) in [
        (pmem(Path::new("/proc"), ""), RESOURCE, ["/proc", "directory"]),
        (pmem(Path::new("/dev/null"), ""), RESOURCE, ["/dev/null", "character device"]),
        (
            pmem(Path::new("/nowhere/at/all"), ""),
            RESOURCE,
            ["open persistent memory \"/nowhere/at/all\"", "No such file"],
        ),
        (pmem(odd.path(), ""), RESOURCE, ["truncate -s 6291456", "size=4M"]),
        (pmem(fine.path(), ",size=8M"), RESOURCE, ["truncate -s 8388608", "4194304 bytes"]),
        (pmem(fine.path(), ",size=1M"), USAGE, ["pmem0", "multiple of 2M"]),
        ("--device=pmem,socket=/s".to_owned(), USAGE, ["pmem0", "path=FILE"]),
    ] {
        says(&refused(code, &[kernel.clone(), device])?, &parts);
    }
    // What a disk has is no memory's, but for what both only read.
    let both = [kernel, device(fine.path(), ",readonly=on"), pmem(fine.path(), "")];
    says(&refused(USAGE, &both)?, &["pmem0", "blk0's already"]);
    Ok(())
}

#[test]
fn a_kernel_that_is_none() -> Result<()> {
    let text = file("no kernel at all\n".repeat(1000).as_bytes())?;
    says(&refused(KERNEL, &[kernel(text.path())])?, &["kernel"]);
    let empty = file(b"")?;
    says(&refused(KERNEL, &[kernel(empty.path())])?, &["kernel"]);
    Ok(())
}

#[test]
fn a_bzimage_cut_short() -> Result<()> {
    // A setup header (boot.rst) that promises 39 sectors of set-up and a megabyte of kernel; then nothing.
    let mut image = vec![0_u8; 1024];
    image[0x1F1] = 39;
    image[0x1F4..0x1F8].copy_from_slice(&0x1_0000_u32.to_le_bytes());
    image[0x1FE..0x200].copy_from_slice(&0xAA55_u16.to_le_bytes());
    image[0x200..0x202].copy_from_slice(&[0xEB, 0x66]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020F_u16.to_le_bytes());
    image[0x211] = 1;
    image[0x236] = 1;
    let cut = file(&image)?;
    says(&refused(KERNEL, &[kernel(cut.path())])?, &["kernel"]);
    Ok(())
}

#[test]
fn an_initrd_larger_than_memory() -> Result<()> {
    let text = file(b"text")?;
    let large = Disk::empty(1 << 30)?;
    let initrd = format!("--initrd={}", large.path().display());
    let line = refused(KERNEL, &[kernel(text.path()), initrd, "--memory=128M".to_owned()])?;
    says(&line, &["initrd"]);
    Ok(())
}

#[test]
fn a_disk_of_half_a_sector_more() -> Result<()> {
    let text = file(b"text")?;
    let odd = Disk::empty(1_000_000)?;
    says(&refused(RESOURCE, &[kernel(text.path()), device(odd.path(), "")])?, &["1000000", "512"]);
    Ok(())
}

#[test]
fn a_disk_that_somebody_else_uses() -> Result<()> {
    let text = file(b"text")?;
    let disk = Disk::empty(1 << 20)?;
    let holder = fs::File::options()
        .read(true)
        .write(true)
        .open(disk.path())
        .map_err(|source| Error::System { what: "cannot open the disk".to_owned(), source })?;
    // The kind of lock that QEMU takes: of the open file description, over the whole file.
    let lock = nix::libc::flock {
        l_type: i16::try_from(nix::libc::F_WRLCK).expect("a small number"),
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&holder, FcntlArg::F_OFD_SETLK(&lock)).expect("nobody else has this disk");
    let path = disk.path().display().to_string();
    says(&refused(RESOURCE, &[kernel(text.path()), device(disk.path(), "")])?, &[&path, "lock=off"]);
    drop(holder);
    Ok(())
}

#[test]
fn a_socket_where_nobody_listens() -> Result<()> {
    let text = file(b"text")?;
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("missing.sock");
    let stale = folder.path().join("stale.sock");
    drop(UnixListener::bind(&stale).expect("a socket"));
    for socket in [missing, stale] {
        let device = format!("--device=blk,socket={}", socket.display());
        says(&refused(RESOURCE, &[kernel(text.path()), device])?, &[&socket.display().to_string()]);
    }
    Ok(())
}

#[test]
fn two_devices_on_one_socket() -> Result<()> {
    let text = file(b"text")?;
    let folder = tempfile::tempdir().expect("a folder");
    let (socket, alias) = (folder.path().join("back-end.sock"), folder.path().join("alias.sock"));
    let _listener = UnixListener::bind(&socket).expect("a socket");
    symlink(&socket, &alias).expect("a link");
    for second in [&socket, &alias] {
        let devices = [&socket, second].map(|path| format!("--device=blk,socket={}", path.display()));
        let line = refused(USAGE, &[&[kernel(text.path())][..], &devices].concat())?;
        says(&line, &[&second.display().to_string(), "blk0", "blk1"]);
    }
    Ok(())
}

#[test]
fn a_control_socket_where_something_else_is() -> Result<()> {
    let text = file(b"text")?;
    let folder = tempfile::tempdir().expect("a folder");
    let other = folder.path().join("other.sock");
    let _listener = UnixListener::bind(&other).expect("a socket");
    let long = folder.path().join("x".repeat(120));
    for (path, why) in [
        (folder.path(), "a directory is there"),
        (text.path(), "no socket"),
        (other.as_path(), "somebody listens there already"),
        (long.as_path(), "at most 107 bytes"),
        (Path::new("/nowhere/vm.sock"), "No such file"),
    ] {
        let socket = format!("--control-socket={}", path.display());
        says(&refused(RESOURCE, &[kernel(text.path()), socket])?, &[&path.display().to_string(), why]);
    }
    for path in [&other, &folder.path().join("missing.sock")] {
        let line = refused(RESOURCE, &["ctl", &path.display().to_string(), "devices"])?;
        says(&line, &[&path.display().to_string()]);
    }
    Ok(())
}
