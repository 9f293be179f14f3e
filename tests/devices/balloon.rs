//! A balloon.

use system_tests::Result;

use crate::qemu::Qemu;

/// What the guest, which has 256 MiB, is to give back.
const GIVEN: u64 = 128 << 20;

#[test]
fn a_guest_of_qemu_gives_half_of_its_memory() -> Result<()> {
    // QEMU's device of any type knows nothing of it; of five queues the statistics' and the page reports' are not offered.
    let front_end = "vhost-user-test-device-pci,virtio-id=5,num_vqs=5,vq_size=256,config_size=16,chardev=";
    let qemu = Qemu::next().device("balloon", &[&format!("--size={GIVEN}")], &["-device", front_end])?;
    let ended = qemu.start("given")?.wait()?;
    let left: u64 = ended.said("total")?.parse().expect("a number of KiB");
    assert!(left << 10 <= GIVEN, "{left} KiB are left: {}", ended.everything());
    Ok(())
}
