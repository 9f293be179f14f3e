//! An amount of memory as people write it: a number with a unit of 1024s, `512M`, `4G`, `4GiB`.
//!
//! A bare number is refused, but for 0: monitors disagree whether it means bytes or MiB.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// An amount of memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Size(pub u64);

const UNITS: [(&str, u32); 4] = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = text.strip_prefix(digits).unwrap_or_default().to_ascii_uppercase();
        let count: u64 = match digits.parse() {
            Ok(count) => count,
            Err(_) => {
                return Err(format!(
                    "'{text}' is not a size: write a whole number and a unit, such as 512M or 4G"
                ));
            }
        };
        let unit = unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit);
        if unit.is_empty() && count == 0 {
            return Ok(Size(0));
        }
        if unit.is_empty() {
            return Err(format!("the size '{text}' has no unit: write {count}M or {count}G"));
        }
        let known = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, shift) =
            known.ok_or_else(|| format!("the size '{text}' has an unknown unit: use K, M, G or T"))?;
        let bytes = 1u64.checked_shl(*shift).and_then(|unit| count.checked_mul(unit));
        bytes.map(Size).ok_or_else(|| format!("the size '{text}' is beyond 64 bits"))
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Size, String> {
        text.parse()
    }
}

impl fmt::Display for Size {
    /// The largest unit that loses nothing; bytes if there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in UNITS {
            let count = self.0.checked_shr(shift).unwrap_or(0);
            if count != 0 && count.checked_shl(shift) == Some(self.0) {
                return write!(f, "{count}{unit}");
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024_in_any_spelling() {
        for (text, bytes) in [
            ("128M", 128 << 20),
            ("128MiB", 128 << 20),
            ("128mb", 128 << 20),
            ("64G", 64 << 30),
            ("1T", 1 << 40),
            ("4096K", 4 << 20),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "M",
            "512",
            "-1G",
            "1.5G",
            "0x10M",
            "1Q",
            "1GG",
            "99999999999999999999G",
            "20000000T",
            "1 G x",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_size_prints_as_it_is_read() {
        for text in ["128M", "3G", "1T", "1025M", "4K"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        assert_eq!(Size(513).to_string(), "513 bytes");
    }
}
