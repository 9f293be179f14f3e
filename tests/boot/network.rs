//! A guest on a network, seen from both sides.

use protocol::tap;
use system_tests::cable::Cable;
use system_tests::echo::Listener;
use system_tests::network::{again_inside, ip, is_inside};
use system_tests::{Ended, Machine, Result, warnings, within};

/// What the guest sends back.
const BYTES: u64 = 8 << 20;
/// The largest frame without segmentation left to others.
const FRAME: u64 = 1514;

fn number(ended: &Ended, word: &str) -> Result<u64> {
    Ok(ended.said(word)?.parse().expect("a number"))
}

/// The bits that the driver accepted.
fn accepted(features: &str) -> Vec<usize> {
    features.bytes().enumerate().filter_map(|(bit, is_set)| (is_set == b'1').then_some(bit)).collect()
}

#[test]
fn a_stock_driver_pings_and_moves_data_both_ways_with_offloads() -> Result<()> {
    if !is_inside() {
        return again_inside("network::a_stock_driver_pings_and_moves_data_both_ways_with_offloads");
    }
    let listener = Listener::new()?;
    let device = "net,tap=made0,mtu=1400,mac=52:54:00:12:34:56";
    let running = Machine::new("network").option("cpus", "2").option("device", device).start()?;
    within("the interface that vmm makes", || tap::is_there("made0").then_some(()))?;
    ip("address add 10.9.0.1/24 dev made0")?;
    assert_eq!(listener.accept()?.compare(|sent| sent >= BYTES)?, BYTES);
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    assert!(ended.said("address")?.starts_with("52:54:00:12:34:56 1400"), "{}", ended.everything());
    assert_eq!(ended.said("link")?, "1");
    assert_eq!(ended.said("pings")?, "5", "{}", ended.everything());
    assert_eq!(ended.said("echo-ended")?, "0");
    // CSUM, GUEST_CSUM, MTU, MAC, TSO and ECN both ways, MRG_RXBUF, STATUS; INDIRECT_DESC, EVENT_IDX, VERSION_1.
    let accepted = accepted(ended.said("features")?);
    for bit in [0, 1, 3, 5, 7, 8, 9, 11, 12, 13, 15, 16, 28, 29, 32] {
        assert!(accepted.contains(&bit), "{bit} of {accepted:?}");
    }
    for way in ["rx", "tx"] {
        let count = |what: &str| number(&ended, &format!("{way}_{what}"));
        assert!(count("bytes")? > BYTES, "{}", ended.everything());
        assert_eq!(count("errors")?, 0, "{}", ended.everything());
        // Acknowledgements count as well: the others are much larger than what a cable takes.
        assert!(count("bytes")? / count("packets")? > FRAME, "{way}: {}", ended.everything());
    }
    warnings::none_of_ours(&ended)
}

/// Without a tap of `vmm`'s, and so without a privilege of its.
#[test]
fn a_stock_driver_pings_and_moves_data_both_ways_over_a_stream() -> Result<()> {
    if !is_inside() {
        return again_inside("network::a_stock_driver_pings_and_moves_data_both_ways_over_a_stream");
    }
    let listener = Listener::new()?;
    let cable = Cable::new("made0", 9000)?;
    ip("address add 10.9.0.1/24 dev made0")?;
    let device = format!("net,stream={},mtu=9000,mac=52:54:00:12:34:56", cable.path().display());
    let running = Machine::new("network").option("cpus", "2").option("device", &device).start()?;
    cable.carry()?;
    assert_eq!(listener.accept()?.compare(|sent| sent >= BYTES)?, BYTES);
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    assert!(ended.said("address")?.starts_with("52:54:00:12:34:56 9000"), "{}", ended.everything());
    assert_eq!((ended.said("link")?, ended.said("pings")?), ("1", "5"), "{}", ended.everything());
    assert_eq!(ended.said("echo-ended")?, "0");
    // Nothing that another has to finish: no CSUM, no TSO either way, one pair.
    let accepted = accepted(ended.said("features")?);
    assert!([3, 5, 15, 16].iter().all(|bit| accepted.contains(bit)), "{accepted:?}");
    assert!(![0, 1, 2, 7, 8, 11, 12, 22].iter().any(|bit| accepted.contains(bit)), "{accepted:?}");
    warnings::none_of_ours(&ended)
}

#[test]
fn two_processors_of_a_stock_guest_use_two_pairs_of_queues() -> Result<()> {
    if !is_inside() {
        return again_inside("network::two_processors_of_a_stock_guest_use_two_pairs_of_queues");
    }
    let listener = Listener::new()?;
    let device = "net,tap=made0,queues=2";
    let running = Machine::new("network-pairs").option("cpus", "2").option("device", device).start()?;
    within("the interface that vmm makes", || tap::is_there("made0").then_some(()))?;
    ip("address add 10.9.0.1/24 dev made0")?;
    assert_eq!(listener.accept()?.compare(|sent| sent >= BYTES)?, BYTES);
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    assert_eq!((ended.said("pairs")?, ended.said("pings")?), ("2", "5 5 5 5"), "{}", ended.everything());
    assert_eq!(ended.said("echo-ended")?, "0");
    // CTRL_GUEST_OFFLOADS, CTRL_VQ, MQ.
    let accepted = accepted(ended.said("features")?);
    for bit in [2, 17, 22] {
        assert!(accepted.contains(&bit), "{bit} of {accepted:?}");
    }
    // Ten answers came to those pings that the second processor sent.
    assert!(number(&ended, "input.1")? > 0 && number(&ended, "input.0")? > 0, "{}", ended.everything());
    warnings::none_of_ours(&ended)
}
