//! Seccomp filters: one JSON policy per program, compiled to BPF by the build script and embedded here.
//!
//! Each filter checks the architecture, allows what its stage lists, and refuses anything else; debug and release
//! builds carry the same. Filters stack and the strictest answer wins, so a stage can only take away.
//!
//! A refusal ends the process by SIGSYS, which the spawner sees ([`crate::spawn::Ended::Signaled`] with 31). The stages of a
//! program that has a launcher refuse by `trap`: the program says itself which call it was ([`crate::LastWord`]), and the
//! kernel's log does not. Those of the launcher and its spawner, of a device program's stand-alone parent, and any filter
//! for an entry of the kernel that is not that of x86-64, refuse by `kill_process`: the kernel's log (`dmesg`, or the audit
//! log where auditd runs) has a line `type=1326 … comm="vmm" … sig=31 … syscall=N`; `ausyscall N` or
//! `<asm/unistd_64.h>` names it. Filters are inherited: of a device that the spawner has started again the same holds for
//! a call that the spawner does not list either.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, sock_filter};

use crate::{Error, Program, Stage};

include!(concat!(env!("OUT_DIR"), "/filters.rs"));

/// Bytes of one BPF instruction, `struct sock_filter`: code u16, jt u8, jf u8, k u32.
const INSTRUCTION: usize = 8;

/// Installs the filter of `program` and `stage` on the calling thread. Threads made later inherit it.
pub fn install(program: Program, stage: Stage) -> Result<(), Error> {
    let filter = loaded(program, stage)?;
    let (program, stage) = (program.name(), stage.key());
    seccompiler::apply_filter(&filter).map_err(|source| Error::Filter { program, stage, source })
}

/// The filter that [`install`] installs, as it is embedded.
pub fn bytes(program: Program, stage: Stage) -> Option<&'static [u8]> {
    embedded(program.name(), stage.key())
}

/// The filter that [`install`] installs.
pub fn loaded(program: Program, stage: Stage) -> Result<BpfProgram, Error> {
    let (program, stage) = (program.name(), stage.key());
    embedded(program, stage).map(instructions).ok_or(Error::NoStage { program, stage })
}

/// Makes `clone3` answer ENOSYS, by a filter of its own: one filter has one answer for all that it matches.
///
/// The flags of `clone3` lie in memory, where no filter can see them; those of `clone`, to which the C
/// library falls back, are pinned by the policies. Thus threads can be made while setting up, and namespaces
/// cannot.
pub fn hide_clone3(program: Program) -> Result<(), Error> {
    let failed = |source| Error::Filter { program: program.name(), stage: "clone3", source };
    let filter: BpfProgram = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
        TargetArch::x86_64,
    )
    .and_then(BpfProgram::try_from)
    .map_err(|source| failed(source.into()))?;
    seccompiler::apply_filter(&filter).map_err(failed)
}

fn instructions(bytes: &[u8]) -> Vec<sock_filter> {
    let (instructions, _) = bytes.as_chunks::<INSTRUCTION>();
    instructions
        .iter()
        .map(|&[c0, c1, jt, jf, k0, k1, k2, k3]| sock_filter {
            code: u16::from_le_bytes([c0, c1]),
            jt,
            jf,
            k: u32::from_le_bytes([k0, k1, k2, k3]),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_of_every_program_is_embedded_whole() {
        for program in Program::ALL {
            for stage in program.stages() {
                let bytes = embedded(program.name(), stage.key()).unwrap();
                assert!(bytes.len() > INSTRUCTION && bytes.len().is_multiple_of(INSTRUCTION));
                // The first instruction loads the architecture: BPF_LD | BPF_W | BPF_ABS from offset 4.
                let first = &instructions(bytes)[0];
                assert_eq!((first.code, first.k), (0x20, 4), "{program:?} {stage:?}");
            }
        }
    }
}
