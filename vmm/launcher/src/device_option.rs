//! One device as the user wrote it: `TYPE,key=value,…` on the command line, a `[[device]]` table in the file.
//!
//! Here are only words; [`crate::device`] knows what they mean. A comma within a value is written twice, as in
//! QEMU. No key is taken twice, none without a value.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// A device's type and its options in order of writing (of name, when they come from a table).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, Word>")]
pub struct DeviceOption {
    /// First word: the virtio device's name.
    pub kind: String,
    /// The others, as written.
    pub options: BTreeMap<String, String>,
}

/// A value in the file: `readonly = true` and `queues = 2` are said with TOML's own types.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Word {
    Switch(bool),
    Number(i64),
    Text(String),
}

impl FromStr for DeviceOption {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceOption, String> {
        let mut words = split(text).into_iter();
        let kind = words.next().unwrap_or_default();
        if kind.is_empty() || kind.contains('=') {
            return Err(format!("'{text}' does not begin with a device type: write TYPE,key=value,…"));
        }
        let mut options = BTreeMap::new();
        for word in words {
            let Some((key, value)) = word.split_once('=') else {
                return Err(format!("'{word}' in '{text}' has no value: write {word}=…"));
            };
            if options.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(format!("'{key}' is given twice in '{text}'"));
            }
        }
        Ok(DeviceOption { kind, options })
    }
}

impl TryFrom<BTreeMap<String, Word>> for DeviceOption {
    type Error = String;

    fn try_from(table: BTreeMap<String, Word>) -> Result<DeviceOption, String> {
        let mut options: BTreeMap<String, String> =
            table.into_iter().map(|(key, word)| (key, word.to_string())).collect();
        let kind = options.remove("type").ok_or("a [[device]] has no 'type'")?;
        Ok(DeviceOption { kind, options })
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Word::Switch(on) => f.write_str(if *on { "on" } else { "off" }),
            Word::Number(number) => number.fmt(f),
            Word::Text(text) => text.fmt(f),
        }
    }
}

/// Splits at single commas; `,,` stands for one comma of the word itself.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            ',' if rest.peek() == Some(&',') => {
                rest.next();
                word.push(',');
            }
            ',' => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(text: &str) -> DeviceOption {
        text.parse().unwrap()
    }

    #[test]
    fn type_and_options_are_taken_apart() {
        let device = option("blk,path=/a=b/disk.raw,readonly=on");
        assert_eq!(device.kind, "blk");
        assert_eq!(device.options["path"], "/a=b/disk.raw");
        assert_eq!(device.options["readonly"], "on");
        assert_eq!(device.options.len(), 2);
    }

    #[test]
    fn a_comma_of_the_value_is_written_twice() {
        assert_eq!(option("blk,path=a,,b,,,serial=x").options["path"], "a,b,");
        assert_eq!(option("blk,path=a,,b,,,serial=x").options["serial"], "x");
    }

    #[test]
    fn what_is_not_of_the_form_is_refused() {
        for text in ["", ",path=x", "path=x", "blk,", "blk,readonly", "blk,path=a,path=b"] {
            assert!(text.parse::<DeviceOption>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_table_says_the_same_as_the_command_line() {
        let table = "type = 'blk'\npath = 'disk,raw'\nreadonly = true\ndirect = false\nqueues = 2";
        let device: DeviceOption = toml::from_str(table).unwrap();
        assert_eq!(device, option("blk,path=disk,,raw,readonly=on,direct=off,queues=2"));
        assert!(toml::from_str::<DeviceOption>("path = 'disk.raw'").is_err());
        assert!(toml::from_str::<DeviceOption>("type = 'blk'\npath = ['a', 'b']").is_err());
    }
}
