//! Compiles every policy to BPF, so that the running programs link no parser, and writes `filters.rs`: one
//! function from program and stage to the bytes; and `lists.rs`: the same from the very same files to their rules and
//! the reasons of these, for those who want to read them. A policy that does not compile fails the build with its
//! file's name.

use std::env;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use seccompiler::{BpfProgram, TargetArch, compile_from_json};
use serde_json::Value;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let policies = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("policies/x86_64");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed={}", policies.display());

    let (mut arms, mut lists) = (String::new(), String::new());
    for policy in sorted_policies(&policies)? {
        let wrong = |error: Failure| format!("{}: {error}", policy.display());
        compile(&policy, &out, &mut arms).map_err(wrong)?;
        list(&policy, &mut lists).map_err(wrong)?;
    }
    let filters = format!(
        "/// The compiled filter of a program's stage: instructions of eight bytes, little endian.\n\
         fn embedded(program: &str, stage: &str) -> Option<&'static [u8]> {{\n    \
         match (program, stage) {{\n{arms}        _ => None,\n    }}\n}}\n"
    );
    fs::write(out.join("filters.rs"), filters)?;
    let lists = format!(
        "/// The list of a program's stage, as its policy file has it.\n\
         fn listed(program: &str, stage: &str) -> Option<&'static List> {{\n    \
         match (program, stage) {{\n{lists}        _ => None,\n    }}\n}}\n"
    );
    fs::write(out.join("lists.rs"), lists)?;
    Ok(())
}

fn sorted_policies(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut policies = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            policies.push(path);
        }
    }
    policies.sort();
    Ok(policies)
}

fn compile(policy: &Path, out: &Path, arms: &mut String) -> Result<(), Failure> {
    let program = policy.file_stem().and_then(|stem| stem.to_str()).ok_or("no program's name")?;
    let mut stages: Vec<_> =
        compile_from_json(File::open(policy)?, TargetArch::x86_64)?.into_iter().collect();
    stages.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (stage, filter) in stages {
        let file = format!("{program}.{stage}.bpf");
        fs::write(out.join(&file), bytes(&filter))?;
        writeln!(
            arms,
            "        ({program:?}, {stage:?}) => Some(include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{file}\"))),"
        )?;
    }
    Ok(())
}

/// The policy as constants of Rust. Whatever the file says that these cannot is refused, not left out.
fn list(policy: &Path, arms: &mut String) -> Result<(), Failure> {
    let program = policy.file_stem().and_then(|stem| stem.to_str()).ok_or("no program's name")?;
    let stages: Value = serde_json::from_reader(File::open(policy)?)?;
    for (stage, filter) in stages.as_object().ok_or("no object of stages")? {
        let refusal = match (text(filter, "match_action")?, text(filter, "mismatch_action")?) {
            ("allow", "trap") => "Told",
            ("allow", "kill_process") => "Killed",
            other => return Err(format!("{stage}: no list of what is allowed: {other:?}").into()),
        };
        let mut rules = String::new();
        for rule in filter.get("filter").and_then(Value::as_array).ok_or("no rules")? {
            let mut conditions = String::new();
            for condition in rule.get("args").and_then(Value::as_array).into_iter().flatten() {
                write!(conditions, "{}, ", self::condition(condition)?)?;
            }
            let (call, reason) = (text(rule, "syscall")?, text(rule, "comment")?);
            write!(rules, "Rule {{ call: {call:?}, conditions: &[{conditions}], reason: {reason:?} }}, ")?;
        }
        writeln!(
            arms,
            "        ({program:?}, {stage:?}) => \
             Some(&const {{ List {{ refusal: Refusal::{refusal}, rules: &[{rules}] }} }}),"
        )?;
    }
    Ok(())
}

fn condition(condition: &Value) -> Result<String, Failure> {
    let number = |key: &str| condition.get(key).and_then(Value::as_u64).ok_or(format!("no number {key}"));
    let (argument, value, meaning) = (number("index")?, number("val")?, text(condition, "comment")?);
    let wide = match text(condition, "type")? {
        "dword" => false,
        "qword" => true,
        other => return Err(format!("an argument of type {other}").into()),
    };
    let operator = match condition.get("op") {
        Some(Value::String(word)) => match word.as_str() {
            "eq" => "Equal".to_owned(),
            "ne" => "NotEqual".to_owned(),
            other => return Err(format!("the operator {other}, which nothing can show yet").into()),
        },
        Some(masked) => {
            let mask = masked.get("masked_eq").and_then(Value::as_u64).ok_or("an unknown operator")?;
            format!("MaskedEqual({mask})")
        }
        None => return Err("a condition without an operator".into()),
    };
    Ok(format!(
        "Condition {{ argument: {argument}, wide: {wide}, operator: Operator::{operator}, value: {value}, \
         meaning: {meaning:?} }}"
    ))
}

fn text<'a>(of: &'a Value, key: &str) -> Result<&'a str, Failure> {
    of.get(key).and_then(Value::as_str).ok_or_else(|| format!("no text {key} in {of}").into())
}

fn bytes(filter: &BpfProgram) -> Vec<u8> {
    let mut bytes = Vec::new();
    for instruction in filter {
        bytes.extend(instruction.code.to_le_bytes());
        bytes.extend([instruction.jt, instruction.jf]);
        bytes.extend(instruction.k.to_le_bytes());
    }
    bytes
}
