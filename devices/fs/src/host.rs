//! The directory on the host: each system call on files is made here, on a name in an open directory or on a path from the
//! root that has no link in it.
//!
//! What keeps the guest inside is the process's root, which is that directory; that no link is followed and nothing outside
//! of the directory walked is said to the kernel a second time with each open (`openat2`). A link is the guest's to follow:
//! it is told where it leads, and asks for the names on the way itself.

use std::ffi::{CStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{
    AtFlags, FallocateFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, fallocate, openat2, readlinkat,
    renameat2,
};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmodat, futimens, mkdirat, utimensat};
use nix::sys::statvfs::{FsFlags, Statvfs, fstatvfs};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, fsync, ftruncate, getgid, getuid, linkat, symlinkat, unlinkat};

use crate::handles::Listing;
use crate::request::Time;
use crate::wire::{Owners, Words};

/// Permissions that the guest may give: no set-user-id or set-group-id, which would be the host user's.
const PERMISSIONS: u32 = 0o777;
/// Of a directory the sticky bit as well.
const DIRECTORY_PERMISSIONS: u32 = 0o1777;
/// Those that a file is made with; the others follow, the process's umask being what it is.
const OWNERS: u32 = 0o700;

/// To look at a file and no more.
pub const LOOK: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW);
/// To reach what is in a directory.
pub const WALK: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY);
/// To read a directory.
pub const LIST: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY);

/// The directory.
#[derive(Debug)]
pub struct Host {
    root: File,
    owners: Owners,
    readonly: bool,
}

/// Of an error of the standard library's.
fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// What is known of an open file.
///
/// # Errors
/// What statx says.
pub fn look_at(file: &File) -> Result<Metadata, Errno> {
    file.metadata().map_err(|error| errno(&error))
}

impl Host {
    /// The root of this process.
    ///
    /// # Errors
    /// It cannot be opened, or can be written where it should not.
    pub fn new(readonly: bool) -> Result<Self, String> {
        let root = File::options().read(true).custom_flags(WALK.bits()).open("/");
        Self::at(root.map_err(|error| error.to_string())?, readonly)
    }

    /// The directory that is open in `root`. Where it is not the root of this process, nothing but `openat2` keeps names
    /// in it.
    ///
    /// # Errors
    /// It can be written where it should not.
    pub fn at(root: File, readonly: bool) -> Result<Self, String> {
        let mount = fstatvfs(&root).map_err(|errno| errno.desc().to_owned())?;
        if readonly && !mount.flags().contains(FsFlags::ST_RDONLY) {
            return Err("it was to be read-only and is not".to_owned());
        }
        let owners = Owners { uid: getuid().as_raw(), gid: getgid().as_raw() };
        Ok(Self { root, owners, readonly })
    }

    /// The directory itself.
    pub fn root(&self) -> &File {
        &self.root
    }

    /// Whose files are the guest's.
    pub fn owners(&self) -> Owners {
        self.owners
    }

    /// Opens `path` in `directory`.
    ///
    /// # Errors
    /// What openat2 says: ELOOP for a link.
    pub fn open(&self, directory: &File, path: &CStr, flags: OFlag) -> Result<File, Errno> {
        open(directory, path, flags, Mode::empty())
    }

    /// Opens a regular file that is there to be read and written as `flags` say, and says what is known of it. What is no
    /// regular file is not opened knowingly: a pipe's other end would see it, and a device may do something. It is if it
    /// takes the place of one between the look and the opening, and then closed at once.
    ///
    /// # Errors
    /// What openat2 says: ELOOP for a link; EACCES for what else is no regular file.
    pub fn open_regular(&self, directory: &File, path: &CStr, flags: u32) -> Result<(File, Metadata), Errno> {
        let flags = access(flags)?;
        if self.readonly && flags.intersects(OFlag::O_WRONLY | OFlag::O_RDWR) {
            return Err(Errno::EROFS);
        }
        let look = |flags| {
            let file = open(directory, path, flags, Mode::empty())?;
            let found = look_at(&file)?;
            match found.file_type() {
                kind if kind.is_file() => Ok((file, found)),
                kind if kind.is_symlink() => Err(Errno::ELOOP),
                _ => Err(Errno::EACCES),
            }
        };
        look(LOOK)?;
        look(flags)
    }

    /// Makes a regular file, or opens one that is there unless `flags` have O_EXCL.
    ///
    /// # Errors
    /// What openat2 and fchmodat say.
    pub fn create(&self, directory: &File, name: &CStr, flags: u32, mode: u32) -> Result<File, Errno> {
        let made = access(flags)? | OFlag::O_CREAT | OFlag::O_EXCL;
        match open(directory, name, made, permissions(mode & OWNERS)) {
            Ok(file) => {
                if mode & PERMISSIONS & !OWNERS != 0 {
                    change_mode(directory, name, mode & PERMISSIONS)?;
                }
                Ok(file)
            }
            Err(Errno::EEXIST) if flags & OFlag::O_EXCL.bits().cast_unsigned() == 0 => {
                let (file, _) = self.open_regular(directory, name, flags)?;
                if flags & OFlag::O_TRUNC.bits().cast_unsigned() != 0 {
                    ftruncate(&file, 0)?;
                }
                Ok(file)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// What mkdirat and fchmodat say.
    pub fn make_directory(&self, directory: &File, name: &CStr, mode: u32) -> Result<(), Errno> {
        mkdirat(directory, name, permissions(mode & OWNERS))?;
        match mode & DIRECTORY_PERMISSIONS {
            all if all & !OWNERS != 0 => change_mode(directory, name, all),
            _ => Ok(()),
        }
    }

    /// Gives a file or directory other permissions. A link has none: fchmodat would give them to what it leads to. One that
    /// takes the file's place after it was looked at is followed, to what it leads to in this process's root.
    ///
    /// # Errors
    /// What fchmodat says; EOPNOTSUPP for a link.
    pub fn set_mode(&self, directory: &File, name: &CStr, file: &Metadata, mode: u32) -> Result<(), Errno> {
        if file.is_symlink() {
            return Err(Errno::EOPNOTSUPP);
        }
        let possible = if file.is_dir() { DIRECTORY_PERMISSIONS } else { PERMISSIONS };
        change_mode(directory, name, mode & possible)
    }

    /// Makes a symbolic link; what it says is the guest's.
    ///
    /// # Errors
    /// What symlinkat says.
    pub fn make_link(&self, directory: &File, name: &CStr, target: &CStr) -> Result<(), Errno> {
        symlinkat(target, directory, name)
    }

    /// What a symbolic link that is open to be looked at says.
    ///
    /// # Errors
    /// What readlinkat says.
    pub fn read_link(&self, link: &File) -> Result<Vec<u8>, Errno> {
        readlinkat(link, c"").map(OsString::into_vec)
    }

    /// Gives a file a second name. It follows no link.
    ///
    /// # Errors
    /// What linkat says.
    pub fn link(&self, from: (&File, &CStr), to: (&File, &CStr)) -> Result<(), Errno> {
        linkat(from.0, from.1, to.0, to.1, AtFlags::empty())
    }

    /// Takes a name away, that of a directory or of anything else.
    ///
    /// # Errors
    /// What unlinkat says.
    pub fn remove(&self, directory: &File, name: &CStr, is_directory: bool) -> Result<(), Errno> {
        let flag = if is_directory { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
        unlinkat(directory, name, flag)
    }

    /// Renames.
    ///
    /// # Errors
    /// What renameat2 says; EINVAL for flags beyond RENAME_NOREPLACE and RENAME_EXCHANGE.
    pub fn rename(&self, from: (&File, &CStr), to: (&File, &CStr), flags: u32) -> Result<(), Errno> {
        let flags = RenameFlags::from_bits(flags);
        let flags = flags.filter(|flags| RenameFlags::RENAME_NOREPLACE.contains(*flags));
        renameat2(from.0, from.1, to.0, to.1, flags.ok_or(Errno::EINVAL)?)
    }

    /// Sets the length of a file that is open for writing.
    ///
    /// # Errors
    /// What ftruncate says; EFBIG for what is no length.
    pub fn set_size(&self, file: &File, size: u64) -> Result<(), Errno> {
        ftruncate(file, i64::try_from(size).map_err(|_| Errno::EFBIG)?)
    }

    /// Sets times, of the file with this name, or of one that is open.
    ///
    /// # Errors
    /// What utimensat says.
    pub fn set_times(
        &self,
        of: Result<(&File, &CStr), &File>,
        times: [Option<Time>; 2],
    ) -> Result<(), Errno> {
        let [access, modification] = times.map(|time| match time {
            None => TimeSpec::UTIME_OMIT,
            Some(Time::Now) => TimeSpec::UTIME_NOW,
            Some(Time::At(seconds, part)) => TimeSpec::new(seconds, part.into()),
        });
        match of {
            Ok((directory, name)) => {
                utimensat(directory, name, &access, &modification, UtimensatFlags::NoFollowSymlink)
            }
            Err(file) => futimens(file, &access, &modification),
        }
    }

    /// Makes room in a file, or a hole.
    ///
    /// # Errors
    /// What fallocate says; EOPNOTSUPP for what else it could do.
    pub fn allocate(&self, file: &File, mode: u32, offset: u64, length: u64) -> Result<(), Errno> {
        let known = FallocateFlags::FALLOC_FL_KEEP_SIZE
            | FallocateFlags::FALLOC_FL_PUNCH_HOLE
            | FallocateFlags::FALLOC_FL_ZERO_RANGE;
        let mode = FallocateFlags::from_bits(mode.cast_signed()).filter(|mode| known.contains(*mode));
        let number = |value| i64::try_from(value).map_err(|_| Errno::EFBIG);
        fallocate(file, mode.ok_or(Errno::EOPNOTSUPP)?, number(offset)?, number(length)?)
    }

    /// Makes what was written to it durable.
    ///
    /// # Errors
    /// What fsync says.
    pub fn synchronize(&self, file: &File) -> Result<(), Errno> {
        fsync(file)
    }

    /// Puts what is in a directory that is open to be read behind what is in `listing`, with `.` and `..`.
    ///
    /// # Errors
    /// What openat2 and getdents64 say; ENOMEM as soon as there is more than the listing has room for.
    pub fn list(&self, directory: &File, mut listing: Listing) -> Result<Listing, Errno> {
        // One more open file, which stands at the beginning.
        let fresh: OwnedFd = open(directory, c".", LIST, Mode::empty())?.into();
        for entry in Dir::from_fd(fresh)? {
            let entry = entry?;
            listing.push(entry.ino(), kind(entry.file_type()), entry.file_name().to_bytes())?;
        }
        Ok(listing)
    }

    /// `fuse_statfs_out` of the file system that the directory is on.
    ///
    /// # Errors
    /// What fstatfs says.
    pub fn file_system(&self) -> Result<Vec<u8>, Errno> {
        let found: Statvfs = fstatvfs(&self.root)?;
        let short = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let (blocks, files) =
            ([found.blocks(), found.blocks_free(), found.blocks_available()], found.files());
        let words = Words::default().u64(&blocks).u64(&[files, found.files_free()]);
        let sizes = [found.block_size(), found.name_max(), found.fragment_size()].map(short);
        Ok(words.u32(&sizes).u32(&[0; 7]).0)
    }
}

fn open(directory: &File, path: &CStr, flags: OFlag, mode: Mode) -> Result<File, Errno> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(resolve);
    openat2(directory, path, how).map(File::from)
}

/// How a regular file is opened: as the guest says, where that is for the host to know. O_NONBLOCK is for what turns out to
/// be a pipe, which would be waited for; a write at the end is one at an offset, which the driver says.
fn access(flags: u32) -> Result<OFlag, Errno> {
    let kept = OFlag::O_ACCMODE | OFlag::O_SYNC | OFlag::O_DSYNC;
    let flags = OFlag::from_bits_truncate(flags.cast_signed()) & kept;
    if flags & OFlag::O_ACCMODE == OFlag::O_ACCMODE {
        return Err(Errno::EINVAL);
    }
    Ok(flags | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
}

fn permissions(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode)
}

fn change_mode(directory: &File, name: &CStr, mode: u32) -> Result<(), Errno> {
    fchmodat(directory, name, permissions(mode), FchmodatFlags::FollowSymlink)
}

/// `d_type` of `readdir`.
fn kind(of: Option<Type>) -> u32 {
    match of {
        None => 0,
        Some(Type::Fifo) => 1,
        Some(Type::CharacterDevice) => 2,
        Some(Type::Directory) => 4,
        Some(Type::BlockDevice) => 6,
        Some(Type::File) => 8,
        Some(Type::Symlink) => 10,
        Some(Type::Socket) => 12,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handles::Room;

    #[test]
    fn a_directory_is_read_as_far_as_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        for number in 100..200 {
            File::create(folder.path().join(number.to_string())).unwrap();
        }
        let directory = File::open(folder.path()).unwrap();
        let owners = Owners { uid: 0, gid: 0 };
        let host = Host { root: directory.try_clone().unwrap(), owners, readonly: false };
        let enough = Room::new(1 << 20);
        let listing = host.list(&directory, Listing::new(enough)).unwrap();
        assert_eq!(listing.entries().len(), 102);
        let room = Room::new(4096);
        assert_eq!(host.list(&directory, Listing::new(room.clone())).err(), Some(Errno::ENOMEM));
        let mut after = Listing::new(room);
        assert!(after.push(1, 8, &[b'x'; 3900]).is_ok(), "nothing of it is kept");
    }
}
