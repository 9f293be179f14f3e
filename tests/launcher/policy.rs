//! `vmm policy` says what the policy files say: each rule of each, and nothing else.

use std::fs;
use std::path::Path;
use std::process::Command;

use sandbox_policies::Program;
use serde_json::Value;
use system_tests::{Result, program};

use crate::refusal::{USAGE, refused, says};

fn said(arguments: &[&str]) -> Result<String> {
    let output = Command::new(program("vmm")?).arg("policy").args(arguments).output().expect("vmm runs");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    Ok(String::from_utf8(output.stdout).expect("text"))
}

/// The policy file of a program, stage by stage.
fn written(program: Program) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sandbox-policies/policies/x86_64");
    let text = fs::read(folder.join(program.name()).with_extension("json")).expect("a policy");
    serde_json::from_slice(&text).expect("a policy")
}

/// A condition of the file, and the same as `vmm policy --json` says it.
fn same_condition(written: &Value, said: &Value) {
    assert_eq!(written["index"], said["argument"]);
    assert_eq!(written["val"], said["value"]);
    assert_eq!(written["comment"], said["meaning"]);
    assert_eq!(said["bits"], if written["type"] == "qword" { 64 } else { 32 });
    match &written["op"] {
        Value::String(operator) if operator == "eq" => assert_eq!(said["operator"], "equal"),
        Value::String(operator) if operator == "ne" => assert_eq!(said["operator"], "not-equal"),
        masked => {
            assert_eq!(said["operator"], "masked-equal");
            assert_eq!(said["mask"], masked["masked_eq"]);
        }
    }
}

#[test]
fn what_is_shown_of_a_policy_is_what_its_file_says() -> Result<()> {
    for program in Program::ALL {
        let shown: Value = serde_json::from_str(&said(&["show", program.name(), "--json"])?).expect("JSON");
        let written = written(program);
        assert_eq!(shown["program"], program.name());
        let stages = shown["stages"].as_array().expect("stages");
        assert_eq!(stages.len(), written.as_object().expect("stages").len());
        for stage in stages {
            let file = &written[stage["stage"].as_str().expect("a name")];
            let refusal = if file["mismatch_action"] == "trap" { "told" } else { "killed" };
            assert_eq!(stage["otherwise"], refusal);
            let (shown, written) = (stage["rules"].as_array(), file["filter"].as_array());
            let (shown, written) = (shown.expect("rules"), written.expect("rules"));
            assert_eq!(shown.len(), written.len());
            for (shown, written) in shown.iter().zip(written) {
                assert_eq!((&shown["call"], &shown["reason"]), (&written["syscall"], &written["comment"]));
                let none = Vec::new();
                let conditions = written["args"].as_array().unwrap_or(&none);
                let shown = shown["conditions"].as_array().expect("conditions");
                assert_eq!(shown.len(), conditions.len());
                conditions.iter().zip(shown).for_each(|(written, said)| same_condition(written, said));
            }
        }
    }
    Ok(())
}

#[test]
fn a_call_is_explained_by_name_and_by_number() -> Result<()> {
    let text = said(&["explain", "vmm-core", "ioctl"])?;
    assert_eq!(text, said(&["explain", "vmm-core", "16"])?);
    assert!(text.contains("  vcpu         allowed if argument 1 is 0xae80: KVM_RUN\n"), "{text}");
    assert!(text.contains("  control      refused: "), "{text}");
    Ok(())
}

#[test]
fn what_nobody_knows_is_one_line_with_the_nearest() -> Result<()> {
    let said = |arguments: &[&str]| refused(USAGE, &[&["policy"], arguments].concat());
    says(&said(&["show", "device-bkl"])?, &["'device-bkl'", "did you mean 'device-blk'"]);
    says(&said(&["explain", "vmm", "exceve"])?, &["'exceve'", "did you mean 'execve'"]);
    says(&said(&["explain", "vmm", "70000"])?, &["'70000'"]);
    says(&said(&[])?, &["vmm policy show PROGRAM"]);
    says(&said(&["hide", "vmm"])?, &["'hide'", "see vmm policy --help"]);
    Ok(())
}
