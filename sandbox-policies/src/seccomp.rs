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
//!
//! `vmm --sandbox-log` loads the very same instructions with one answer changed, that for what is not listed ([`log_refusals`]).

use std::collections::BTreeMap;
use std::sync::OnceLock;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, sock_filter};

use crate::policy::{self, Refusal};
use crate::{Error, Program, Stage};

include!(concat!(env!("OUT_DIR"), "/filters.rs"));

/// Bytes of one BPF instruction, `struct sock_filter`: code u16, jt u8, jf u8, k u32.
const INSTRUCTION: usize = 8;

/// `BPF_RET | BPF_K`: the answer is in the instruction.
const ANSWER: u16 = 0x06;
/// From linux/seccomp.h: answers, the last of which has 16 bits of the filter's own beside it.
const KILL_PROCESS: u32 = 0x8000_0000;
const TRAP: u32 = 0x0003_0000;
const TRACE: u32 = 0x7ff0_0000;
/// How many instructions each filter begins with that refuse another entry of the kernel than that of x86-64.
const ARCHITECTURE: usize = 3;

/// Set once, never taken back; see [`log_refusals`].
static LOGGED: OnceLock<()> = OnceLock::new();

/// From here on this process, and what it forks, installs filters that refuse nothing: what they do not list is told to
/// the tracer that `vmm --sandbox-log` has started (SECCOMP_RET_TRACE), and made. All other layers are what they are.
///
/// Why neither a guest nor a process that was taken over can turn this on, or make use of it:
///
/// - Who says so is the person at the command line. No configuration file can, no request on the control socket, and no
///   message of `protocol` has a word for it. The launcher knows it before it opens anything, and tells each program by an
///   argument of its exec; the spawner is a copy of that launcher. So it is decided in every process before it has read
///   a byte of anybody's, let alone installed a filter.
/// - Filters that are installed stay, and of several the strictest answer holds. A process that has been confined in
///   earnest and calls this afterwards, or writes to `LOGGED`, gains nothing: what was refused stays refused.
/// - The answer is only as loose as there is a tracer. Without one the kernel makes it the error ENOSYS, and the call is not
///   made. A process cannot get itself one: ptrace is in no list, the tracer takes on nobody but the launcher that it has
///   forked, and what descends from that; and it takes the traced along when it dies (PTRACE_O_EXITKILL). So a program that
///   has this argument by somebody's mistake is confined, and merely does not die of what it is refused.
///
/// It is in release builds as well, for the policies are made for those and it is packagers who need to see what is missing.
/// It cannot pass for a confined run: the launcher says it at the start and at the end, each program says it in `Ready` as a
/// layer that is lacking, and the kernel shows everybody that the processes are traced, which `vmm inspect` calls different
/// from what is promised.
pub fn log_refusals() {
    // A second time changes nothing.
    let _already = LOGGED.set(());
}

/// Whether the filters of this process refuse nothing.
pub fn refusals_are_logged() -> bool {
    LOGGED.get().is_some()
}

/// Installs the filter of `program` and `stage` on the calling thread. Threads made later inherit it.
pub fn install(program: Program, stage: Stage) -> Result<(), Error> {
    let mut filter = loaded(program, stage)?;
    if refusals_are_logged() {
        filter = logging(filter, program, stage)?;
    }
    let (program, stage) = (program.name(), stage.key());
    seccompiler::apply_filter(&filter).map_err(|source| Error::Filter { program, stage, source })
}

/// The filter of a stage as it is embedded: what [`loaded`] is made of.
pub fn bytes(program: Program, stage: Stage) -> Option<&'static [u8]> {
    embedded(program.name(), stage.key())
}

/// The filter that [`install`] installs, unless refusals are logged.
pub fn loaded(program: Program, stage: Stage) -> Result<BpfProgram, Error> {
    let (program, stage) = (program.name(), stage.key());
    embedded(program, stage).map(instructions).ok_or(Error::NoStage { program, stage })
}

/// The same filter but for the answer to what it does not list. What comes by another entry of the kernel, where numbers
/// mean other calls, dies of it all the same; of two filters that both refuse, the newer one's word is what the tracer gets.
fn logging(mut filter: BpfProgram, program: Program, stage: Stage) -> Result<BpfProgram, Error> {
    let missing = || Error::NoStage { program: program.name(), stage: stage.key() };
    let refusal = match policy::list(program, stage).ok_or_else(missing)?.refusal {
        Refusal::Told => TRAP,
        Refusal::Killed => KILL_PROCESS,
    };
    let place = u32::from(place(program, stage).ok_or_else(missing)?);
    for instruction in filter.iter_mut().skip(ARCHITECTURE) {
        if (instruction.code, instruction.k) == (ANSWER, refusal) {
            instruction.k = TRACE | place;
        }
    }
    Ok(filter)
}

/// A filter's own 16 bits: its program and its stage, by their places in the lists of all.
pub fn place(program: Program, stage: Stage) -> Option<u16> {
    let program = Program::ALL.iter().position(|one| *one == program)?;
    let stage = program_stages(program)?.iter().position(|one| *one == stage)?;
    Some(u16::from(u8::try_from(program).ok()?) << 8 | u16::from(u8::try_from(stage).ok()?))
}

/// Whose filter it is that has these bits.
pub fn placed(bits: u16) -> Option<(Program, Stage)> {
    let [program, stage] = bits.to_be_bytes().map(usize::from);
    Some((*Program::ALL.get(program)?, *program_stages(program)?.get(stage)?))
}

fn program_stages(program: usize) -> Option<&'static [Stage]> {
    Program::ALL.get(program).map(|program| program.stages())
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

    #[test]
    fn a_filter_that_logs_is_the_one_that_refuses_but_for_that_answer() {
        for program in Program::ALL {
            for stage in program.stages() {
                let strict = loaded(program, *stage).unwrap();
                let logging = logging(strict.clone(), program, *stage).unwrap();
                assert_eq!(strict.len(), logging.len());
                let answers = |filter: &BpfProgram| -> Vec<u32> {
                    filter.iter().filter(|it| it.code == ANSWER).map(|it| it.k).collect()
                };
                let changed = strict.iter().zip(&logging).filter(|(before, after)| before != after);
                for (before, after) in changed {
                    assert_eq!((before.code, before.jt, before.jf), (after.code, after.jt, after.jf));
                    assert_eq!(before.code, ANSWER);
                    let bits = u16::try_from(after.k & 0xffff).unwrap();
                    assert_eq!((after.k & 0xffff_0000, placed(bits)), (TRACE, Some((program, *stage))));
                }
                // What is left: another architecture is killed, what is listed is allowed (0x7fff0000), the rest is traced.
                let after = answers(&logging);
                assert_eq!(
                    after.iter().filter(|answer| **answer == KILL_PROCESS).count(),
                    1,
                    "{program:?} {stage:?}"
                );
                assert_eq!((logging[2].code, logging[2].k), (ANSWER, KILL_PROCESS));
                let rest = |answer: &&u32| ![KILL_PROCESS, 0x7fff_0000].contains(answer);
                assert!(after.iter().filter(rest).all(|answer| answer & 0xffff_0000 == TRACE));
                assert_eq!(
                    after.iter().filter(rest).count() + 1,
                    answers(&strict).iter().filter(|a| **a != 0x7fff_0000).count()
                );
                assert!(after.iter().any(|answer| answer & 0xffff_0000 == TRACE));
            }
        }
        assert_eq!((placed(0x0002), placed(0xff00)), (None, None));
    }
}
