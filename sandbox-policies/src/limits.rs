//! Resource limits, per program. Soft and hard alike, so that nothing can raise them again.
//!
//! What is not limited here, and why: memory locking (the core may be asked for locked guest memory); the
//! address space and CPU time (guest memory and guests are as large and as long as the user said); the size of
//! files (device-blk and device-blk-qcow2 write the user's disk, device-fs his files, core and device-console the console, which may be a file, and the size of
//! an in-flight memfd counts, too).

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{Error, Program};

/// Applies the limits of `program` to the calling process. A hard limit that is lower already stays.
pub fn apply(program: Program) -> Result<(), Error> {
    for (resource, limit) in of(program) {
        lower(*resource, *limit).map_err(|errno| Error::Confine { step: "rlimits", errno })?;
    }
    Ok(())
}

/// The open files of the device that has most of them, device-fs: as a disk's, and 4096 of its guest's.
const MOST_OF_A_DEVICE: u64 = 640 + 4096;

/// The limits of each program.
pub fn of(program: Program) -> &'static [(Resource, u64)] {
    match program {
        // A core dump would hold guest memory. Message queues and signals: none are used. Files: its spawner has these
        // limits, too, and starts successors of every device, none of which can have more than it.
        Program::Launcher => &[
            (Resource::RLIMIT_CORE, 0),
            (Resource::RLIMIT_MSGQUEUE, 0),
            (Resource::RLIMIT_NOFILE, MOST_OF_A_DEVICE),
        ],
        // 31 devices of 64 queues with a kick and a call eventfd each, three sockets for each device, memory and KVM's
        // descriptors.
        Program::Core => &[
            (Resource::RLIMIT_CORE, 0),
            (Resource::RLIMIT_MSGQUEUE, 0),
            (Resource::RLIMIT_NOFILE, 8192),
            (Resource::RLIMIT_SIGPENDING, 256),
        ],
        // 64 queues with a wake, a kick, a call and an error eventfd each, twice 32 memory regions while they
        // are replaced, and what one hostile message can bring (253), lest it be cut short.
        Program::DeviceBlk | Program::DeviceBlkQcow2 => &[
            (Resource::RLIMIT_CORE, 0),
            (Resource::RLIMIT_MSGQUEUE, 0),
            (Resource::RLIMIT_NOFILE, 640),
            (Resource::RLIMIT_SIGPENDING, 256),
        ],
        // The same with a few queues.
        Program::DeviceRng
        | Program::DeviceNet
        | Program::DeviceConsole
        | Program::DevicePmem
        | Program::DeviceBalloon
        | Program::DeviceMem => &[
            (Resource::RLIMIT_CORE, 0),
            (Resource::RLIMIT_MSGQUEUE, 0),
            (Resource::RLIMIT_NOFILE, 384),
            (Resource::RLIMIT_SIGPENDING, 256),
        ],
        // As those of a few queues, and 512 connections.
        Program::DeviceVsock => &[
            (Resource::RLIMIT_CORE, 0),
            (Resource::RLIMIT_MSGQUEUE, 0),
            (Resource::RLIMIT_NOFILE, 384 + 512),
            (Resource::RLIMIT_SIGPENDING, 256),
        ],
        Program::DeviceFs => &[
            (Resource::RLIMIT_CORE, 0),
            (Resource::RLIMIT_MSGQUEUE, 0),
            (Resource::RLIMIT_NOFILE, MOST_OF_A_DEVICE),
            (Resource::RLIMIT_SIGPENDING, 256),
        ],
    }
}

/// No core dump: the one limit that must hold before exec, while the child is still a copy of the launcher.
pub fn forbid_core_dumps() -> Result<(), Errno> {
    lower(Resource::RLIMIT_CORE, 0)
}

/// No more processes or threads, from now on.
pub fn forbid_processes() -> Result<(), Errno> {
    lower(Resource::RLIMIT_NPROC, 0)
}

fn lower(resource: Resource, limit: u64) -> Result<(), Errno> {
    let (_, hard) = getrlimit(resource)?;
    let limit = limit.min(hard);
    setrlimit(resource, limit, limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_can_have_what_the_first_process_of_its_device_had() {
        let files = |program: Program| {
            of(program).iter().find(|(resource, _)| *resource == Resource::RLIMIT_NOFILE).unwrap().1
        };
        // The core is started once, by the launcher before that is limited.
        for program in Program::ALL.into_iter().filter(|program| *program != Program::Core) {
            assert!(files(program) <= files(Program::Launcher), "{program:?}");
        }
    }
}
