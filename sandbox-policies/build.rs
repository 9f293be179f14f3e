//! Compiles every policy to BPF, so that the running programs link no parser, and writes `filters.rs`: one
//! function from program and stage to the bytes. A policy that does not compile fails the build with its
//! file's name.

use std::env;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use seccompiler::{BpfProgram, TargetArch, compile_from_json};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let policies = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("policies/x86_64");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed={}", policies.display());

    let mut arms = String::new();
    for policy in sorted_policies(&policies)? {
        compile(&policy, &out, &mut arms).map_err(|error| format!("{}: {error}", policy.display()))?;
    }
    let filters = format!(
        "/// The compiled filter of a program's stage: instructions of eight bytes, little endian.\n\
         fn embedded(program: &str, stage: &str) -> Option<&'static [u8]> {{\n    \
         match (program, stage) {{\n{arms}        _ => None,\n    }}\n}}\n"
    );
    fs::write(out.join("filters.rs"), filters)?;
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

fn bytes(filter: &BpfProgram) -> Vec<u8> {
    let mut bytes = Vec::new();
    for instruction in filter {
        bytes.extend(instruction.code.to_le_bytes());
        bytes.extend([instruction.jt, instruction.jf]);
        bytes.extend(instruction.k.to_le_bytes());
    }
    bytes
}
