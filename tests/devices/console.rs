//! Consoles: the guest's own, and a port with a name beside it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use system_tests::Result;
use system_tests::person::Person;

use crate::qemu::Qemu;

/// QEMU's device of any type knows nothing of it: how many queues there are and how long the configuration is has to be said.
fn front_end(queues: usize) -> String {
    format!("vhost-user-test-device-pci,virtio-id=3,num_vqs={queues},vq_size=256,config_size=12,chardev=")
}

#[test]
fn a_guest_of_qemu_has_its_kernels_console_and_a_shell_on_hvc0() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("console");
    let listener = UnixListener::bind(&path).expect("a socket");
    let place = format!("--connect={}", path.display());
    let qemu = Qemu::next().device("console", &[&place], &["-device", &front_end(2)])?;
    let guest = qemu.command_line("console=hvc0").start("hvc")?;
    let mut person = Person::at(&listener).expect("device-console connects");
    assert!(guest.running.wait_for("consoles")?.contains("hvc0"), "{}", guest.running.console());
    person.sees(&guest.running, "/ # ")?;
    person.types("dmesg -n 8; echo \"<1>from the kernel $((40 + 2))\" > /dev/kmsg")?;
    person.sees(&guest.running, "] from the kernel 42")?;
    person.types("echo answer $((6 * 7)) from $(tty)")?;
    person.sees(&guest.running, "answer 42 from /dev/hvc0")?;
    person.types("exit")?;
    guest.running.wait_for("left")?;
    guest.wait().map(drop)
}

#[test]
fn a_guest_of_qemu_has_a_port_with_a_name_and_the_size_of_its_console() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let (console, agent) = (folder.path().join("console"), folder.path().join("agent"));
    let listener = UnixListener::bind(&console).expect("a socket");
    let place = format!("--connect={}", console.display());
    let port = format!("--port=agent=listen:{}", agent.display());
    // Of each of two ports and of the control channel, both ways.
    let options = ["-device", &front_end(6)];
    let guest = Qemu::next().device("console", &[&place, &port, "--size=132x43"], &options)?.start("hvc")?;
    let mut person = Person::at(&listener).expect("device-console connects");
    person.sees(&guest.running, "/ # ")?;
    person
        .types("cd /dev; exec 3<> $(basename $(dirname $(grep -lx agent /sys/class/virtio-ports/*/name)))")?;
    person.types("echo open $((1 + 1))")?;
    person.sees(&guest.running, "open 2")?;
    let mut client = UnixStream::connect(&agent).expect("device-console listens");
    client.write_all(b"first\n").expect("it is taken");
    // Until there is somebody there is nothing to read, not even to wait for.
    person.types("until read -r line <&3; do sleep 1; done; echo got $line; echo heard $line >&3")?;
    person.sees(&guest.running, "got first")?;
    let mut heard = String::new();
    BufReader::new(&client).read_line(&mut heard).expect("the guest answers");
    assert_eq!(heard.trim_end(), "heard first");
    // Rows and columns in the specification's order; some kernels take one for the other.
    person.types("case $(stty size < /dev/hvc0) in '43 132' | '132 43') echo known $((3 + 4)) ;; esac")?;
    person.sees(&guest.running, "known 7")?;
    person.types("exit")?;
    guest.running.wait_for("left")?;
    guest.wait().map(drop)
}
