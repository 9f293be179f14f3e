//! JSON objects of one line, written and never read: no program of ours that runs links a parser.

use std::fmt::{Display, Write};

/// An object that is being written. Keys are ours and plain; values may be anything.
#[derive(Debug)]
pub struct Object(String);

impl Object {
    /// Without members yet.
    pub fn new() -> Object {
        Object("{".to_owned())
    }

    /// With one more member, a text.
    #[must_use]
    pub fn text(self, key: &str, value: &str) -> Object {
        self.member(key, quoted(value))
    }

    /// With one more member, a number.
    #[must_use]
    pub fn number(self, key: &str, value: impl Display) -> Object {
        self.member(key, value)
    }

    /// With one more member, true or false.
    #[must_use]
    pub fn switch(self, key: &str, value: bool) -> Object {
        self.member(key, value)
    }

    /// With one more member, an array of what is JSON already.
    #[must_use]
    pub fn list(self, key: &str, items: impl IntoIterator<Item = String>) -> Object {
        self.member(key, array(items))
    }

    /// With one more member, which is JSON already.
    #[must_use]
    pub fn json(self, key: &str, value: String) -> Object {
        self.member(key, value)
    }

    fn member(mut self, key: &str, value: impl Display) -> Object {
        let comma = if self.0.len() > 1 { "," } else { "" };
        let _ = write!(self.0, "{comma}\"{key}\":{value}");
        self
    }

    /// The whole.
    pub fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// A text as JSON.
pub fn quoted(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len().saturating_add(2));
    quoted.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            // Beyond what JSON asks for: what a terminal would obey is escaped, too.
            c if c.is_control() => {
                // Control characters are all below U+00A0. Writing to a string cannot fail.
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// An array of what is JSON already.
pub fn array(items: impl IntoIterator<Item = String>) -> String {
    let items: Vec<String> = items.into_iter().collect();
    format!("[{}]", items.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_leave_its_quotes_or_its_line() {
        let object = Object::new().text("a", "\"},{\\\n\x1b\u{9b}é").number("b", 7).switch("c", false);
        assert_eq!(object.end(), r#"{"a":"\"},{\\\u000a\u001b\u009bé","b":7,"c":false}"#);
        assert_eq!(Object::new().end(), "{}");
    }

    #[test]
    fn lists_are_members_as_they_are() {
        let inner = Object::new().switch("a", true).end();
        let whole = Object::new().list("l", ["1".to_owned(), quoted("\""), inner]);
        assert_eq!(whole.end(), r#"{"l":[1,"\"",{"a":true}]}"#);
        assert_eq!(array([]), "[]");
    }
}
