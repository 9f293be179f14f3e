//! Bad input of which the launcher alone can tell, and which `tests/launcher` of the system tests does not try: one line
//! each, the documented exit code, no process and no lock left.

#![expect(clippy::expect_used, reason = "tests say what they expect by failing")]

use std::fs::{File, Permissions, set_permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const USAGE: i32 = 2;
const RESOURCE: i32 = 3;
const KERNEL: i32 = 4;
const KVM: i32 = 5;
/// Somebody who owns nothing.
const NOBODY: u32 = 65534;

/// A folder with a kernel that can be opened.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().expect("a folder"));
        set_permissions(folder.0.path(), Permissions::from_mode(0o755)).expect("permissions");
        folder.file("kernel", b"not looked at");
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        File::create(&path).and_then(|mut file| file.write_all(content)).expect("a file");
        path
    }

    fn disk(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path).and_then(|file| file.set_len(size)).expect("a disk");
        path
    }

    /// `vmm` with the folder's kernel, or another that comes later.
    fn vmm(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmm"));
        if !arguments
            .iter()
            .any(|argument| argument.starts_with("--kernel") || argument.starts_with("--config"))
        {
            command.arg("--kernel").arg(self.path("kernel"));
        }
        command.args(arguments).current_dir(self.0.path());
        command
    }
}

fn blk(path: &Path, options: &str) -> String {
    format!("--device=blk,path={}{options}", path.display())
}

/// Runs it, and asserts the code and one line that says all of `parts`.
fn refused(mut command: Command, code: i32, parts: &[&str]) {
    let Output { status, stdout, stderr } = command.output().expect("vmm runs");
    let text = String::from_utf8(stderr).expect("text");
    assert_eq!(status.code(), Some(code), "{text}");
    assert_eq!(stdout, b"", "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("vmm: "), "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

#[test]
fn a_file_without_permission() {
    let folder = Folder::new();
    let secret = folder.file("secret", &[0; 512]);
    set_permissions(&secret, Permissions::from_mode(0o000)).expect("permissions");
    for (argument, code) in [
        (format!("--kernel={}", secret.display()), RESOURCE),
        (format!("--initrd={}", secret.display()), RESOURCE),
        (blk(&secret, ""), RESOURCE),
        (format!("--console=file:{}", secret.display()), RESOURCE),
    ] {
        let mut command = folder.vmm(&[argument]);
        as_somebody_else(&mut command);
        refused(command, code, &["ermission denied", "secret"]);
    }
    // A node of KVM is told by its permissions before it is told by its kind.
    let mut command = folder.vmm(&[format!("--kvm={}", secret.display()), "--console=none".to_owned()]);
    as_somebody_else(&mut command);
    refused(command, KVM, &["no permission", "join the group"]);
}

/// Root may open everything.
fn as_somebody_else(command: &mut Command) {
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
}

#[test]
fn a_kvm_that_is_missing_or_something_else() {
    let folder = Folder::new();
    let kvm = |path: &str| folder.vmm(&[format!("--kvm={path}"), "--console=none".to_owned()]);
    refused(kvm("/nowhere/kvm"), KVM, &["/nowhere/kvm", "kvm_intel or kvm_amd"]);
    refused(kvm("/dev/null"), KVM, &["/dev/null", "not KVM's device node"]);
    refused(kvm("kernel"), KVM, &["kernel", "not KVM's device node"]);
}

#[test]
fn a_disk_that_is_empty_or_no_disk() {
    let folder = Folder::new();
    let empty = folder.disk("empty.raw", 0);
    refused(folder.vmm(&[blk(&empty, "")]), RESOURCE, &["empty.raw", "it is empty", "truncate"]);
    refused(folder.vmm(&[blk(Path::new("/dev/null"), "")]), RESOURCE, &["/dev/null", "a character device"]);
    refused(folder.vmm(&[blk(Path::new("missing.raw"), "")]), RESOURCE, &["missing.raw", "No such file"]);
}

#[test]
fn a_format_that_is_none_or_does_not_go_with_the_rest() {
    let folder = Folder::new();
    let disk = folder.disk("disk.raw", 4096);
    let vmm = |options: &str| folder.vmm(&[blk(&disk, options)]);
    refused(vmm(",format=vmdk"), USAGE, &["blk0", "format=vmdk", "neither raw nor qcow2"]);
    refused(vmm(",format="), USAGE, &["blk0", "neither raw nor qcow2"]);
    refused(vmm(",formt=qcow2"), USAGE, &["'formt'", "'format'"]);
    refused(vmm(",format=qcow2,direct=on"), USAGE, &["blk0", "direct=on", "qcow2"]);
    let empty = folder.disk("empty.qcow2", 0);
    let empty = folder.vmm(&[blk(&empty, ",format=qcow2")]);
    refused(empty, RESOURCE, &["empty.qcow2", "it is empty", "qemu-img create"]);
    let odd = folder.disk("odd.qcow2", 1000);
    refused(folder.vmm(&[blk(&odd, "")]), RESOURCE, &["odd.qcow2", "1000", "format=qcow2"]);
    let nowhere = folder.vmm(&[blk(Path::new("/proc"), ",format=qcow2")]);
    refused(nowhere, RESOURCE, &["/proc", "a directory"]);
    let over = |base: &Path, more: &str| {
        let options = format!(",format=qcow2,backing={}{more}", base.display());
        folder.vmm(&[blk(&disk, &options)])
    };
    refused(over(Path::new("missing"), ""), RESOURCE, &["open backing file", "missing", "No such file"]);
    refused(over(Path::new("/proc"), ""), RESOURCE, &["/proc", "a directory"]);
    refused(over(&folder.disk("none.qcow2", 0), ""), RESOURCE, &["none.qcow2", "it is empty"]);
    refused(over(&disk, ""), USAGE, &["disk.raw", "blk0's already"]);
    let base = folder.disk("base.raw", 4096);
    refused(over(&base, ",backing-format=vdi"), USAGE, &["backing-format=vdi", "neither raw nor qcow2"]);
    refused(vmm(&format!(",backing={}", base.display())), USAGE, &["blk0", "is format=qcow2 missing"]);
    // What is below an image nobody writes to.
    let image = format!(",format=qcow2,backing={}", base.display());
    refused(folder.vmm(&[blk(&disk, &image), blk(&base, "")]), USAGE, &["blk1", "base.raw", "blk0"]);
    // One file is one, whatever it is said to be.
    let both = folder.vmm(&[blk(&disk, ""), blk(&disk, ",format=qcow2")]);
    refused(both, USAGE, &["blk1", "blk0"]);
}

#[test]
fn a_dry_run_says_what_a_disk_is_taken_for_and_who_serves_it() {
    let folder = Folder::new();
    let disk = folder.disk("disk", 4096);
    for (format, program, content) in [
        ("", "device-blk;", "4096 bytes"),
        (",format=raw", "device-blk;", "4096 bytes"),
        (",format=qcow2", "device-blk-qcow2;", "a qcow2 image of 4096 bytes"),
    ] {
        let mut command = folder.vmm(&[blk(&disk, format), "--dry-run".to_owned()]);
        let output = command.arg("--console=none").output().expect("vmm runs");
        let plan = String::from_utf8(output.stdout).expect("text");
        let program = format!("policy {program}").replace(';', ",");
        assert!(output.status.success() && plan.contains(&program) && plan.contains(content), "{plan}");
    }
}

#[test]
fn a_dry_run_names_what_is_below_an_image() {
    let folder = Folder::new();
    let [disk, image, base] = ["disk", "image", "base"].map(|name| folder.disk(name, 4096));
    let (image, base) = (image.display(), base.display());
    let options = format!(",format=qcow2,backing={image},backing-2={base},backing-format=raw");
    let mut command = folder.vmm(&[blk(&disk, &options), "--dry-run".to_owned()]);
    let output = command.arg("--console=none").output().expect("vmm runs");
    let plan = String::from_utf8(output.stdout).expect("text");
    for line in [
        format!(
            "open   {image} for reading, locked for readers: blk0, backing file 1, a qcow2 image of 4096 bytes"
        ),
        format!("open   {base} for reading, locked for readers: blk0, backing file 2, 4096 bytes"),
    ] {
        assert!(plan.lines().any(|found| found == line), "{plan}");
    }
}

#[test]
fn one_disk_for_two_devices() {
    let folder = Folder::new();
    let disk = folder.disk("disk.raw", 4096);
    let alias = folder.path("alias.raw");
    symlink(&disk, &alias).expect("a link");
    for (first, second) in [("", ""), ("", ",readonly=on"), (",readonly=on", ""), (",lock=off", "")] {
        let command = folder.vmm(&[blk(&disk, first), blk(&alias, second)]);
        refused(command, USAGE, &["blk1", "alias.raw", "blk0"]);
    }
}

#[test]
fn two_readers_and_two_that_take_the_blame_may_share() {
    let folder = Folder::new();
    let disk = folder.disk("disk.raw", 4096);
    for options in [",readonly=on", ",lock=off"] {
        // It gets as far as the missing KVM.
        let kvm = "--kvm=/nowhere/kvm".to_owned();
        refused(folder.vmm(&[blk(&disk, options), blk(&disk, options), kvm]), KVM, &["/nowhere/kvm"]);
    }
}

#[test]
fn a_refusal_leaves_no_lock() {
    let folder = Folder::new();
    let disk = folder.disk("disk.raw", 4096);
    for _ in 0..2 {
        // The disk is locked when KVM is found missing; a lock left behind would be what the second one meets.
        refused(folder.vmm(&[blk(&disk, ""), "--kvm=/nowhere/kvm".to_owned()]), KVM, &["/nowhere/kvm"]);
    }
}

#[test]
fn more_devices_than_places() {
    let folder = Folder::new();
    let devices = vec!["--device=rng,socket=/nowhere".to_owned(); 32];
    refused(folder.vmm(&devices), USAGE, &["32 devices", "31"]);
}

#[test]
fn a_type_that_no_program_serves() {
    let folder = Folder::new();
    refused(folder.vmm(&["--device=crypto".to_owned()]), USAGE, &["crypto0", "crypto,socket=PATH"]);
}

#[test]
fn entropy_from_what_is_no_generator() {
    let folder = Folder::new();
    let disk = folder.disk("same-for-all", 512);
    let rng = |path: &Path| folder.vmm(&[format!("--device=rng,path={}", path.display())]);
    refused(rng(&disk), RESOURCE, &["same-for-all", "a regular file", "/dev/urandom"]);
    refused(rng(Path::new("/nowhere/hwrng")), RESOURCE, &["/nowhere/hwrng", "No such file"]);
    refused(folder.vmm(&["--device=rng,queues=2".to_owned()]), USAGE, &["rng0", "one queue"]);
}

#[test]
fn an_image_larger_than_memory() {
    let folder = Folder::new();
    let large = folder.disk("large", 128 << 20);
    let memory = "--memory=128M".to_owned();
    let initrd = format!("--initrd={}", large.display());
    refused(folder.vmm(&[initrd, memory.clone()]), KERNEL, &["initrd", "134217728 bytes", "128M"]);
    let kernel = format!("--kernel={}", large.display());
    refused(folder.vmm(&[kernel, memory]), KERNEL, &["kernel", "134217728 bytes", "128M"]);
}

#[test]
fn a_settings_file_that_cannot_be_used() {
    let folder = Folder::new();
    let config = |text: &str| {
        folder.file("guest.toml", text.as_bytes());
        folder.vmm(&["--config=guest.toml".to_owned()])
    };
    refused(config("kernel = 'kernel'\nmemroy = '1G'"), USAGE, &["guest.toml", "'memroy'", "'memory'"]);
    refused(config("kernel = 'kernel'\ncpus = 'two'"), USAGE, &["guest.toml", "line 2"]);
    refused(config("kernel = 'kernel'\ncpus = 64"), USAGE, &["64 vCPUs", "1 to 32"]);
    refused(config("kernel ="), USAGE, &["guest.toml", "line 1"]);
    refused(config("kernel = 'kernel'\n[[device]]\ntype = 'bkl'"), USAGE, &["'bkl'", "'blk'"]);
    refused(folder.vmm(&["--config=missing.toml".to_owned()]), USAGE, &["missing.toml", "No such file"]);
    refused(folder.vmm(&["--config=/proc".to_owned()]), USAGE, &["/proc", "a directory"]);
}

#[test]
fn a_dry_run_refuses_the_same_and_makes_nothing() {
    let folder = Folder::new();
    let disk = folder.disk("disk.raw", 1000);
    let dry = |arguments: &[String]| {
        folder.vmm(&[arguments, &["--dry-run".to_owned(), "--console=file:log".to_owned()]].concat())
    };
    refused(dry(&[blk(&disk, "")]), RESOURCE, &["1000 bytes", "512"]);
    refused(dry(&["--kvm=/nowhere/kvm".to_owned()]), KVM, &["/nowhere/kvm"]);
    assert!(!folder.path("log").exists(), "the console's file was made");
}

#[test]
fn a_path_cannot_write_to_the_terminal() {
    let folder = Folder::new();
    let mut command = folder.vmm(&["--kernel=/nowhere/\x1b[2J\nvmlinuz".to_owned()]);
    let output = command.output().expect("vmm runs");
    assert_eq!(output.status.code(), Some(RESOURCE));
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(!text.contains('\x1b') && text.lines().count() == 1, "{text:?}");
}

#[test]
fn events_that_can_go_nowhere() {
    let folder = Folder::new();
    let _listener = std::os::unix::net::UnixListener::bind(folder.path("socket")).expect("a socket");
    for (path, says) in [(".", "a directory"), ("socket", "a socket"), ("nowhere/events", "No such file")] {
        let vmm = folder.vmm(&[format!("--events={path}")]);
        refused(vmm, RESOURCE, &["cannot write events to", path, says]);
    }
}
