//! What can go wrong while a process is confined or spawned: one enum, each line saying what was tried, what
//! was wrong and what to do.

use nix::errno::Errno;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's side of a spawn failed.
    #[error("cannot spawn {name}: {step}: {errno}{}", advice(.step, .errno))]
    Spawn {
        /// The program, as the plan names it.
        name: String,
        /// What was being done.
        step: &'static str,
        /// What the kernel answered.
        errno: Errno,
    },
    /// The child could not confine itself, or the exec failed.
    #[error("cannot confine {name}: {step}: {errno}{}", advice(.step, .errno))]
    Child {
        /// The program, as the plan names it.
        name: String,
        /// What the child was doing.
        step: &'static str,
        /// What the kernel answered.
        errno: Errno,
    },
    /// The child was gone before it exec'd and before it could say why.
    #[error("cannot spawn {name}: it died before exec")]
    DiedBeforeExec {
        /// The program, as the plan names it.
        name: String,
    },
    /// An argument with a zero byte in it.
    #[error("cannot spawn {name}: an argument has a zero byte in it")]
    Argument {
        /// The program, as the plan names it.
        name: String,
    },
    /// A layer of the sandbox that was required is missing.
    #[error("sandbox layer missing: {layer}: {found}; --sandbox=available would go on without it")]
    Layer {
        /// Which layer.
        layer: &'static str,
        /// What was found instead.
        found: String,
    },
    /// The descriptors are not the ones that the hand-over lists.
    #[error("file descriptor {number}: {found}; a spawned program has exactly 0 to 3")]
    Descriptor {
        /// The descriptor's number.
        number: i32,
        /// What it is.
        found: String,
    },
    /// A system call of a confinement step failed.
    #[error("cannot confine this process: {step}: {errno}")]
    Confine {
        /// What was being done.
        step: &'static str,
        /// What the kernel answered.
        errno: Errno,
    },
    /// Landlock refused its rule set for a reason other than being absent.
    #[error("cannot confine this process: landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// A filter could not be installed.
    #[error("cannot confine this process: seccomp filter {program}.{stage}: {source}")]
    Filter {
        /// The policy's program.
        program: &'static str,
        /// The policy's stage.
        stage: &'static str,
        /// What seccompiler says.
        source: seccompiler::Error,
    },
    /// The policy of this program has no such stage.
    #[error("the policy of {program} has no stage {stage}")]
    NoStage {
        /// The policy's program.
        program: &'static str,
        /// The stage that was asked for.
        stage: &'static str,
    },
    /// A directory is no control group in which groups can be made.
    #[error("cannot make control groups in {path}: {found}")]
    NotDelegated {
        /// The directory.
        path: String,
        /// What is in the way.
        found: String,
    },
    /// A live process could not be looked at.
    #[error("cannot read {path}: {errno}")]
    Posture {
        /// The file under /proc.
        path: String,
        /// What the kernel answered.
        errno: Errno,
    },
    /// Waiting for a child or signalling it failed.
    #[error("cannot {action} process {pid}: {errno}")]
    Process {
        /// "wait for" or "kill".
        action: &'static str,
        /// The child's pid.
        pid: i32,
        /// What the kernel answered.
        errno: Errno,
    },
}

impl Error {
    /// Whether a process could not be had because there are too many, or too little memory, at the moment: that is no layer
    /// which the host lacks.
    pub fn is_exhaustion(&self) -> bool {
        match self {
            Self::Spawn { errno, .. } | Self::Child { errno, .. } => is_exhaustion(*errno),
            _ => false,
        }
    }
}

/// Whether this is the answer to one process, descriptor or page too many, and may be another at another time.
pub(crate) fn is_exhaustion(errno: Errno) -> bool {
    matches!(errno, Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE)
}

/// What a person can do about a failed step; empty when the error says it all.
fn advice(step: &str, errno: &Errno) -> &'static str {
    match (step, errno) {
        (_, Errno::EAGAIN) => {
            "; there are too many processes: raise their limit (ulimit -u, TasksMax= of systemd, pids.max of the control group)"
        }
        (_, Errno::EMFILE | Errno::ENFILE) => {
            "; too many files are open: raise the limit (ulimit -n, sysctl fs.file-max)"
        }
        (_, Errno::ENOMEM) => "; the host has no memory for it now",
        ("namespaces", Errno::EPERM | Errno::ENOSYS | Errno::EINVAL)
        | ("host name" | "empty root", Errno::EPERM | Errno::EACCES) => {
            "; allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, or the \
             distribution's AppArmor setting) or give --sandbox=available"
        }
        ("namespaces", Errno::ENOSPC) => {
            "; raise user.max_user_namespaces and its kin in /proc/sys/user, or give --sandbox=available"
        }
        ("uid_map" | "gid_map", _) => {
            "; the launcher may not map this id: run it as root of a full user namespace or as an ordinary user"
        }
        ("empty root", Errno::EINVAL) => {
            "; pivot_root does not work from an initramfs: switch to a real root first"
        }
        ("shared directory", Errno::EINVAL) => {
            "; a file system is mounted beneath it, which an ordinary user cannot leave out: share a directory without one"
        }
        ("shared directory", Errno::ENOSYS) => "; Linux 5.12 has what it takes",
        ("trace it", Errno::EPERM | Errno::EACCES) => {
            "; --sandbox-log takes ptrace of a child of one's own: kernel.yama.ptrace_scope below 2, and no container \
             that refuses it"
        }
        ("exec", Errno::EACCES) => "; the program must be readable and executable by all (chmod 755)",
        ("exec", Errno::ENOENT) => {
            "; the program must be statically linked: there is no loader in an empty root"
        }
        ("exec", Errno::ENOEXEC) => "; the program is no x86-64 executable",
        _ => "",
    }
}
