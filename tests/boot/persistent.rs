//! A guest with persistent memory, seen from both sides.

use system_tests::{Disk, Machine, Result, warnings};

/// Of each writer, and how many there are.
const ROUNDS: usize = 50;
const WRITERS: usize = 4;
const BLOCK: usize = 4096;

#[test]
fn a_stock_driver_writes_under_storms_of_flushes_and_reads_what_is_shared() -> Result<()> {
    let written = Disk::empty(64 << 20)?;
    let shared = Disk::with(b"sixteen letters.", 4 << 20)?;
    let before = shared.content()?;
    let ended = Machine::new("pmem")
        .option("cpus", "2")
        .option("device", &format!("pmem,path={}", written.path().display()))
        .option("device", &format!("pmem,path={},readonly=on", shared.path().display()))
        .run()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    // Sectors, and that files on it can be mapped directly.
    assert_eq!(ended.said("pmem0")?, "131072 1", "{}", ended.everything());
    assert_eq!(ended.said("pmem1")?, "8192 1");
    assert_eq!(ended.said("pmem1-begins")?, "sixteen letters.");
    // Of each writer the flushes that failed.
    assert_eq!(ended.said("storms")?, "0 0 0 0", "{}", ended.everything());
    let content = written.content()?;
    for (writer, round) in (0..WRITERS).flat_map(|writer| (1..=ROUNDS).map(move |round| (writer, round))) {
        let block = &content[(writer * ROUNDS + round) * BLOCK..];
        let meant = format!("writer {writer} round {round}\0");
        assert!(block.starts_with(meant.as_bytes()), "{meant:?}: {:?}", block.first_chunk::<32>());
    }
    // What the guest read back before its last word, a block of its own, is what the host has but for that block.
    let mut earlier = content.clone();
    earlier[..BLOCK].fill(0);
    assert_eq!(Disk::with(&earlier, 64 << 20)?.md5()?, ended.said("sum")?);
    // The guest's last word to the memory that it can write came after its sum.
    assert!(content.starts_with(b"still\0"));
    assert_eq!(ended.said("pmem0-still")?, "0");
    assert_ne!(ended.said("pmem1-flushed")?, "0", "a write that goes nowhere was not told");
    assert_eq!(ended.said("pmem1-still")?, "sixteen letters.");
    assert_eq!(shared.content()?, before);
    warnings::none_of_ours(&ended)
}
