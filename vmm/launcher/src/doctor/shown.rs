//! What was found, for a person or for a program.

use std::fmt::Write;

use super::Finding;
use crate::exit_code::Code;
use crate::json::Object;
use crate::report;

/// One screen.
pub fn screen(all: &[Finding], code: Code) -> String {
    let mut text = String::new();
    for finding in all {
        let word = match &finding.lack {
            None if finding.tried => "held",
            None => "there",
            Some(lack) if lack.stops.is_some() => "STOPS",
            Some(_) => "lacks",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{word:<6} {:<16} {}", finding.what, report::printable(&finding.found));
        let Some(lack) = &finding.lack else { continue };
        let _ = writeln!(text, "{:24}costs: {}", "", lack.costs);
        if !lack.advice.is_empty() {
            let _ = writeln!(text, "{:24}to do: {}", "", lack.advice);
        }
    }
    text.push_str(&match code {
        Code::PoweredOff => "vmm would run here with --sandbox=required\n".to_owned(),
        code => format!(
            "vmm would not run here with --sandbox=required: it would end with code {}\n",
            code.number()
        ),
    });
    text
}

/// One object.
pub fn json(all: &[Finding], code: Code) -> String {
    let findings = all.iter().map(|finding| {
        let object = Object::new()
            .text("what", &finding.what)
            .switch("held", finding.lack.is_none())
            .switch("tried", finding.tried)
            .text("found", &finding.found);
        let Some(lack) = &finding.lack else { return object.end() };
        let object = object.text("costs", &lack.costs).text("advice", &lack.advice);
        object.json("stops", lack.stops.map_or("null".to_owned(), |code| code.number().to_string())).end()
    });
    let runs = code == Code::PoweredOff;
    let whole = Object::new().switch("runs", runs).number("code", code.number()).list("findings", findings);
    let mut text = whole.end();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stops_is_told_from_what_is_only_lacking() {
        let all = [
            Finding::held("one", "is there"),
            Finding::there("half", "seen"),
            Finding::lacks("two", "is \x1bnot", "little", "nothing"),
            Finding::stops("three", "neither", "all", Code::Kvm),
        ];
        let text = screen(&all, Code::Kvm);
        let expected = "held   one              is there\n\
                        there  half             seen\n\
                        lacks  two              is \u{fffd}not\n\
                        \x20                       costs: little\n\
                        \x20                       to do: nothing\n\
                        STOPS  three            neither\n\
                        \x20                       costs: all\n\
                        vmm would not run here with --sandbox=required: it would end with code 5\n";
        assert_eq!(text, expected);
        let expected = r#"{"runs":false,"code":5,"findings":[{"what":"one","held":true,"tried":true,"found":"is there"},{"what":"half","held":true,"tried":false,"found":"seen"},"#;
        let line = json(&all, Code::Kvm);
        assert!(line.starts_with(expected), "{line}");
        assert!(line.ends_with("\"costs\":\"all\",\"advice\":\"\",\"stops\":5}]}\n"), "{line}");
        assert!(line.contains("\"stops\":null"), "{line}");
    }
}
