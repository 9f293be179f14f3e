//! What the guests are made of: the distribution's kernel, as it is packaged and unpacked, and an
//! initramfs of busybox, the virtio drivers and our own scripts.

pub mod apt;
pub mod bzimage;
mod closure;
pub mod cpio;
mod fio;
pub mod modules;
pub mod packages;
mod passt;
mod qemu;

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome, Tried};
use crate::host;
use crate::workspace::{Profile, Workspace};
use apt::Apt;
use cpio::Archive;
use modules::Modules;
use packages::{Package, Store};

/// The package whose dependency is the kernel to boot.
const KERNEL: &str = "linux-image-cloud-amd64";
/// What the guest needs to see its devices; ext4, /dev/hwrng, the serial port and ACPI are built into the kernel.
pub const GUEST_MODULES: [&str; 11] = [
    "virtio_pci",
    "virtio_balloon",
    "virtio_mem",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "virtio_pmem",
    "nd_pmem",
    "virtiofs",
    "vmw_vsock_virtio_transport",
];
/// What the nested rig's outer guest needs: its channels to the host, KVM, taps, and a disk.
pub const OUTER_MODULES: [&str; 5] = ["virtio_pci", "virtio_console", "kvm_amd", "tun", "brd"];

/// Everything made for the guests, in one folder.
pub struct Artifacts {
    /// Where the files below lie; the system tests know it as `VMM_ARTIFACTS`.
    pub folder: PathBuf,
    /// The names of those files that the system tests use.
    pub for_guests: Vec<&'static str>,
    /// What else the nested rig's outer guest has: paths there, and files.
    pub for_outer: Vec<(String, PathBuf)>,
}

impl Artifacts {
    /// Fetches and builds whatever is not there yet, and checks all of it.
    pub fn prepare(workspace: &Workspace) -> Outcome<Self> {
        host::need_programs(&[("dpkg-deb", "dpkg"), ("sha256sum", "coreutils")])?;
        let rig = workspace.rig_folder();
        let store = Store::open(rig.join("packages"), Apt::host())?;
        let kernel = store.behind(KERNEL, "linux-image-")?;
        let busybox = store.package("busybox-static")?;
        let for_guests = vec!["vmlinuz", "vmlinux", "initramfs", "busybox"];
        let artifacts = Self { folder: rig.join("artifacts"), for_guests, for_outer: Vec::new() };
        let modules = [&GUEST_MODULES[..], &OUTER_MODULES].concat();
        let made_from =
            format!("kernel {}\nbusybox {}\nmodules {}\n", kernel.sha256, busybox.sha256, modules.join(" "));
        if !artifacts.is_whole(&made_from)? {
            let unpacked = rig.join("unpacked");
            artifacts.unpack(&kernel, &busybox, &modules, &unpacked)?;
            artifacts.seal(&made_from)?;
            let _ = fs::remove_dir_all(&unpacked);
        }
        artifacts.write_initramfs(workspace)?;
        Ok(artifacts)
    }

    /// The uncompressed kernel.
    pub fn vmlinux(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// The static busybox.
    pub fn busybox(&self) -> PathBuf {
        self.folder.join("busybox")
    }

    /// Whether the files are those made from these packages, unchanged since.
    fn is_whole(&self, made_from: &str) -> Outcome<bool> {
        if fs::read_to_string(self.folder.join("made-from")).is_ok_and(|known| known == made_from) {
            let sums = fs::read_to_string(self.folder.join("SHA256SUMS")).unwrap_or_default();
            return Ok(!sums.is_empty() && sums == self.sums()?);
        }
        Ok(false)
    }

    /// The sums of all files that come out of packages, as sha256sum prints them; empty if one is missing.
    fn sums(&self) -> Outcome<String> {
        let mut files: Vec<PathBuf> =
            ["busybox", "vmlinux", "vmlinuz"].iter().map(|name| self.folder.join(name)).collect();
        files.extend(sorted(&self.folder.join("modules")).unwrap_or_default());
        let mut sums = String::new();
        for file in files {
            if !file.is_file() {
                return Ok(String::new());
            }
            sums.push_str(&format!("{} *{}\n", host::sha256(&file)?, file.display()));
        }
        Ok(sums)
    }

    fn unpack(&self, kernel: &Package, busybox: &Package, modules: &[&str], unpacked: &Path) -> Outcome<()> {
        crate::progress::step("unpacking the guest's kernel");
        let _ = fs::remove_dir_all(&self.folder);
        let kept = self.folder.join("modules");
        fs::create_dir_all(&kept).tried(|| format!("cannot make {}", kept.display()))?;
        kernel.unpack(&unpacked.join("kernel"))?;
        busybox.unpack(&unpacked.join("busybox"))?;
        let image = only_match(&unpacked.join("kernel/boot"), "vmlinuz-")?;
        copy(&image, &self.folder.join("vmlinuz"))?;
        let vmlinux = bzimage::extract_vmlinux(&image)?;
        fs::write(self.vmlinux(), vmlinux).tried(|| "cannot write vmlinux".to_owned())?;
        let program = ["bin/busybox", "usr/bin/busybox"]
            .map(|path| unpacked.join("busybox").join(path))
            .into_iter()
            .find(|path| path.is_file())
            .ok_or_else(|| Failure::new("package busybox-static holds no busybox"))?;
        copy(&program, &self.busybox())?;
        for (name, module) in Modules::below(&unpacked.join("kernel/lib/modules"))?.in_order(modules)? {
            fs::write(kept.join(format!("{name}.ko")), module)
                .tried(|| format!("cannot keep module {name}"))?;
        }
        Ok(())
    }

    fn seal(&self, made_from: &str) -> Outcome<()> {
        let write = |name: &str, text: &str| {
            fs::write(self.folder.join(name), text).tried(|| format!("cannot write {name}"))
        };
        write("SHA256SUMS", &self.sums()?)?;
        write("made-from", made_from)
    }

    /// The guest's initramfs, written anew each time: the scripts and the program in it are under development.
    fn write_initramfs(&self, workspace: &Workspace) -> Outcome<()> {
        let scripts = workspace.tests_folder().join("guest");
        let mut archive = self.userland(&GUEST_MODULES)?;
        archive.file("init", 0o755, &read(&scripts.join("init"))?);
        // A guest's processor may be an emulated one.
        let checker = workspace.build_program("system-tests", "checker", Profile::Release)?;
        archive.file("bin/checker", 0o755, &read(&checker)?);
        archive.folder("jobs");
        for path in sorted(&scripts.join("jobs"))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            archive.file(&format!("jobs/{name}"), 0o755, &read(&path)?);
        }
        let file = self.folder.join("initramfs");
        fs::write(&file, archive.finish()).tried(|| format!("cannot write {}", file.display()))
    }

    /// An archive that holds busybox, a console and `modules` (in `/modules`, with their order).
    pub fn userland(&self, modules: &[&str]) -> Outcome<Archive> {
        let mut archive = Archive::default();
        for folder in ["bin", "dev", "proc", "sys", "tmp", "run", "root", "modules"] {
            archive.folder(folder);
        }
        archive.character_device("dev/console", (5, 1));
        archive.character_device("dev/null", (1, 3));
        archive.file("bin/busybox", 0o755, &read(&self.busybox())?);
        archive.symlink("bin/sh", "busybox");
        let mut order = String::new();
        for (name, module) in Modules::below(&self.folder.join("modules"))?.in_order(modules)? {
            archive.file(&format!("modules/{name}.ko"), 0o644, &module);
            order.push_str(&format!("{name}\n"));
        }
        archive.file("modules/order", 0o644, order.as_bytes());
        Ok(archive)
    }
}

/// The content of `path`, or a failure that names it.
pub fn read(path: &Path) -> Outcome<Vec<u8>> {
    fs::read(path).tried(|| format!("cannot read {}", path.display()))
}

/// The entries of a folder, by name.
fn sorted(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).tried(|| format!("cannot list {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    Ok(paths)
}

fn copy(from: &Path, to: &Path) -> Outcome<()> {
    fs::copy(from, to).map(drop).tried(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn only_match(folder: &Path, prefix: &str) -> Outcome<PathBuf> {
    let named =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    sorted(folder)?
        .into_iter()
        .find(named)
        .ok_or_else(|| Failure::new(format!("no {prefix}* in {}", folder.display())))
}
