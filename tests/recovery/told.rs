//! What `vmm` has said of the deaths of its devices.

use system_tests::Ended;

use crate::causes::Cause;
use crate::plan::Plan;

/// Of each death there is a line with its cause, in their order, and of no other but those of successors that the machine
/// itself did not wait for: with several that start at once on a host that others use, one may miss a deadline. Returns how
/// many of those there were. A device that nobody touched has none.
pub fn check_deaths(ended: &Ended, name: &str, deaths: &[Cause]) -> usize {
    let mark = format!("vmm: device {name} died: ");
    let lines = ended.log.lines().filter(|line| line.starts_with(&mark));
    let (late, told): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.contains(" in time); "));
    assert!(late.is_empty() || !deaths.is_empty(), "{name}: {}", ended.log);
    assert_eq!(told.len(), deaths.len(), "{name}: {}", ended.everything());
    for (line, cause) in told.iter().zip(deaths) {
        assert!(line.contains(cause.told()), "{name} died of {cause:?}: {line}");
    }
    late.len()
}

/// What `vmm` said of the times for which a device was away.
pub fn pauses(ended: &Ended, plan: &Plan, late: usize) -> String {
    let Plan { kills, seed, .. } = plan;
    let lines = ended.log.lines().filter(|line| line.contains(" serves again (pid "));
    let mut pauses: Vec<u64> =
        lines.filter_map(|line| line.rsplit_once(" after ")?.1.split_once(" ms")?.0.parse().ok()).collect();
    pauses.sort_unstable();
    let at =
        |percent: usize| pauses.get((pauses.len().saturating_sub(1) * percent) / 100).copied().unwrap_or(0);
    format!(
        "{kills} deaths (VMM_SEED={seed}), {late} successors too slow, away for {} / {} / {} / {} ms (median, p90, p99, \
         longest)",
        at(50),
        at(90),
        at(99),
        at(100)
    )
}
