//! The words of this crate: which program, which stage of its life, and how much of the sandbox must be
//! there.

use std::fmt;
use std::str::FromStr;

/// A program with a policy file of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `vmm`, after its set-up.
    Launcher,
    /// `vmm-core`.
    Core,
    /// `device-blk`.
    DeviceBlk,
    /// `device-blk-qcow2`.
    DeviceBlkQcow2,
    /// `device-rng`.
    DeviceRng,
    /// `device-net`.
    DeviceNet,
    /// `device-console`.
    DeviceConsole,
    /// `device-pmem`.
    DevicePmem,
    /// `device-balloon`.
    DeviceBalloon,
    /// `device-fs`.
    DeviceFs,
    /// `device-vsock`.
    DeviceVsock,
    /// `device-mem`.
    DeviceMem,
}

impl Program {
    /// Every program.
    pub const ALL: [Self; 12] = [
        Self::Launcher,
        Self::Core,
        Self::DeviceBlk,
        Self::DeviceBlkQcow2,
        Self::DeviceRng,
        Self::DeviceNet,
        Self::DeviceConsole,
        Self::DevicePmem,
        Self::DeviceBalloon,
        Self::DeviceFs,
        Self::DeviceVsock,
        Self::DeviceMem,
    ];

    /// The name of the executable and of its policy file, `policies/x86_64/<name>.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Launcher => "vmm",
            Self::Core => "vmm-core",
            Self::DeviceBlk => "device-blk",
            Self::DeviceBlkQcow2 => "device-blk-qcow2",
            Self::DeviceRng => "device-rng",
            Self::DeviceNet => "device-net",
            Self::DeviceConsole => "device-console",
            Self::DevicePmem => "device-pmem",
            Self::DeviceBalloon => "device-balloon",
            Self::DeviceFs => "device-fs",
            Self::DeviceVsock => "device-vsock",
            Self::DeviceMem => "device-mem",
        }
    }

    /// What it finds at `/`.
    pub fn root(self) -> Root {
        match self {
            Self::Launcher
            | Self::Core
            | Self::DeviceBlk
            | Self::DeviceBlkQcow2
            | Self::DeviceRng
            | Self::DeviceNet
            | Self::DeviceConsole
            | Self::DevicePmem
            | Self::DeviceBalloon
            | Self::DeviceMem => Root::Empty,
            Self::DeviceFs => Root::Files,
            Self::DeviceVsock => Root::Sockets,
        }
    }

    /// The stages that its policy has.
    pub fn stages(self) -> &'static [Stage] {
        match self {
            Self::Launcher => &[Stage::Serve, Stage::Spawner],
            Self::Core => &[Stage::Setup, Stage::Control, Stage::Vcpu],
            Self::DeviceBlk
            | Self::DeviceBlkQcow2
            | Self::DeviceRng
            | Self::DeviceNet
            | Self::DeviceConsole
            | Self::DevicePmem
            | Self::DeviceBalloon
            | Self::DeviceFs
            | Self::DeviceVsock
            | Self::DeviceMem => &[Stage::Setup, Stage::Serve, Stage::StandAlone],
        }
    }
}

/// What a program finds at `/`, and what landlock leaves it of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// Nothing.
    Empty,
    /// A directory of the host, with the files in it: to be read, and changed if its mount can be.
    Files,
    /// A directory of the host, of which nothing but the sockets can be used: to be connected to.
    Sockets,
}

/// A stage of a program's life, or one kind of its threads: a top-level key of its policy file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From stage one to stage two: receive, map, make threads.
    Setup,
    /// Serving.
    Serve,
    /// Serving: the core's thread that talks to the launcher and the back ends.
    Control,
    /// Serving: a thread of the core that runs a vCPU.
    Vcpu,
    /// The launcher's spawner, and what it spawns until that is confined itself.
    Spawner,
    /// A device program that somebody else than our launcher started and that accepts its own connection.
    StandAlone,
}

impl Stage {
    /// The key in the policy file.
    pub fn key(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Serve => "serve",
            Self::Control => "control",
            Self::Vcpu => "vcpu",
            Self::Spawner => "spawner",
            Self::StandAlone => "stand_alone",
        }
    }
}

/// What to do about a layer that the host lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Requirement {
    /// Refuse to run.
    #[default]
    Required,
    /// Go on without it and report it. A seccomp filter that cannot be installed is refused all the same.
    Available,
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Required => "required",
            Self::Available => "available",
        })
    }
}

/// Neither "required" nor "available".
#[derive(Debug, thiserror::Error)]
#[error("--sandbox={0}: it is either required or available")]
pub struct UnknownRequirement(String);

impl FromStr for Requirement {
    type Err = UnknownRequirement;

    fn from_str(word: &str) -> Result<Self, UnknownRequirement> {
        match word {
            "required" => Ok(Self::Required),
            "available" => Ok(Self::Available),
            _ => Err(UnknownRequirement(word.to_owned())),
        }
    }
}

/// What holds after a confinement step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The landlock ABI in force; 0: none.
    pub landlock_abi: u8,
    /// What the host lacks, one line each.
    pub lacking: Vec<String>,
}

impl Report {
    /// Adds a layer that is missing, or refuses to go on without it.
    pub(crate) fn lacks(
        &mut self,
        requirement: Requirement,
        layer: &'static str,
        found: String,
    ) -> Result<(), crate::Error> {
        match requirement {
            Requirement::Required => Err(crate::Error::Layer { layer, found }),
            Requirement::Available => {
                self.lacking.push(format!("{layer}: {found}"));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requirement_reads_what_it_writes() {
        for requirement in [Requirement::Required, Requirement::Available] {
            assert_eq!(requirement.to_string().parse::<Requirement>().unwrap(), requirement);
        }
        assert!("Required".parse::<Requirement>().is_err());
    }

    #[test]
    fn a_required_layer_is_refused_and_an_available_one_reported() {
        let mut report = Report::default();
        assert!(report.lacks(Requirement::Required, "landlock", "none".to_owned()).is_err());
        assert!(report.lacks(Requirement::Available, "landlock", "none".to_owned()).is_ok());
        assert_eq!(report.lacking, ["landlock: none"]);
    }
}
