//! The only parser of what a guest writes: from the bytes of a request behind its header to one [`Operation`]. Pure.
//!
//! A name is one component of a path: neither empty nor longer than 255 bytes, no slash in it, and neither `.` nor `..`, for
//! which the driver has no need to ask. So no name that gets past here leads anywhere but into its own directory.

use std::ffi::CStr;

use nix::errno::Errno;

use crate::wire::{Fields, InHeader, opcode, set};

/// Longest name of a file.
const NAME: usize = 255;
/// Longest target of a symbolic link, with its zero.
const TARGET: usize = 4096;
/// Most nodes that are forgotten in one request.
const FORGOTTEN: u32 = 4096;
/// Bytes of the longest request but a write.
pub const LONGEST: usize = 128 << 10;

/// What a driver asks for, of the node that the header names. What it says that is not used is not here; fields have the names
/// and the meaning of linux/fuse.h.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation<'a> {
    Lookup {
        name: &'a CStr,
    },
    /// (node, how often), for one or many.
    Forget(Vec<(u64, u64)>),
    Attributes {
        handle: Option<u64>,
    },
    SetAttributes(SetAttributes),
    ReadLink,
    SymbolicLink {
        name: &'a CStr,
        target: &'a CStr,
    },
    MakeNode {
        name: &'a CStr,
        mode: u32,
    },
    MakeDirectory {
        name: &'a CStr,
        mode: u32,
    },
    Unlink {
        name: &'a CStr,
    },
    RemoveDirectory {
        name: &'a CStr,
    },
    Rename {
        name: &'a CStr,
        to: u64,
        new: &'a CStr,
        flags: u32,
    },
    Link {
        of: u64,
        name: &'a CStr,
    },
    Open {
        flags: u32,
    },
    Create {
        name: &'a CStr,
        flags: u32,
        mode: u32,
    },
    Read(Span),
    Write(Span),
    FileSystem,
    Release {
        handle: u64,
    },
    Synchronize {
        handle: u64,
    },
    Flush,
    Init {
        major: u32,
        readahead: u32,
    },
    OpenDirectory,
    ReadDirectory(Span),
    Interrupt,
    Destroy,
    Allocate {
        handle: u64,
        offset: u64,
        length: u64,
        mode: u32,
    },
}

/// A part of an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The open file.
    pub handle: u64,
    /// In bytes; of a directory what the last entry said.
    pub offset: u64,
    /// In bytes.
    pub size: u32,
}

/// What becomes another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// The open file by which it is asked for.
    pub handle: Option<u64>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Permissions.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Time of the last access.
    pub access: Option<Time>,
    /// Time of the last change.
    pub modification: Option<Time>,
}

/// A time to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// When it is set.
    Now,
    /// Seconds since 1970, and nanoseconds.
    At(i64, u32),
}

/// Reads the request with this header from `body`.
///
/// # Errors
/// ENOSYS for an operation that this device does not have, which the driver then does without; EINVAL and ENAMETOOLONG for
/// what is malformed.
pub fn parse<'a>(header: &InHeader, body: &'a [u8]) -> Result<Operation<'a>, Errno> {
    let mut fields = Fields(body);
    let parsed = match header.opcode {
        opcode::LOOKUP
        | opcode::UNLINK
        | opcode::RMDIR
        | opcode::SYMLINK
        | opcode::MKNOD
        | opcode::MKDIR
        | opcode::RENAME
        | opcode::RENAME2
        | opcode::LINK
        | opcode::CREATE => return by_name(header.opcode, fields),
        opcode::FORGET => fields.u64().map(|count| Operation::Forget(vec![(header.node, count)])),
        opcode::BATCH_FORGET => forgotten(fields),
        opcode::SETATTR => set_attributes(fields).map(Operation::SetAttributes),
        opcode::GETATTR => attributes(fields),
        opcode::READLINK => Some(Operation::ReadLink),
        opcode::OPEN => fields.u32().map(|flags| Operation::Open { flags }),
        opcode::READ => span(fields).map(Operation::Read),
        opcode::WRITE => span(fields).map(Operation::Write),
        opcode::READDIR => span(fields).map(Operation::ReadDirectory),
        opcode::STATFS => Some(Operation::FileSystem),
        opcode::RELEASE | opcode::RELEASEDIR => fields.u64().map(|handle| Operation::Release { handle }),
        opcode::FSYNC | opcode::FSYNCDIR => fields.u64().map(|handle| Operation::Synchronize { handle }),
        opcode::FLUSH => Some(Operation::Flush),
        opcode::INIT => init(fields),
        opcode::OPENDIR => Some(Operation::OpenDirectory),
        opcode::INTERRUPT => Some(Operation::Interrupt),
        opcode::DESTROY => Some(Operation::Destroy),
        opcode::FALLOCATE => allocate(fields),
        _ => return Err(Errno::ENOSYS),
    };
    parsed.ok_or(Errno::EINVAL)
}

fn by_name(operation: u32, mut fields: Fields<'_>) -> Result<Operation<'_>, Errno> {
    let mut word = |count| -> Result<u32, Errno> {
        let mut first = None;
        for _ in 0..count {
            let next = fields.u32().ok_or(Errno::EINVAL)?;
            first = first.or(Some(next));
        }
        first.ok_or(Errno::EINVAL)
    };
    Ok(match operation {
        opcode::LOOKUP => Operation::Lookup { name: name(&mut fields)? },
        opcode::UNLINK => Operation::Unlink { name: name(&mut fields)? },
        opcode::RMDIR => Operation::RemoveDirectory { name: name(&mut fields)? },
        opcode::SYMLINK => {
            let name = name(&mut fields)?;
            let target = fields.text().ok_or(Errno::EINVAL)?;
            match target.to_bytes_with_nul().len() {
                1 => return Err(Errno::EINVAL),
                2..=TARGET => Operation::SymbolicLink { name, target },
                _ => return Err(Errno::ENAMETOOLONG),
            }
        }
        opcode::MKNOD => {
            let mode = word(4)?;
            Operation::MakeNode { mode, name: name(&mut fields)? }
        }
        opcode::MKDIR => {
            let mode = word(2)?;
            Operation::MakeDirectory { mode, name: name(&mut fields)? }
        }
        opcode::CREATE => {
            let flags = word(1)?;
            let mode = word(3)?;
            Operation::Create { flags, mode, name: name(&mut fields)? }
        }
        opcode::LINK => {
            let of = fields.u64().ok_or(Errno::EINVAL)?;
            Operation::Link { of, name: name(&mut fields)? }
        }
        _ => {
            let to = fields.u64().ok_or(Errno::EINVAL)?;
            let flags = if operation == opcode::RENAME2 {
                let flags = fields.u32().ok_or(Errno::EINVAL)?;
                fields.u32().ok_or(Errno::EINVAL)?;
                flags
            } else {
                0
            };
            Operation::Rename { to, flags, name: name(&mut fields)?, new: name(&mut fields)? }
        }
    })
}

fn name<'a>(fields: &mut Fields<'a>) -> Result<&'a CStr, Errno> {
    let name = fields.text().ok_or(Errno::EINVAL)?;
    match name.to_bytes() {
        b"" | b"." | b".." => Err(Errno::EINVAL),
        bytes if bytes.contains(&b'/') => Err(Errno::EINVAL),
        bytes if bytes.len() > NAME => Err(Errno::ENAMETOOLONG),
        _ => Ok(name),
    }
}

fn forgotten(mut fields: Fields<'_>) -> Option<Operation<'_>> {
    let count = fields.u32().filter(|count| *count <= FORGOTTEN)?;
    fields.u32()?;
    let nodes = (0..count).map(|_| Some((fields.u64()?, fields.u64()?)));
    nodes.collect::<Option<Vec<_>>>().map(Operation::Forget)
}

fn attributes(mut fields: Fields<'_>) -> Option<Operation<'_>> {
    let (flags, _, handle) = (fields.u32()?, fields.u32()?, fields.u64()?);
    // FUSE_GETATTR_FH.
    Some(Operation::Attributes { handle: (flags & 1 != 0).then_some(handle) })
}

fn set_attributes(mut fields: Fields<'_>) -> Option<SetAttributes> {
    let (valid, _) = (fields.u32()?, fields.u32()?);
    let (handle, size, _lock_owner) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let (access, modification, _change) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let (access_part, modification_part, _) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let (mode, _, uid, gid) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
    let _unused = fields.u32()?;
    let said = |bit| valid & bit != 0;
    let time = |bit, now, seconds: u64, part| match (said(now), said(bit)) {
        (true, _) => Some(Time::Now),
        (false, true) => Some(Time::At(seconds.cast_signed(), part)),
        (false, false) => None,
    };
    if access_part.max(modification_part) >= 1_000_000_000 {
        return None;
    }
    Some(SetAttributes {
        handle: said(set::FH).then_some(handle),
        size: said(set::SIZE).then_some(size),
        mode: said(set::MODE).then_some(mode),
        uid: said(set::UID).then_some(uid),
        gid: said(set::GID).then_some(gid),
        access: time(set::ATIME, set::ATIME_NOW, access, access_part),
        modification: time(set::MTIME, set::MTIME_NOW, modification, modification_part),
    })
}

fn span(mut fields: Fields<'_>) -> Option<Span> {
    let (handle, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
    Some(Span { handle, offset, size })
}

fn init(mut fields: Fields<'_>) -> Option<Operation<'_>> {
    let (major, _minor, readahead) = (fields.u32()?, fields.u32()?, fields.u32()?);
    Some(Operation::Init { major, readahead })
}

fn allocate(mut fields: Fields<'_>) -> Option<Operation<'_>> {
    let (handle, offset, length) = (fields.u64()?, fields.u64()?, fields.u64()?);
    Some(Operation::Allocate { handle, offset, length, mode: fields.u32()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(opcode: u32, body: &[u8]) -> Result<Operation<'_>, Errno> {
        parse(&InHeader { length: 0, opcode, unique: 1, node: 3 }, body)
    }

    #[test]
    fn a_name_is_one_component() {
        assert_eq!(parsed(opcode::LOOKUP, b"a b\0"), Ok(Operation::Lookup { name: c"a b" }));
        let (fits, too_long) = ([b'x'; 255], [b'x'; 256]);
        assert!(parsed(opcode::UNLINK, &[&fits[..], b"\0"].concat()).is_ok());
        assert_eq!(parsed(opcode::UNLINK, &[&too_long[..], b"\0"].concat()), Err(Errno::ENAMETOOLONG));
        for wrong in [&b"\0"[..], b"", b"no zero", b".\0", b"..\0", b"a/b\0", b"/\0", b"../x\0"] {
            for opcode in [opcode::LOOKUP, opcode::UNLINK, opcode::RMDIR] {
                assert_eq!(parsed(opcode, wrong), Err(Errno::EINVAL), "{wrong:?}");
            }
            let renamed = [&[0; 8][..], b"a\0", wrong].concat();
            assert_eq!(parsed(opcode::RENAME, &renamed), Err(Errno::EINVAL), "{wrong:?}");
        }
    }

    #[test]
    fn each_operation_takes_its_own_layout() {
        let create = [&[1, 0, 0, 0, 2, 0, 0, 0], &[0; 8][..], b"f\0"].concat();
        let wanted = Operation::Create { name: c"f", flags: 1, mode: 2 };
        assert_eq!(parsed(opcode::CREATE, &create), Ok(wanted));
        let rename = [&[9, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0], &b"a\0b\0"[..]].concat();
        let wanted = Operation::Rename { name: c"a", to: 9, new: c"b", flags: 2 };
        assert_eq!(parsed(opcode::RENAME2, &rename), Ok(wanted));
        assert_eq!(parsed(opcode::FORGET, &[2, 0, 0, 0, 0, 0, 0, 0]), Ok(Operation::Forget(vec![(3, 2)])));
        let batch =
            [&[1, 0, 0, 0, 0, 0, 0, 0][..], &[5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(parsed(opcode::BATCH_FORGET, &batch), Ok(Operation::Forget(vec![(5, 6)])));
        assert_eq!(parsed(opcode::BATCH_FORGET, &[255; 8]), Err(Errno::EINVAL), "more than there can be");
        assert_eq!(
            parsed(opcode::SYMLINK, b"n\0../t\0"),
            Ok(Operation::SymbolicLink { name: c"n", target: c"../t" })
        );
        assert_eq!(parsed(opcode::SYMLINK, b"n\0\0"), Err(Errno::EINVAL));
        for unknown in [0, 21, 22, 31, 33, 34, 39, 44, 46, 47, 48, 50, 4096, u32::MAX] {
            assert_eq!(parsed(unknown, &[0; 128]), Err(Errno::ENOSYS), "{unknown}");
        }
    }

    #[test]
    fn every_truncation_of_every_operation_is_an_answer() {
        let body = [b"abcdefgh".repeat(12), b"a\0b\0".to_vec()].concat();
        for opcode in 0..=64 {
            for length in 0..=body.len() {
                let _answered = parsed(opcode, &body[..length]);
            }
        }
        assert_eq!(parsed(opcode::SETATTR, &[0; 87]), Err(Errno::EINVAL));
        assert!(parsed(opcode::SETATTR, &[0; 88]).is_ok());
        assert_eq!(
            parsed(opcode::SETATTR, &[255; 88]),
            Err(Errno::EINVAL),
            "more nanoseconds than a second has"
        );
    }
}
