//! Entropy.

use system_tests::Result;

use crate::qemu::Qemu;

#[test]
fn a_guest_of_qemu_reads_the_generator() -> Result<()> {
    let options = ["-device", "vhost-user-rng-pci,chardev="];
    Qemu::each(|qemu| reads(qemu.device("rng", &[], &options)?))
}

fn reads(qemu: Qemu) -> Result<()> {
    let ended = qemu.start("entropy")?.wait()?;
    assert_eq!(ended.said("virtio_rng.0")?, "virtio_rng.0 16384", "{}", ended.everything());
    let packed: u64 = ended.said("virtio_rng.0-packed")?.parse().expect("a number of bytes");
    assert!(packed > 16384, "what is random does not get shorter: {packed}");
    Ok(())
}
