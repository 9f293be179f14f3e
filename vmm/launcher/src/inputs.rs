//! All that a machine is made from, opened and checked before anything is spawned.

use std::io::{stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use protocol::{DeviceOptions, MemOptions, MemoryRegion, PmemOptions, memory_layout};
use sandbox_policies::{Directory, Program};

use crate::config::{Console, HugePages};
use crate::control_socket::ControlSocket;
use crate::device::console::{Console as VirtioConsole, Place};
use crate::device::{BackEnd, Device, Interface};
use crate::error::Error;
use crate::keep;
use crate::listening::Listening;
use crate::machine::Machine;
use crate::memory;
use crate::network::{self, Network};
use crate::open::{self, Disk, OpenConsole, OpenPmem};
use crate::programs::{self, Executable};
use crate::report;
use crate::size::Size;
use crate::user_network::Planned;

/// Whether opening may be seen by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To run the machine.
    Run,
    /// To look: no socket and no file for the console or for events is made, and no back end, which may serve one connection only, is connected to.
    DryRun,
}

/// Everything open.
#[derive(Debug)]
pub struct Inputs {
    /// KVM's node.
    pub kvm: OwnedFd,
    /// The kernel, for reading.
    pub kernel: OwnedFd,
    /// The initrd, for reading.
    pub initrd: Option<OwnedFd>,
    /// The console's input and output.
    pub console: Option<(OwnedFd, OwnedFd)>,
    /// Where the events of devices go.
    pub events: Option<OwnedFd>,
    /// Where clients find the machine.
    pub control: Option<ControlSocket>,
    /// Descriptors 0 and 1 of every program.
    pub null: OwnedFd,
    /// In the order of the machine's devices.
    pub resources: Vec<Resource>,
    /// `vmm-core`.
    pub core: Executable,
    /// The device programs that the machine needs, each once.
    pub device_programs: Vec<Executable>,
}

/// Memory to be plugged in.
#[derive(Debug)]
pub struct OpenMem {
    /// The memory, sealed.
    pub memory: OwnedFd,
    /// The page on which the program says how much of it is plugged.
    pub plugged: OwnedFd,
    /// What core and program are told. Where it lies is not known before all memory is.
    pub options: MemOptions,
}

/// What stands behind a device.
#[derive(Debug)]
pub enum Resource {
    /// For a device program of ours.
    Disk(Disk),
    /// For one too: a network.
    Network(Network),
    /// For one too: a generator.
    Generator(OwnedFd),
    /// For one too: where the ports of a console are.
    Console(Vec<OpenConsole>),
    /// For one too, and for the core: persistent memory.
    Pmem(OpenPmem),
    /// For one too, and for the core: memory to be plugged in.
    Mem(OpenMem),
    /// For one that has none, and a place for it in its hand-over.
    Nothing(OwnedFd),
    /// For one too, whose root it becomes.
    Directory {
        /// The directory.
        root: OwnedFd,
        /// Whether nothing in it may be changed.
        readonly: bool,
        /// For the place of a resource in the hand-over.
        nothing: OwnedFd,
    },
    /// For one too: the socket on which it listens, and the directory in which that is and which becomes its root.
    Vsock {
        /// The directory.
        root: OwnedFd,
        /// The socket.
        listening: Listening,
    },
    /// A connected back end of somebody else.
    Connected(OwnedFd),
    /// One that was only looked at.
    Looked,
}

impl Resource {
    /// The file of a disk.
    pub fn disk(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Resource::Disk(disk) => Some(disk.fd.as_fd()),
            _ => None,
        }
    }

    /// What a device program of ours is told of it, and handed.
    pub fn for_program(&self, back_end: &BackEnd) -> Option<(DeviceOptions, BorrowedFd<'_>)> {
        match (self, back_end) {
            (Resource::Disk(disk), BackEnd::Blk(blk)) => {
                Some((DeviceOptions::Blk(blk.options.clone()), disk.fd.as_fd()))
            }
            (Resource::Network(network), BackEnd::Net(_)) => {
                Some((DeviceOptions::Net(network.options.clone()), network.descriptor()?))
            }
            (Resource::Generator(fd), BackEnd::Rng(_)) => Some((DeviceOptions::Rng, fd.as_fd())),
            (Resource::Console(open), BackEnd::Console(console)) => {
                Some((DeviceOptions::Console(console.options.clone()), open.first()?.fd.as_fd()))
            }
            (Resource::Pmem(open), BackEnd::Pmem(_)) => {
                Some((DeviceOptions::Pmem(open.options), open.flushed.as_fd()))
            }
            (Resource::Mem(open), BackEnd::Mem(_)) => {
                Some((DeviceOptions::Mem(open.options), open.plugged.as_fd()))
            }
            (Resource::Directory { nothing, .. }, BackEnd::Fs(fs)) => {
                Some((DeviceOptions::Fs(fs.options.clone()), nothing.as_fd()))
            }
            (Resource::Vsock { listening, .. }, BackEnd::Vsock(vsock)) => {
                Some((DeviceOptions::Vsock(vsock.options.clone()), listening.as_fd()))
            }
            (Resource::Nothing(null), BackEnd::Balloon(options)) => {
                Some((DeviceOptions::Balloon(options.clone()), null.as_fd()))
            }
            _ => None,
        }
    }

    /// The rest of what a program of ours is handed, where that is more than one descriptor.
    pub fn more(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Resource::Disk(disk) => disk.backing.iter().map(|(fd, _)| fd.as_fd()).collect(),
            Resource::Network(network) => network.more(),
            Resource::Console(open) => open.iter().skip(1).map(|port| port.fd.as_fd()).collect(),
            _ => Vec::new(),
        }
    }

    /// What the core is told and handed of it beside the socket.
    pub fn for_core(&self) -> Option<(PmemOptions, BorrowedFd<'_>)> {
        match self {
            Resource::Pmem(open) => Some((open.options, open.memory.as_fd())),
            _ => None,
        }
    }

    /// The same of memory to be plugged in.
    pub fn mem_for_core(&self) -> Option<(MemoryRegion, [BorrowedFd<'_>; 2])> {
        match self {
            Resource::Mem(open) => Some((open.options.region, [open.memory.as_fd(), open.plugged.as_fd()])),
            _ => None,
        }
    }

    /// What the root of its program is, if not empty.
    pub fn directory(&self) -> Option<Directory<'_>> {
        match self {
            Resource::Directory { root, readonly, .. } => {
                Some(Directory { descriptor: root.as_fd(), readonly: *readonly })
            }
            Resource::Vsock { root, .. } => Some(Directory { descriptor: root.as_fd(), readonly: true }),
            _ => None,
        }
    }
}

impl Inputs {
    /// The names on which the machine listens.
    pub fn listening(&self) -> impl Iterator<Item = &Listening> {
        let devices = self.resources.iter().filter_map(|resource| match resource {
            Resource::Vsock { listening, .. } => Some(listening),
            _ => None,
        });
        self.control.iter().map(ControlSocket::listening).chain(devices)
    }

    /// The other ends of the consoles' pseudoterminals, to be kept as long as the machine runs.
    pub fn take_other_ends(&mut self) -> Vec<OwnedFd> {
        let consoles = self.resources.iter_mut().filter_map(|resource| match resource {
            Resource::Console(ports) => Some(ports),
            _ => None,
        });
        let other_ends = consoles.flatten().filter_map(|port| port.other_end.take());
        other_ends.map(|(fd, _)| fd).collect()
    }

    /// The programs that are to be started for networks.
    pub fn take_user_networks(&mut self) -> Vec<Planned> {
        let networks = self.resources.iter_mut().filter_map(|resource| match resource {
            Resource::Network(network) => network.user.take().map(|user| *user),
            _ => None,
        });
        networks.collect()
    }

    /// Opens all, in the order in which a person would name them.
    pub fn open(machine: &Machine, purpose: Purpose) -> Result<Inputs, Error> {
        let kernel = open::image("read kernel", &machine.kernel, machine.memory)?;
        let initrd = machine
            .initrd
            .as_ref()
            .map(|path| open::image("read initrd", path, machine.memory))
            .transpose()?;
        let mut resources = resources(&machine.devices, purpose)?;
        place_memory(&machine.devices, &mut resources, machine.memory)?;
        let console = console(&machine.console, purpose)?;
        let events = machine.events.as_ref().filter(|path| purpose == Purpose::Run || path.exists());
        let events = events.map(|path| open::events(path)).transpose()?;
        let kvm = open::kvm(&machine.kvm)?;
        let served = machine.devices.iter().filter_map(|device| device.back_end.program());
        let device_programs = programs::find_all(served)?;
        // Last, so that nothing is left of it if anything else is amiss.
        let control = machine.control_socket.as_ref().filter(|_| purpose == Purpose::Run);
        let control = control.map(|path| ControlSocket::make(path)).transpose()?;
        let (core, null) = (programs::find(Program::Core)?, open::null()?);
        Ok(Inputs { kvm, kernel, initrd, console, events, control, null, resources, core, device_programs })
    }
}

fn resources(devices: &[Device], purpose: Purpose) -> Result<Vec<Resource>, Error> {
    let mut seen: Vec<Claim<'_>> = Vec::new();
    let mut resources = Vec::new();
    for device in devices {
        for claim in Claim::all(device)? {
            if let Some(other) = seen.iter().find(|other| other.excludes(&claim)) {
                let text = format!("{} is {}'s already; give each device its own", claim.what, other.device);
                return Err(Error::Device { name: device.name.clone(), text });
            }
            seen.push(claim);
        }
        resources.push(match (&device.back_end, purpose) {
            (BackEnd::Blk(blk), _) => Resource::Disk(open::disk(blk)?),
            (BackEnd::Net(net), _) => Resource::Network(network::open(&device.name, net, purpose)?),
            (BackEnd::Rng(path), _) => Resource::Generator(open::generator(path)?),
            (BackEnd::Fs(fs), _) => Resource::Directory {
                root: open::directory(&fs.path)?,
                readonly: fs.options.readonly,
                nothing: open::null()?,
            },
            (BackEnd::Console(console), Purpose::Run) => Resource::Console(opened_console(device, console)?),
            (BackEnd::Console(_), Purpose::DryRun) => Resource::Looked,
            (BackEnd::Pmem(pmem), _) => Resource::Pmem(open::persistent_memory(pmem)?),
            (BackEnd::Mem(options), _) => Resource::Mem(OpenMem {
                memory: memory::create_region(options.region.size, HugePages::Off)?,
                plugged: keep::create()?,
                options: *options,
            }),
            (BackEnd::Balloon(_), _) => Resource::Nothing(open::null()?),
            (BackEnd::Vsock(vsock), Purpose::Run) => Resource::Vsock {
                root: open::directory(vsock.folder())?,
                listening: open::vsock(&vsock.path)?,
            },
            (BackEnd::Vsock(vsock), Purpose::DryRun) => {
                open::directory(vsock.folder())?;
                Resource::Looked
            }
            (BackEnd::Socket(path), Purpose::Run) => Resource::Connected(open::back_end(path)?),
            (BackEnd::Socket(_), Purpose::DryRun) => Resource::Looked,
        });
    }
    Ok(resources)
}

/// Says where each persistent memory, and memory to be plugged in, lies in a guest with so much other memory.
fn place_memory(devices: &[Device], resources: &mut [Resource], memory: Size) -> Result<(), Error> {
    let mut open: Vec<(bool, &Device, &mut MemoryRegion)> = devices
        .iter()
        .zip(resources)
        .filter_map(|(device, resource)| match resource {
            Resource::Pmem(open) => Some((false, device, &mut open.options.region)),
            Resource::Mem(open) => Some((true, device, &mut open.options.region)),
            _ => None,
        })
        .collect();
    // Files first, each kind in the order of its devices.
    open.sort_by_key(|(pluggable, ..)| *pluggable);
    let sizes: Vec<u64> = open.iter().map(|(_, _, region)| region.size).collect();
    let regions = memory_layout::persistent(&memory_layout::regions(memory.0), &sizes);
    for ((_, device, place), region) in open.iter_mut().zip(regions) {
        if region.guest_phys.checked_add(region.size).is_none() {
            let text = "no addresses are left for it; give less of it with size=".to_owned();
            return Err(Error::Device { name: device.name.clone(), text });
        }
        **place = region;
    }
    Ok(())
}

/// What a device wants for itself.
struct Claim<'a> {
    device: &'a str,
    /// In the user's words.
    what: String,
    identity: Identity<'a>,
    /// Whether it goes with others that share, too: readers, and those for whom the user takes the blame.
    shared: bool,
}

/// What tells one such thing from another.
#[derive(PartialEq, Eq)]
enum Identity<'a> {
    /// A file or a socket, by file system and inode so that two spellings of a path are one.
    File(u64, u64),
    /// A tap.
    Interface(&'a Interface),
}

impl<'a> Claim<'a> {
    /// None for what any number of devices may use, a generator, and where there is nothing, a directory.
    fn all(device: &'a Device) -> Result<Vec<Claim<'a>>, Error> {
        let file = |what, path: &Path, shared| {
            Ok::<_, Error>(Claim::of_file(device, path, open::file_identity(what, path)?, shared))
        };
        Ok(vec![match &device.back_end {
            BackEnd::Socket(path) => Claim::of_file(device, path, open::back_end_identity(path)?, false),
            // The image, and what is below it, which others may have below theirs.
            BackEnd::Blk(blk) => {
                let disk = file("open disk", &blk.path, blk.options.readonly || !blk.lock);
                let backing = blk.backing.iter().map(|path| file("open backing file", path, true));
                return std::iter::once(disk).chain(backing).collect();
            }
            BackEnd::Pmem(pmem) => file("open persistent memory", &pmem.path, pmem.readonly || !pmem.lock)?,
            // Each has a process of its own.
            BackEnd::Net(net) if matches!(net.interface, Interface::User(_)) => return Ok(Vec::new()),
            BackEnd::Net(net) => {
                let (what, identity) = (net.interface.to_string(), Identity::Interface(&net.interface));
                Claim { device: &device.name, what, identity, shared: false }
            }
            // A directory is whoever's as well that reads and writes its files; of vsocks a machine has one.
            BackEnd::Rng(_) | BackEnd::Balloon(_) | BackEnd::Mem(_) | BackEnd::Fs(_) | BackEnd::Vsock(_) => {
                return Ok(Vec::new());
            }
            BackEnd::Console(console) => {
                let places = console.places.iter();
                return Ok(places.filter_map(|place| Claim::of_console(device, place)).collect());
            }
        }])
    }

    fn of_file(device: &'a Device, path: &Path, (number, inode): (u64, u64), shared: bool) -> Self {
        let identity = Identity::File(number, inode);
        Claim { device: &device.name, what: format!("{path:?}"), identity, shared }
    }

    /// A file or socket that is there already is this console's alone.
    fn of_console(device: &'a Device, place: &'a Place) -> Option<Claim<'a>> {
        let (Place::Path(path) | Place::Connect(path) | Place::Listen(path)) = place else {
            return None;
        };
        Some(Claim::of_file(device, path, open::identity(path)?, false))
    }

    fn excludes(&self, other: &Claim<'_>) -> bool {
        self.identity == other.identity && !(self.shared && other.shared)
    }
}

/// Says where a pseudoterminal is: nobody else knows.
fn opened_console(device: &Device, console: &VirtioConsole) -> Result<Vec<OpenConsole>, Error> {
    let open = |(number, place): (usize, &Place)| {
        let open = open::virtio_console(place)?;
        if let Some((_, path)) = &open.other_end {
            let port = console.options.ports.get(number).filter(|port| !port.console);
            let what = port.map_or("the console".to_owned(), |port| format!("port {}", port.name));
            report::line(&device.name, &format!("{what} is at {}", path.display()));
        }
        Ok(open)
    };
    console.places.iter().enumerate().map(open).collect()
}

fn console(console: &Console, purpose: Purpose) -> Result<Option<(OwnedFd, OwnedFd)>, Error> {
    let copy = |fd: std::os::fd::BorrowedFd<'_>| {
        fd.try_clone_to_owned().map_err(|error| {
            let errno = nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0));
            Error::System { what: "duplicate standard input or output", errno }
        })
    };
    match console {
        Console::None => Ok(None),
        Console::Stdio => Ok(Some((copy(stdin().as_fd())?, copy(stdout().as_fd())?))),
        Console::File(path) if purpose == Purpose::DryRun && !path.exists() => Ok(None),
        Console::File(path) => Ok(Some((open::null()?, open::console(path)?))),
    }
}
