//! A network.

use system_tests::Result;
use system_tests::echo::Listener;
use system_tests::network::{again_inside, ip, is_inside};

use crate::qemu::Qemu;

/// What the guest sends back.
const BYTES: u64 = 8 << 20;
const MAC: &str = "52:54:00:12:34:56";

#[test]
fn a_guest_of_qemu_pings_and_moves_data_both_ways() -> Result<()> {
    if !is_inside() {
        return again_inside("net::a_guest_of_qemu_pings_and_moves_data_both_ways");
    }
    ip("tuntap add tap0 mode tap")?;
    ip("link set tap0 up")?;
    ip("address add 10.9.0.1/24 dev tap0")?;
    Qemu::each(moves_data)
}

fn moves_data(qemu: Qemu) -> Result<()> {
    let listener = Listener::new()?;
    // Without MSI-X: QEMU 7.2 dies of its own configuration interrupt for a vhost-user network under software emulation.
    let vectors = if qemu.is_next() { "" } else { "vectors=0," };
    let device = format!("virtio-net-pci,netdev=net,romfile=,{vectors}mac={MAC}");
    let options = ["-netdev", "vhost-user,id=net,chardev=", "-device", &device];
    let qemu = qemu.device("net", &["--tap=tap0", &format!("--mac={MAC}")], &options)?;
    let guest = qemu.start("network")?;
    assert_eq!(listener.accept()?.compare(|sent| sent >= BYTES)?, BYTES);
    let ended = guest.wait()?;
    assert!(ended.said("address")?.starts_with(MAC), "{}", ended.everything());
    assert_eq!(ended.said("pings")?, "5", "{}", ended.everything());
    assert_eq!(ended.said("echo-ended")?, "0");
    Ok(())
}

/// The control queue is QEMU's own there; what it is told of queues it tells the back end by VHOST_USER_SET_VRING_ENABLE.
#[test]
fn two_processors_of_a_guest_of_qemu_use_two_pairs_of_queues() -> Result<()> {
    if !is_inside() {
        return again_inside("net::two_processors_of_a_guest_of_qemu_use_two_pairs_of_queues");
    }
    ip("tuntap add tap0 mode tap multi_queue")?;
    ip("link set tap0 up")?;
    ip("address add 10.9.0.1/24 dev tap0")?;
    let listener = Listener::new()?;
    // A vector for each queue, for the control queue and for the configuration.
    let device = format!("virtio-net-pci,netdev=net,romfile=,mq=on,vectors=6,mac={MAC}");
    let back_end = "vhost-user,id=net,queues=2,chardev=";
    let options = ["-smp", "2", "-netdev", back_end, "-device", &device];
    let arguments = ["--tap=tap0", "--queues=2", &format!("--mac={MAC}")];
    let guest = Qemu::next().device("net", &arguments, &options)?.start("network-pairs")?;
    assert_eq!(listener.accept()?.compare(|sent| sent >= BYTES)?, BYTES);
    let ended = guest.wait()?;
    assert_eq!((ended.said("pairs")?, ended.said("pings")?), ("2", "5 5 5 5"), "{}", ended.everything());
    assert_eq!(ended.said("echo-ended")?, "0");
    for queue in ["input.0", "input.1"] {
        assert_ne!(ended.said(queue)?, "0", "{}", ended.everything());
    }
    Ok(())
}
