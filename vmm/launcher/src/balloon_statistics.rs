//! The words for what a guest says of its memory (virtio 1.2, §5.5.6.3; from the eleventh on as Linux has them since 6.12).

use std::fmt::Write;

use protocol::Statistic;

use crate::size::Size;

/// What a number counts.
#[derive(Debug, Clone, Copy)]
enum Unit {
    Bytes,
    Times,
}

/// By tag.
const NAMES: [(&str, Unit); 16] = [
    ("swapped in", Unit::Bytes),
    ("swapped out", Unit::Bytes),
    ("major page faults", Unit::Times),
    ("minor page faults", Unit::Times),
    ("free", Unit::Bytes),
    ("total", Unit::Bytes),
    ("available", Unit::Bytes),
    ("disk caches", Unit::Bytes),
    ("huge pages had", Unit::Times),
    ("huge pages not to be had", Unit::Times),
    ("out of memory, killed", Unit::Times),
    ("allocations that waited", Unit::Times),
    ("scanned ahead", Unit::Bytes),
    ("scanned by who needed it", Unit::Bytes),
    ("reclaimed ahead", Unit::Bytes),
    ("reclaimed by who needed it", Unit::Bytes),
];

/// One line for each. It is the guest's word.
pub fn lines(statistics: &[Statistic]) -> String {
    let mut lines = String::new();
    for Statistic { tag, value } in statistics {
        // Writing to a text does not fail.
        let _ = match NAMES.get(usize::from(*tag)) {
            Some((name, Unit::Bytes)) => writeln!(lines, "{name}: {}", Size(*value)),
            Some((name, Unit::Times)) => writeln!(lines, "{name}: {value}"),
            None => writeln!(lines, "number {tag}, which vmm does not know: {value}"),
        };
    }
    if lines.is_empty() { "the guest's driver says nothing\n".to_owned() } else { lines }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_its_name_and_unit_and_nothing_is_too_large() {
        let said = [(4, 300 << 20), (2, 17), (5, 4097), (9, 0), (16, 5), (u16::MAX, u64::MAX), (0, u64::MAX)];
        let text = lines(&said.map(|(tag, value)| Statistic { tag, value }));
        let expected = "free: 300M\nmajor page faults: 17\ntotal: 4097 bytes\nhuge pages not to be had: 0\nnumber 16, which \
                        vmm does not know: 5\nnumber 65535, which vmm does not know: 18446744073709551615\nswapped in: \
                        18446744073709551615 bytes\n";
        assert_eq!(text, expected);
        assert_eq!(lines(&[]), "the guest's driver says nothing\n");
    }
}
