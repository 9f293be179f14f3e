//! The nearest known name to one that nobody knows, for messages that help.

/// The name among `known` that `given` was most likely meant to be; none when nothing comes close.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_ascii_lowercase();
    let scored = known.into_iter().map(|name| (strsim::damerau_levenshtein(&given, name), name));
    let (distance, name) = scored.min_by_key(|(distance, _)| *distance)?;
    // A third of the letters may be wrong; more, and the proposal is noise.
    (distance <= name.len().max(3) / 3).then_some(name)
}

/// ` (did you mean 'x'?)`, or nothing.
pub fn hint<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(given, known).map(|name| format!(" (did you mean '{name}'?)")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_understood_and_a_foreign_word_is_not() {
        let known = ["path", "readonly", "serial", "queues"];
        assert_eq!(nearest("read-only", known), Some("readonly"));
        assert_eq!(nearest("Serail", known), Some("serial"));
        assert_eq!(nearest("queue", known), Some("queues"));
        assert_eq!(nearest("bootindex", known), None);
        assert_eq!(hint("paht", known), " (did you mean 'path'?)");
    }
}
