//! A guest that reads the host's generator.

use system_tests::{Machine, Result, warnings};

#[test]
fn a_stock_driver_reads_two_generators() -> Result<()> {
    let machine = Machine::new("entropy").option("device", "rng").option("device", "rng,path=/dev/random");
    let ended = machine.run()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    let mut read = Vec::new();
    for generator in ["virtio_rng.0", "virtio_rng.1"] {
        // Which one the kernel reads from, and how many bytes it gave.
        assert_eq!(ended.said(generator)?, format!("{generator} 16384"), "{}", ended.everything());
        // What is random does not get shorter: gzip's header and trailer come on top.
        let packed: u64 = ended.said(&format!("{generator}-packed"))?.parse().expect("a number of bytes");
        assert!(packed > 16384, "{packed}");
        read.push(ended.said(&format!("{generator}-sum"))?);
    }
    assert_ne!(read[0], read[1]);
    assert!(ended.log.matches("device-rng").count() >= 2, "{}", ended.log);
    warnings::none_of_ours(&ended)
}
