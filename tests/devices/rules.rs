//! Whatever a device's program may call while it serves is called when a stock guest drives the device, or stands in
//! `unused_rules.txt` with the reason why it is not.
//!
//! The programs are started on their own, and are copies whose filters tell a tracer what they allow; a stage's rules are
//! those that the machines of `vmm` have as well. QEMU has no persistent memory of vhost-user's, and of ours nobody plugs
//! memory there: those two programs are not among them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;

use sandbox_policies::{Program, Stage};
use system_tests::cable::Cable;
use system_tests::network::{again_inside, ip, is_inside};
use system_tests::sockets::{converse, echo, listen};
use system_tests::{Disk, Result};

use crate::excuses::{Seen, rules, wrong};
use crate::qemu::Qemu;
use crate::qemu_img;
use crate::witness::Witness;

/// Why each of the others is not used here.
const EXCUSES: &str = include_str!("unused_rules.txt");

const PROGRAMS: [Program; 8] = [
    Program::DeviceBalloon,
    Program::DeviceBlk,
    Program::DeviceBlkQcow2,
    Program::DeviceConsole,
    Program::DeviceFs,
    Program::DeviceNet,
    Program::DeviceRng,
    Program::DeviceVsock,
];

/// Connections with the guest, each way.
const CONNECTIONS: usize = 20;

#[test]
fn a_stock_guest_has_each_program_use_what_it_may_call() -> Result<()> {
    if !is_inside() {
        return again_inside("rules::a_stock_guest_has_each_program_use_what_it_may_call");
    }
    let witness = Rc::new(Witness::new()?);
    drive(Qemu::before(&witness))?;
    let used = witness.used();
    let served = |rule: &Seen| PROGRAMS.contains(&rule.program) && rule.stage == Stage::Serve;
    let wrong = wrong(rules(&used).into_iter().filter(served).collect(), EXCUSES);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn drive(qemu: Qemu) -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    ip("tuntap add tap0 mode tap multi_queue")?;
    ip("link set tap0 up")?;
    ip("address add 10.9.0.1/24 dev tap0")?;
    let cable = Cable::new("tap1", 1500)?;
    ip("address add 10.10.0.1/24 dev tap1")?;
    let disk = Disk::empty(64 << 20)?;
    qemu_img::create(&place("image"), "compat=1.1", 64 << 20)?;
    fs::create_dir(place("shared")).expect("a folder");
    let sockets = place("vm");
    let served = echo(listen(&sockets, 5000)?, CONNECTIONS);
    let of_any_type = |kind: u8, queues: u8, size: u8| {
        format!(
            "vhost-user-test-device-pci,virtio-id={kind},num_vqs={queues},vq_size=256,config_size={size},chardev="
        )
    };
    let option = |name: &str, path: &str| format!("--{name}={}", place(path).display());
    let blk = ["-device", "vhost-user-blk-pci,chardev="];
    let qemu = qemu.device("blk", &[&format!("--path={}", disk.path().display())], &blk)?;
    let qemu = qemu.device("blk-qcow2", &[&option("path", "image")], &blk)?;
    let tap = [
        "-netdev",
        "vhost-user,id=n0,queues=2,chardev=",
        "-device",
        "virtio-net-pci,netdev=n0,romfile=,mq=on,vectors=6,mac=52:54:00:12:34:56",
    ];
    let qemu = qemu.device("net", &["--tap=tap0", "--queues=2", "--mac=52:54:00:12:34:56"], &tap)?;
    let stream = [
        "-netdev",
        "vhost-user,id=n1,chardev=",
        "-device",
        "virtio-net-pci,netdev=n1,romfile=,mac=52:54:00:12:34:57",
    ];
    let path = format!("--stream={}", cable.path().display());
    let qemu = qemu.device("net", &[&path, "--mac=52:54:00:12:34:57"], &stream)?;
    cable.carry()?;
    let qemu =
        qemu.device("console", &[&option("listen", "console")], &["-device", &of_any_type(3, 2, 12)])?;
    let qemu = qemu.device("rng", &[], &["-device", "vhost-user-rng-pci,chardev="])?;
    let balloon = format!("--size={}", 16 << 20);
    let qemu = qemu.device("balloon", &[&balloon], &["-device", &of_any_type(5, 5, 16)])?;
    let shared = ["-device", "vhost-user-fs-pci,tag=shared,chardev="];
    let qemu = qemu.device("fs", &[&option("path", "shared"), "--tag=shared"], &shared)?;
    let vsock = ["-device", "vhost-user-vsock-pci,chardev="];
    let qemu = qemu.device("vsock", &["--cid=42", &option("path", "vm")], &vsock)?;
    let guest = qemu.start("everything")?;
    guest.running.wait_for("echoing")?;
    converse(&sockets, CONNECTIONS)?;
    guest.running.wait_for("console")?;
    converse_at(&place("console"));
    let ended = guest.wait()?;
    assert_eq!(ended.said("failed")?, "", "{}", ended.everything());
    assert!(served.join().expect("an end").expect("a number") > 0);
    Ok(())
}

/// What is typed at the console is heard in the guest, and answered.
fn converse_at(console: &Path) {
    let mut client = UnixStream::connect(console).expect("device-console listens");
    client.write_all(b"typed\n").expect("it is taken");
    let mut heard = String::new();
    BufReader::new(&client).read_line(&mut heard).expect("the guest answers");
    assert_eq!(heard.trim_end(), "heard typed");
}
