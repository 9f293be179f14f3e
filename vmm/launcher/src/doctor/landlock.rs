//! The launcher's own confinement, put on for good by the process that looks: it is at its end, and has only to print.

use sandbox_policies::{NEWEST_LANDLOCK_ABI, Requirement};

use super::{Finding, LESS_CONFINED};
use crate::error::Error;
use crate::exit_code::Code;

/// What each ABI keeps from a program that has been taken over, which the one before does not (Linux,
/// Documentation/userspace-api/landlock.rst). Those without a line bring no right.
const COSTS: [(u8, &str); 7] = [
    (2, "links and renames across directories"),
    (3, "truncating files"),
    (4, "TCP"),
    (5, "ioctls of device nodes"),
    (6, "signals and abstract Unix sockets of other processes"),
    (9, "Unix sockets that have a path"),
    (10, "UDP"),
];

/// Confines this process, which can do no more than print from here on.
pub fn own_confinement() -> Vec<Finding> {
    let report = match sandbox_policies::confine_launcher(Requirement::Available, None) {
        Ok(report) => report,
        Err(error) => {
            let error = Error::from(error);
            return vec![Finding::stops("launcher", error.to_string(), LESS_CONFINED, error.code())];
        }
    };
    let mut all = vec![of_abi(report.landlock_abi)];
    // Of landlock itself the line above tells.
    let others = report.lacking.iter().filter(|line| !line.contains("landlock"));
    all.extend(others.map(|line| {
        let costs =
            "one of two layers that keep memory from becoming executable; the filters of system calls stay";
        Finding::lacks("launcher", line.as_str(), costs, "")
    }));
    if all.len() == 1 {
        all.push(Finding::held("launcher", "it is confined as it is when a machine runs"));
    }
    all
}

fn of_abi(abi: u8) -> Finding {
    let found = format!("ABI {abi}, the newest that vmm knows is {NEWEST_LANDLOCK_ABI}");
    let missing: Vec<&str> = COSTS.iter().filter(|(since, _)| *since > abi).map(|(_, what)| *what).collect();
    if abi == 0 {
        let found = "none: not in this kernel, or not in its lsm= list";
        return Finding::stops("landlock", found, LESS_CONFINED, Code::Sandbox);
    }
    if missing.is_empty() {
        return Finding::held("landlock", found);
    }
    let costs = format!(
        "landlock does not keep a program from {}; namespaces and the filters of system calls do",
        missing.join(", ")
    );
    Finding::lacks("landlock", found, &costs, "a newer kernel has more of it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_abi_says_what_it_costs_not_to_have_the_newest() {
        assert!(of_abi(NEWEST_LANDLOCK_ABI).lack.is_none());
        let lack = of_abi(7).lack.unwrap();
        assert!(lack.stops.is_none());
        assert!(lack.costs.contains("Unix sockets that have a path, UDP;"), "{lack:?}");
        assert!(!lack.costs.contains("TCP"), "{lack:?}");
        assert_eq!(of_abi(0).code(), Some(Code::Sandbox));
    }
}
