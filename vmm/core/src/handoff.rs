//! The hand-over: what the launcher sends before the guest runs, received and checked.
//!
//! `protocol` has checked numbers and counts; here every descriptor is checked to be of the kind that the
//! message says it is, before anything is done with it.

use crate::Error;
use crate::boot::Source;
use crate::pluggable_memory::Pluggable;
use nix::sys::socket::{AddressFamily, SockType, SockaddrLike, UnixAddr, getsockname, getsockopt, sockopt};
use nix::sys::stat::{SFlag, fstat};
use protocol::{AttachDevice, Channel, CoreSetup, MemoryRegion, Phase, PmemOptions, ToCore};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::vec::IntoIter;

/// Everything that the core will ever be given.
#[derive(Debug)]
pub struct HandOver {
    /// /dev/kvm.
    pub kvm: OwnedFd,
    /// Regions of guest memory.
    pub regions: Vec<MemoryRegion>,
    /// Their memfds.
    pub memfds: Vec<OwnedFd>,
    /// Kernel, initrd and command line.
    pub source: Source,
    /// vCPUs.
    pub cpus: u8,
    /// The console, if there is one.
    pub console: Option<Console>,
    /// The devices, in the order of the command line.
    pub devices: Vec<(AttachDevice, OwnedFd)>,
    /// The names and files of those that have persistent memory, in the same order.
    pub persistent: Vec<(String, PmemOptions, OwnedFd)>,
    /// The memory of those that have some to be plugged in, in the same order.
    pub pluggable: Vec<Pluggable>,
}

/// The two ends of the guest's serial console.
#[derive(Debug)]
pub struct Console {
    /// What the guest is to read.
    pub input: OwnedFd,
    /// Where the guest's output goes.
    pub output: OwnedFd,
}

/// Receives everything up to `Start`. `None` if the launcher is gone or says `Stop` before.
///
/// # Errors
/// A frame that is refused, messages out of order, a descriptor of the wrong kind.
pub fn receive(channel: &Channel) -> Result<Option<HandOver>, Error> {
    let mut hand_over: Option<HandOver> = None;
    while let Some((message, fds)) = channel.receive::<ToCore>(Phase::HandOver)? {
        match message {
            ToCore::Setup(_) if hand_over.is_some() => {
                return Err(Error::HandOver("a second Setup"));
            }
            ToCore::Setup(setup) => hand_over = Some(accept(setup, fds)?),
            ToCore::Attach(device) => {
                let hand_over = hand_over.as_mut().ok_or(Error::HandOver("Attach before Setup"))?;
                attach(hand_over, device, fds)?;
            }
            ToCore::Start => return hand_over.ok_or(Error::HandOver("Start before Setup")).map(Some),
            _ => return Ok(None),
        }
    }
    Ok(None)
}

fn accept(setup: CoreSetup, fds: Vec<OwnedFd>) -> Result<HandOver, Error> {
    let mut fds = fds.into_iter();
    let kvm = kind(&mut fds, "KVM", &[SFlag::S_IFCHR])?;
    let memfds = setup
        .memory
        .iter()
        .map(|_| kind(&mut fds, "guest memory", &[SFlag::S_IFREG]))
        .collect::<Result<Vec<_>, _>>()?;
    let kernel = File::from(kind(&mut fds, "the kernel", &[SFlag::S_IFREG])?);
    let initrd =
        if setup.initrd { Some(File::from(kind(&mut fds, "the initrd", &[SFlag::S_IFREG])?)) } else { None };
    let console =
        if setup.console { Some(Console { input: next(&mut fds)?, output: next(&mut fds)? }) } else { None };
    Ok(HandOver {
        kvm,
        regions: setup.memory,
        memfds,
        source: Source { kernel, initrd, command_line: setup.command_line },
        cpus: setup.cpus,
        console,
        devices: Vec::new(),
        persistent: Vec::new(),
        pluggable: Vec::new(),
    })
}

fn attach(hand_over: &mut HandOver, device: AttachDevice, fds: Vec<OwnedFd>) -> Result<(), Error> {
    let mut fds = fds.into_iter();
    let socket = next(&mut fds)?;
    let wrong = |problem: &str| Error::Descriptor { what: "a device", problem: problem.to_owned() };
    match getsockopt(&socket, sockopt::SockType) {
        Ok(SockType::Stream) => {}
        _ => return Err(wrong("is no stream socket")),
    }
    let address = getsockname::<UnixAddr>(socket.as_raw_fd()).map_err(|_| wrong("is no Unix socket"))?;
    if address.family() != Some(AddressFamily::Unix) {
        return Err(wrong("is no Unix socket"));
    }
    if hand_over.devices.iter().any(|(other, _)| other.slot == device.slot) {
        return Err(Error::HandOver("two devices in one slot"));
    }
    if let Some(options) = device.pmem {
        let file = kind(&mut fds, "persistent memory", &[SFlag::S_IFREG, SFlag::S_IFBLK])?;
        hand_over.persistent.push((device.name.clone(), options, file));
    }
    if let Some(region) = device.mem {
        let memfd = kind(&mut fds, "memory to be plugged in", &[SFlag::S_IFREG])?;
        let plugged = kind(&mut fds, "the page of what is plugged", &[SFlag::S_IFREG])?;
        hand_over.pluggable.push(Pluggable { slot: device.slot, region, memfd, plugged });
    }
    hand_over.devices.push((device, socket));
    Ok(())
}

/// The next descriptor, which must be of one of these file types.
fn kind(fds: &mut IntoIter<OwnedFd>, what: &'static str, wanted: &[SFlag]) -> Result<OwnedFd, Error> {
    let fd = next(fds)?;
    let mode = fstat(&fd).map_err(Error::system("fstat"))?.st_mode;
    if !wanted.contains(&(SFlag::from_bits_truncate(mode) & SFlag::S_IFMT)) {
        let problem = format!("is of file type {:#o}", mode & SFlag::S_IFMT.bits());
        return Err(Error::Descriptor { what, problem });
    }
    Ok(fd)
}

/// `protocol` has counted the descriptors; should it be wrong, this is still no panic.
fn next(fds: &mut IntoIter<OwnedFd>) -> Result<OwnedFd, Error> {
    fds.next().ok_or(Error::HandOver("a descriptor is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest_memory::tests::{memfd, sealed};
    use nix::sys::socket::{SockFlag, socketpair};
    use std::os::fd::AsFd;

    fn setup() -> ToCore {
        ToCore::Setup(CoreSetup {
            memory: protocol::memory_layout::regions(128 << 20),
            cpus: 2,
            command_line: "quiet".to_owned(),
            initrd: true,
            console: false,
        })
    }

    fn device(slot: u8) -> ToCore {
        ToCore::Attach(AttachDevice {
            slot,
            name: format!("blk{slot}"),
            virtio_type: 2,
            queues: 1,
            queue_size: 256,
            deadline_ms: 1000,
            pmem: None,
            mem: None,
        })
    }

    fn send(channel: &Channel, message: &ToCore, fds: &[OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        channel.send(message, &fds).unwrap();
    }

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    fn regular() -> OwnedFd {
        memfd(4096, sealed())
    }

    fn whole() -> Vec<OwnedFd> {
        vec![null(), memfd(128 << 20, sealed()), regular(), regular()]
    }

    fn socket(kind: SockType) -> OwnedFd {
        socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap().0
    }

    #[test]
    fn everything_arrives_in_its_place() {
        let (launcher, core) = Channel::pair().unwrap();
        send(&launcher, &setup(), &whole());
        send(&launcher, &device(1), &[socket(SockType::Stream)]);
        send(&launcher, &device(2), &[socket(SockType::Stream)]);
        send(&launcher, &ToCore::Start, &[]);
        let hand_over = receive(&core).unwrap().unwrap();
        assert_eq!((hand_over.cpus, hand_over.memfds.len(), hand_over.devices.len()), (2, 1, 2));
        assert!(hand_over.source.initrd.is_some() && hand_over.console.is_none());
    }

    #[test]
    fn a_launcher_that_goes_or_stops_is_no_error() {
        let (launcher, core) = Channel::pair().unwrap();
        send(&launcher, &setup(), &whole());
        send(&launcher, &ToCore::Stop, &[]);
        assert!(receive(&core).unwrap().is_none());
        drop(launcher);
        assert!(receive(&core).unwrap().is_none());
    }

    #[test]
    fn descriptors_of_the_wrong_kind_are_refused() {
        let wrong: [(usize, OwnedFd); 4] =
            [(0, regular()), (1, null()), (2, null()), (3, socket(SockType::Stream))];
        for (place, fd) in wrong {
            let (launcher, core) = Channel::pair().unwrap();
            let mut fds = whole();
            fds[place] = fd;
            send(&launcher, &setup(), &fds);
            let error = receive(&core).unwrap_err();
            assert!(matches!(error, Error::Descriptor { .. }), "{place}: {error}");
        }
    }

    #[test]
    fn persistent_memory_comes_with_its_file() {
        let ToCore::Attach(plain) = device(1) else { panic!("not Attach") };
        let region = MemoryRegion { guest_phys: 20 << 30, size: 2 << 20 };
        let pmem = Some(PmemOptions { region, readonly: false });
        let attach = ToCore::Attach(AttachDevice { virtio_type: 27, pmem, ..plain });
        for (file, is_fine) in [(regular(), true), (null(), false), (socket(SockType::Stream), false)] {
            let (launcher, core) = Channel::pair().unwrap();
            send(&launcher, &setup(), &whole());
            send(&launcher, &attach, &[socket(SockType::Stream), file]);
            send(&launcher, &ToCore::Start, &[]);
            match receive(&core) {
                Ok(hand_over) => {
                    let persistent = hand_over.unwrap().persistent;
                    assert!(is_fine && persistent.len() == 1 && persistent[0].0 == "blk1");
                }
                Err(error) => assert!(!is_fine && matches!(error, Error::Descriptor { .. }), "{error}"),
            }
        }
    }

    #[test]
    fn memory_to_be_plugged_in_comes_with_its_memfd_and_its_page() {
        let ToCore::Attach(plain) = device(1) else { panic!("not Attach") };
        let region = MemoryRegion { guest_phys: 20 << 30, size: 2 << 20 };
        let attach = ToCore::Attach(AttachDevice { virtio_type: 24, mem: Some(region), ..plain });
        for (memory, page, is_fine) in
            [(regular(), regular(), true), (null(), regular(), false), (regular(), null(), false)]
        {
            let (launcher, core) = Channel::pair().unwrap();
            send(&launcher, &setup(), &whole());
            send(&launcher, &attach, &[socket(SockType::Stream), memory, page]);
            send(&launcher, &ToCore::Start, &[]);
            match receive(&core) {
                Ok(hand_over) => {
                    let pluggable = hand_over.unwrap().pluggable;
                    assert!(is_fine && pluggable.len() == 1 && pluggable[0].region == region);
                }
                Err(error) => assert!(!is_fine && matches!(error, Error::Descriptor { .. }), "{error}"),
            }
        }
    }

    #[test]
    fn order_slots_and_sockets_are_checked() {
        let cases: [(&[u8], SockType, &str); 2] =
            [(&[3, 3], SockType::Stream, "two devices"), (&[3], SockType::SeqPacket, "no stream socket")];
        for (slots, kind, says) in cases {
            let (launcher, core) = Channel::pair().unwrap();
            send(&launcher, &setup(), &whole());
            slots.iter().for_each(|slot| send(&launcher, &device(*slot), &[socket(kind)]));
            let error = receive(&core).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        for first in [device(1), ToCore::Start] {
            let (launcher, core) = Channel::pair().unwrap();
            let fds = if first == ToCore::Start { vec![] } else { vec![socket(SockType::Stream)] };
            send(&launcher, &first, &fds);
            assert!(receive(&core).unwrap_err().to_string().contains("before Setup"));
        }
    }
}
