//! The layers of a confinement, each of which can be had alone or left out: only here, by a process that calls the steps
//! of which the library makes a confinement one by one. No program of the product has a switch for that.
//!
//! Invariant: whoever has a layer less stands in a jail ([`jail`]): namespaces, ids and a root of its own, all thrown away.

mod filters;
mod host;
mod jail;
mod matrix;

use nix::errno::Errno;
use sandbox_policies::{Error, Program, Report, Root, Stage, limit_processes, stage_two};

pub use host::system_calls;
pub use jail::{ATTEMPT, JAIL, MATRIX, WITHIN, attempt, enter, within};
pub use matrix::{each_escape_is_stopped_by_the_layers_of_the_matrix, inside};

use host::{capabilities, landlock, limits, process, root};

/// A layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The filters of system calls.
    Seccomp,
    /// Landlock.
    Landlock,
    /// All seven namespaces, with an empty root and no user namespace beneath.
    Namespaces,
    /// No capabilities, no new privileges, not dumpable.
    Capabilities,
    /// Resource limits.
    Limits,
    /// Memory that never becomes executable, and sealed guest memory.
    Memory,
}

impl Layer {
    /// All of them, as columns.
    pub const ALL: [Self; 6] =
        [Self::Seccomp, Self::Landlock, Self::Namespaces, Self::Capabilities, Self::Limits, Self::Memory];

    /// The letter by which the matrix names it.
    pub fn letter(self) -> char {
        match self {
            Self::Seccomp => 's',
            Self::Landlock => 'l',
            Self::Namespaces => 'n',
            Self::Capabilities => 'c',
            Self::Limits => 'r',
            Self::Memory => 'm',
        }
    }
}

/// Some of the layers, by their letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers(String);

impl Layers {
    /// Those that `chosen` holds for.
    pub fn that(chosen: impl Fn(Layer) -> bool) -> Self {
        Self(Layer::ALL.into_iter().filter(|layer| chosen(*layer)).map(Layer::letter).collect())
    }

    /// Those that this program has at this stage. Who is not spawned has no namespaces; the spawner has no more than its
    /// filter, its limits and memory that never becomes executable.
    pub fn of(program: Program, stage: Stage) -> Self {
        let is_spawned = program != Program::Launcher && stage != Stage::StandAlone;
        Self::that(|layer| match layer {
            Layer::Namespaces => is_spawned,
            Layer::Landlock | Layer::Capabilities => stage != Stage::Spawner,
            Layer::Seccomp | Layer::Limits | Layer::Memory => true,
        })
    }

    /// Those but this one.
    pub fn without(&self, layer: Layer) -> Self {
        Self::that(|it| it != layer && self.has(it))
    }

    /// As an argument of a process. It has one character before the letters: an argument may not be empty.
    pub fn argument(&self) -> String {
        format!("+{}", self.0)
    }

    /// Reads [`Self::argument`].
    pub fn of_argument(argument: &str) -> Self {
        Self::that(|layer| argument.contains(layer.letter()))
    }

    /// Whether this one is among them.
    pub fn has(&self, layer: Layer) -> bool {
        self.0.contains(layer.letter())
    }

    /// Gives up what comes before the serving filter, in the order of a spawned program. Namespaces are there already
    /// ([`jail`]); their root is entered here. Answers the ABI of landlock.
    fn apply(&self, program: Program, stage: Stage) -> Result<u8, Error> {
        let mut report = Report::default();
        if self.has(Layer::Namespaces) {
            step("empty root", root::enter())?;
        }
        if self.has(Layer::Capabilities) {
            step("capabilities", capabilities::drop_bounding().and_then(|()| capabilities::drop_all()))?;
            step("no_new_privs", process::no_new_privileges())?;
            step("not dumpable", process::not_dumpable())?;
        }
        if self.has(Layer::Limits) {
            limits::apply(program)?;
            if program != Program::Launcher && stage != Stage::StandAlone {
                limit_processes()?;
            }
        }
        if self.has(Layer::Memory) {
            process::no_executable_gain(&mut report);
        }
        if self.has(Layer::Landlock) {
            report.landlock_abi = landlock::restrict(reach(program, stage))?;
        }
        Ok(report.landlock_abi)
    }

    /// The filters of this stage, one upon the other.
    fn filter(&self, program: Program, stage: Stage) -> Result<(), Error> {
        if self.has(Layer::Seccomp) {
            if program != Program::Launcher && stage != Stage::StandAlone {
                stage_two(program, Stage::Setup)?;
            }
            stage_two(program, stage)?;
        }
        Ok(())
    }
}

/// What landlock leaves it.
fn reach(program: Program, stage: Stage) -> landlock::Reach<'static> {
    match (program, program.root(), stage) {
        (Program::Launcher, ..) => landlock::Reach::Children { groups: None },
        (_, Root::Files, Stage::Serve) => landlock::Reach::Files,
        (_, Root::Sockets, Stage::Serve) => landlock::Reach::Sockets,
        _ => landlock::Reach::Nowhere,
    }
}

fn step(step: &'static str, done: Result<(), Errno>) -> Result<(), Error> {
    // The one kind of error that anybody can make; it says the same.
    done.map_err(|errno| Error::Confine { step, errno })
}
