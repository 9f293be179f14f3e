//! The first law of the data path: in the steady state the core executes nothing per I/O.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use system_tests::{Disk, Error, Machine, Result, Running};

/// Exits to user space for which a request could be the cause: every register of a virtio device, its
/// MSI-X table and its configuration space.
const DATA_PATH: [&str; 6] =
    ["virtio_notify", "virtio_isr", "virtio_config", "virtio_common", "msix", "pci_config"];

/// Asks for the counters and waits for the `number`th answer.
fn counters(running: &Running, number: usize) -> Result<BTreeMap<String, u64>> {
    running.signal(Signal::SIGUSR1)?;
    let json = running.wait_for_log("the counters", |log| {
        let whole = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let mut answers = whole.filter_map(|line| line.split_once("vmm: counters "));
        answers.nth(number).map(|(_, json)| json.to_owned())
    })?;
    serde_json::from_str(&json).map_err(|error| Error::Unexpected(format!("{error} in {json}")))
}

fn growth(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>, part: &str) -> u64 {
    let of = |counters: &BTreeMap<String, u64>| -> u64 {
        counters.iter().filter(|(name, _)| name.contains(part)).map(|(_, value)| value).sum()
    };
    assert!(before.keys().any(|name| name.contains(part)), "nothing counts {part}: {before:?}");
    of(after).saturating_sub(of(before))
}

#[test]
fn ten_thousand_reads_cost_the_core_no_exit() -> Result<()> {
    let disk = Disk::empty(64 << 20)?;
    let mut running = Machine::new("reads").disk(disk.path(), "").start()?;
    running.wait_for("warm")?;
    let before = counters(&running, 0)?;
    running.type_line("go")?;
    let done = running.wait_for("reads-done")?;
    let after = counters(&running, 1)?;
    running.type_line("end")?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    let (status, requests) = done.split_once(' ').expect("dd's status and the kernel's count of reads");
    assert_eq!(status, "0");
    assert!(requests.trim().parse::<u64>().expect("a count") >= 10_000, "{done}");
    for part in DATA_PATH {
        assert_eq!(growth(&before, &after, part), 0, "{part}: {before:?} {after:?}");
    }
    // The guest did speak to its console meanwhile: the counters count.
    assert!(after.values().sum::<u64>() > before.values().sum::<u64>(), "{before:?} {after:?}");
    Ok(())
}
