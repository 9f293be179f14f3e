//! What the rules ask of Rust source, read from its tokens: unlike a syntax tree, tokens include what
//! stands inside macros, and unlike text they do not mistake a string or a comment for code.

use std::collections::BTreeSet;

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};

/// One Rust file.
pub struct Source {
    pub path: String,
    pub text: String,
    tokens: TokenStream,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    /// Line of `fn`, from 1.
    pub first: usize,
    /// Line of the closing brace.
    pub last: usize,
    /// Marked `#[test]`.
    pub is_test: bool,
}

impl Function {
    /// Lines from `fn` to the closing brace.
    pub fn lines(&self) -> usize {
        self.last.saturating_sub(self.first).saturating_add(1)
    }
}

/// A keyword `unsafe`.
#[derive(Debug, PartialEq, Eq)]
pub struct Unsafe {
    pub line: usize,
    /// It opens a block or an `impl`, which owe a justification; an `unsafe fn` owes a contract instead.
    pub owes_justification: bool,
}

/// An item under `#[cfg(test)]`.
#[derive(Debug, PartialEq, Eq)]
pub struct TestOnly {
    pub first: usize,
    pub last: usize,
    /// The module's name, when the item is a module in a file of its own.
    pub file: Option<String>,
}

impl Source {
    /// Lexes the text of the file at `path`.
    pub fn lex(path: &str, text: String) -> Result<Source, String> {
        let tokens = text
            .parse()
            .map_err(|e: proc_macro2::LexError| format!("{path}:{}: {e}", e.span().start().line))?;
        Ok(Source { path: path.to_owned(), text, tokens })
    }

    /// All functions with a body, nested ones and those in macros included.
    pub fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        each_level(self.tokens.clone(), &mut |level| functions_in(level, &mut found));
        found
    }

    /// All uses of the keyword `unsafe`.
    pub fn unsafes(&self) -> Vec<Unsafe> {
        let mut found = Vec::new();
        each_level(self.tokens.clone(), &mut |level| {
            for (at, token) in level.iter().enumerate() {
                if !is_word(token, "unsafe") {
                    continue;
                }
                let after = level.get(at.saturating_add(1));
                let owes_justification = after.is_some_and(|t| brace(t).is_some() || is_word(t, "impl"));
                found.push(Unsafe { line: line_of(token.span()), owes_justification });
            }
        });
        found
    }

    /// The lines of attributes that switch a lint off with `allow`, also within `cfg_attr`.
    pub fn allows(&self) -> Vec<usize> {
        let mut found = Vec::new();
        each_level(self.tokens.clone(), &mut |level| {
            for attribute in attributes(level) {
                let line = line_of(attribute.span());
                each_level(attribute.stream(), &mut |inner| {
                    let called = |pair: &[TokenTree]| match pair {
                        [word, TokenTree::Group(_)] => is_word(word, "allow"),
                        _ => false,
                    };
                    if inner.windows(2).any(called) {
                        found.push(line);
                    }
                });
            }
        });
        found
    }

    /// Names of modules with the line of each.
    pub fn modules(&self) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        each_level(self.tokens.clone(), &mut |level| {
            for pair in level.windows(2) {
                if let [keyword, TokenTree::Ident(name)] = pair
                    && is_word(keyword, "mod")
                {
                    found.push((name.to_string(), line_of(name.span())));
                }
            }
        });
        found
    }

    /// Items under `#[cfg(test)]`.
    pub fn test_only(&self) -> Vec<TestOnly> {
        let mut found = Vec::new();
        each_level(self.tokens.clone(), &mut |level| test_only_in(level, &mut found));
        found
    }

    /// Lines that carry code: not blank, not comment, not documentation, not under `#[cfg(test)]`.
    pub fn code_lines(&self) -> usize {
        let mut lines = BTreeSet::new();
        mark(self.tokens.clone(), &mut lines);
        for item in self.test_only() {
            lines.retain(|line| !(item.first..=item.last).contains(line));
        }
        lines.len()
    }
}

fn functions_in(level: &[TokenTree], found: &mut Vec<Function>) {
    let mut tested = false;
    for (at, token) in level.iter().enumerate() {
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => tested = false,
            TokenTree::Punct(punct) if punct.as_char() == ';' => tested = false,
            TokenTree::Group(group) if is_attribute(level, at) => tested |= is_test_marker(group),
            _ => {}
        }
        let rest = level.get(at..).unwrap_or_default();
        let [keyword, TokenTree::Ident(name), signature @ ..] = rest else { continue };
        if !is_word(keyword, "fn") {
            continue;
        }
        // A declaration without a body ends with a semicolon before any brace.
        let end = signature.iter().find(|t| is_semicolon(t) || brace(t).is_some());
        if let Some(body) = end.and_then(brace) {
            let (first, last) = (line_of(keyword.span()), line_of(body.span_close()));
            found.push(Function { name: name.to_string(), first, last, is_test: tested });
        }
    }
}

fn test_only_in(level: &[TokenTree], found: &mut Vec<TestOnly>) {
    for (at, token) in level.iter().enumerate() {
        let TokenTree::Group(attribute) = token else { continue };
        if !is_attribute(level, at) || attribute.stream().to_string().replace(' ', "") != "cfg(test)" {
            continue;
        }
        let rest = level.get(at.saturating_add(1)..).unwrap_or_default();
        let Some(length) = rest.iter().position(|t| is_semicolon(t) || brace(t).is_some()) else { continue };
        let Some(end) = rest.get(length) else { continue };
        let last = brace(end).map_or_else(|| line_of(end.span()), |body| line_of(body.span_close()));
        let own_file = is_semicolon(end).then(|| {
            let keyword = rest.iter().take(length).position(|t| is_word(t, "mod"))?;
            rest.get(keyword.saturating_add(1)).map(ToString::to_string)
        });
        let first = line_of(attribute.span_open());
        found.push(TestOnly { first, last, file: own_file.flatten() });
    }
}

/// Adds the lines of all tokens but those of documentation.
fn mark(stream: TokenStream, lines: &mut BTreeSet<usize>) {
    let level: Vec<TokenTree> = stream.into_iter().collect();
    for (at, token) in level.iter().enumerate() {
        match token {
            TokenTree::Group(group) if is_attribute(&level, at) && is_documentation(group) => {}
            TokenTree::Group(group) => {
                lines.insert(line_of(group.span_open()));
                mark(group.stream(), lines);
                lines.insert(line_of(group.span_close()));
            }
            // `#` and `!` share a line with their attribute, which decides.
            TokenTree::Punct(punct) if matches!(punct.as_char(), '#' | '!') => {}
            other => lines.extend(other.span().start().line..=other.span().end().line),
        }
    }
}

/// Calls `visit` with the tokens of each level of nesting, outermost first.
fn each_level(stream: TokenStream, visit: &mut dyn FnMut(&[TokenTree])) {
    let level: Vec<TokenTree> = stream.into_iter().collect();
    visit(&level);
    for token in level {
        if let TokenTree::Group(group) = token {
            each_level(group.stream(), visit);
        }
    }
}

fn attributes(level: &[TokenTree]) -> impl Iterator<Item = &Group> {
    level.iter().enumerate().filter_map(|(at, token)| match token {
        TokenTree::Group(group) if is_attribute(level, at) => Some(group),
        _ => None,
    })
}

/// Whether the token at `at` is the bracket of `#[…]` or `#![…]`.
fn is_attribute(level: &[TokenTree], at: usize) -> bool {
    let bracket = matches!(level.get(at), Some(TokenTree::Group(g)) if g.delimiter() == Delimiter::Bracket);
    let before = |n: usize, sign: char| {
        at.checked_sub(n)
            .and_then(|i| level.get(i))
            .is_some_and(|t| matches!(t, TokenTree::Punct(p) if p.as_char() == sign))
    };
    bracket && (before(1, '#') || (before(1, '!') && before(2, '#')))
}

fn is_documentation(attribute: &Group) -> bool {
    attribute.stream().into_iter().next().is_some_and(|t| is_word(&t, "doc"))
}

fn is_test_marker(attribute: &Group) -> bool {
    attribute.stream().to_string() == "test"
}

fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == word)
}

fn is_semicolon(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == ';')
}

fn brace(token: &TokenTree) -> Option<&Group> {
    match token {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => Some(group),
        _ => None,
    }
}

fn line_of(span: Span) -> usize {
    span.start().line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::lex("fixture.rs", text.to_owned()).unwrap()
    }

    #[test]
    fn functions_are_found_in_macros_and_inside_functions() {
        let found =
            source("m! {\n fn a() {\n fn b() {}\n }\n}\ntrait T { fn c(); }\n#[test]\npub fn d() {\n}")
                .functions();
        let names: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.lines(), f.is_test)).collect();
        assert_eq!(names, [("d", 2, true), ("a", 3, false), ("b", 1, false)]);
    }

    #[test]
    fn a_test_marker_does_not_reach_the_next_function() {
        let found = source("#[test]\nfn a() {}\nfn b() {}").functions();
        assert_eq!(found.iter().map(|f| f.is_test).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn unsafe_is_a_keyword_and_not_a_word_in_text() {
        let found = source("// unsafe\n#![deny(unsafe_code)]\nconst S: &str = \"unsafe {}\";\nunsafe fn f() {}\nm!(unsafe { f() });").unsafes();
        assert_eq!(
            found,
            [Unsafe { line: 4, owes_justification: false }, Unsafe { line: 5, owes_justification: true },]
        );
    }

    #[test]
    fn allow_is_found_inside_and_outside_and_under_conditions() {
        let text = "#![allow(a)]\n#[expect(b, reason = \"allow(c)\")]\nfn f() {}\n#[cfg_attr(test, allow(d))]\nfn g() { allow(1) }";
        assert_eq!(source(text).allows(), [1, 4]);
    }

    #[test]
    fn code_lines_leave_out_comments_documentation_and_tests() {
        let text = "//! Doc.\n\n/// Doc.\n#[derive(Debug)]\nstruct A {\n    // Why.\n    b: u8, /* c\n */\n}\n#[cfg(test)]\nmod tests {\n    fn f() {}\n}\n";
        assert_eq!(source(text).code_lines(), 4);
    }

    #[test]
    fn a_test_module_in_its_own_file_is_named() {
        let found = source("#[cfg(test)]\nmod hostile;\nmod real;").test_only();
        assert_eq!(found, [TestOnly { first: 1, last: 2, file: Some("hostile".to_owned()) }]);
    }
}
