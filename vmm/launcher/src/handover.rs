//! The hand-over: every process spawned, each told once what it serves and given the descriptors for it.
//!
//! The spawner first, while it can be a copy of a process that holds no secret and heard no stranger; then devices, so
//! that each back end is there when the core comes to negotiate with it. What the launcher keeps: pidfds, control
//! channels, logs. Of the disks it keeps nothing: a lock lasts as long as a copy of its descriptor, and the copies are
//! those of the device and of the spawner.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use protocol::{AttachDevice, CoreSetup, ToCore, limits};
use sandbox_policies::cgroup::Group;
use sandbox_policies::spawn::{Child, Identity};
use sandbox_policies::{Program, Requirement};

use crate::cgroup::{self, ControlGroups, Share};
use crate::config::Sandbox;
use crate::device::{BackEnd, Device, OnFailure};
use crate::device_process::{DeviceProcess, tell};
use crate::error::Error;
use crate::inputs::{Inputs, Resource};
use crate::machine::Machine;
use crate::memory::Region;
use crate::programs;
use crate::spawn::{Ourselves, Process, Spawning};
use crate::spawner::{Makings, Spawner};
use crate::user_network::{self, Planned, UserNetwork};

/// The processes of a machine, the core last, and what the launcher keeps for them. Dropping it ends them all.
#[derive(Debug)]
pub struct Processes {
    /// At first devices in order, numbered as the spawner numbers them, then the core; later ones where there is place.
    pub all: Vec<Process>,
    /// Such as came to nothing when they were to be spawned again, killed, until they are reaped.
    pub left: Vec<Child>,
    /// Where their control groups are.
    pub groups: ControlGroups,
    /// Spawns devices again and connects to back ends again, if one is to be.
    pub spawner: Option<Spawner>,
    /// The groups, of all that serve a device one after the other the same. They are removed with this, when nobody makes
    /// another process in them.
    _made: Vec<Group>,
    /// What of the networks are programs that the launcher has started. They end when nobody has their streams any more,
    /// and so are dropped after the spawner.
    pub user_networks: Vec<UserNetwork>,
}

impl Drop for Processes {
    fn drop(&mut self) {
        for process in self.all.iter_mut().filter(|process| process.ended.is_none()) {
            // Killing and waiting by pidfd fail for what is dead and reaped, and there is nothing left to try.
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

impl Processes {
    fn none(groups: ControlGroups, spawner: Option<Spawner>) -> Self {
        let (all, left, made, user_networks) = Default::default();
        Self { all, left, groups, spawner, _made: made, user_networks }
    }

    /// Reaps those that came to nothing and have ended.
    pub fn bury(&mut self) {
        self.left.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }

    /// Takes in a process in the place of a device's that has ended and that nobody `keeps`, or a new one. Answers its
    /// number.
    pub fn place(&mut self, process: Process, keeps: impl Fn(usize) -> bool) -> usize {
        let is_free = |(index, process): (usize, &Process)| {
            (process.ended.is_some() && process.program != Program::Core && !keeps(index)).then_some(index)
        };
        let free = self.all.iter().enumerate().find_map(is_free);
        let index = free.unwrap_or(self.all.len());
        match self.all.get_mut(index) {
            Some(place) => *place = process,
            None => self.all.push(process),
        }
        index
    }
}

/// What the programs are to do when a layer is missing.
pub fn requirement(machine: &Machine) -> Requirement {
    match machine.sandbox {
        Sandbox::Required => Requirement::Required,
        Sandbox::Available => Requirement::Available,
    }
}

/// Spawns everything and hands over. The core has all that it needs but the word to start.
pub fn hand_over(
    machine: &Machine,
    inputs: &Inputs,
    memory: &[Region],
    user_networks: Vec<Planned>,
) -> Result<Processes, Error> {
    let requirement = requirement(machine);
    let null = inputs.null.as_fd();
    let groups = ControlGroups::of(machine)?;
    // A group is removed when it is empty: dropped after the processes.
    let mut made = Vec::new();
    for (device, resource) in machine.devices.iter().zip(&inputs.resources) {
        let disk = resource.disk().and_then(|disk| cgroup::disk_limit(disk, &device.rates));
        let images = device.back_end.images();
        let share = Share { threads: threads(machine, device), images, disk };
        let is_ours = device.back_end.program().is_some();
        made.push(if is_ours { groups.group(machine, &device.name, share)? } else { None });
    }
    let name = inputs.core.program.name();
    // A thread for each vCPU and one for each front end.
    let threads = u64::from(machine.cpus).saturating_add(machine.devices.len() as u64);
    let core_group = groups.group(machine, name, Share { threads, ..Share::default() })?;
    let devices = device_processes(machine, inputs, &made)?;
    let restarts = machine.devices.iter().any(|device| device.on_failure == OnFailure::Restart);
    let sockets: Vec<(u8, &Path)> = machine.devices.iter().filter_map(socket).collect();
    let listening: Vec<_> = inputs.listening().collect();
    let makings = Makings { devices: &devices, sockets: &sockets, listening: &listening };
    let needed = restarts || !listening.is_empty();
    let spawner = if needed { Some(Spawner::fork(&makings, null)?) } else { None };
    listening.iter().for_each(|socket| socket.leave_to_spawner());
    let mut processes = Processes::none(groups, spawner);
    for network in user_networks {
        let group = processes.groups.foreign(&format!("{}.{}", network.device, user_network::NAME))?;
        processes.user_networks.push(network.start(group)?);
    }
    let mut connections = Vec::new();
    for device in &devices {
        let name = device.spawning.name;
        let (spawned, front_end) = device.spawn(&mut Ourselves, false, None)?;
        processes.all.push(Process::new(name, device.spawning.executable.program, spawned));
        connections.push(front_end);
    }
    let identity = Identity::for_child(0);
    let group = core_group.as_ref().map(AsFd::as_fd);
    let core =
        Spawning { executable: &inputs.core, name, identity, requirement, null, directory: None, group };
    let core = core.spawn(&mut Ourselves, None)?;
    // Among the processes before it is told anything, so that an error from here on ends it too.
    processes.all.push(Process::new(name, inputs.core.program, core));
    drop(devices);
    processes._made.extend(made.into_iter().chain([core_group]).flatten());
    introduce(machine, inputs, memory, &processes, &connections)?;
    Ok(processes)
}

/// Tells the core what the machine is made of.
fn introduce(
    machine: &Machine,
    inputs: &Inputs,
    memory: &[Region],
    processes: &Processes,
    connections: &[OwnedFd],
) -> Result<(), Error> {
    let Some(core) = processes.all.last().and_then(|core| core.control.as_ref()) else { return Ok(()) };
    let console = inputs.console.as_ref();
    let setup = CoreSetup {
        memory: memory.iter().map(|region| region.region).collect(),
        cpus: machine.cpus,
        command_line: machine.command_line.clone(),
        initrd: inputs.initrd.is_some(),
        console: console.is_some(),
    };
    let mut fds = vec![inputs.kvm.as_fd()];
    fds.extend(memory.iter().map(|region| region.fd.as_fd()));
    fds.push(inputs.kernel.as_fd());
    fds.extend(inputs.initrd.as_ref().map(AsFd::as_fd));
    fds.extend(console.iter().flat_map(|(input, output)| [input.as_fd(), output.as_fd()]));
    tell("vmm-core", core, &ToCore::Setup(setup), &fds)?;
    let mut connections = connections.iter();
    for (device, resource) in machine.devices.iter().zip(&inputs.resources) {
        let socket = match resource {
            Resource::Connected(socket) => Some(socket),
            _ => connections.next(),
        };
        let socket = socket.ok_or_else(|| nothing_serves(device))?;
        let memory = resource.for_core();
        let pluggable = resource.mem_for_core();
        let (pmem, mem) = (memory.map(|(options, _)| options), pluggable.map(|(region, _)| region));
        let attach = AttachDevice { pmem, mem, ..attach(device) };
        let memfds = pluggable.into_iter().flat_map(|(_, fds)| fds);
        let fds: Vec<_> =
            std::iter::once(socket.as_fd()).chain(memory.map(|(_, file)| file)).chain(memfds).collect();
        tell("vmm-core", core, &ToCore::Attach(attach), &fds)?;
    }
    Ok(())
}

/// What it takes to have those devices served for which there is a program of ours, in order.
fn device_processes<'a>(
    machine: &'a Machine,
    inputs: &'a Inputs,
    groups: &'a [Option<Group>],
) -> Result<Vec<DeviceProcess<'a>>, Error> {
    let mut processes = Vec::new();
    let devices = machine.devices.iter().zip(&inputs.resources).zip(groups);
    for (((device, resource), group), index) in devices.zip(1u32..) {
        let Some(program) = device.back_end.program() else { continue };
        let (directory, more) = (resource.directory(), resource.more());
        let Some((options, resource)) = resource.for_program(&device.back_end) else { continue };
        let executable = programs::among(&inputs.device_programs, program);
        let executable = executable.ok_or_else(|| nothing_serves(device))?;
        let spawning = Spawning {
            executable,
            name: &device.name,
            identity: Identity::for_child(index),
            requirement: requirement(machine),
            null: inputs.null.as_fd(),
            directory,
            group: group.as_ref().map(AsFd::as_fd),
        };
        processes.push(DeviceProcess { spawning, options, rates: device.rates, resource, more });
    }
    Ok(processes)
}

/// Of its program: one for each queue, and twice that where there may be a second process for a while.
fn threads(machine: &Machine, device: &Device) -> u64 {
    let processes = if device.spare || machine.control_socket.is_some() { 2 } else { 1 };
    u64::from(device.queues).saturating_mul(processes)
}

/// The slot and the socket of a device whose back end somebody else runs.
fn socket(device: &Device) -> Option<(u8, &Path)> {
    match &device.back_end {
        BackEnd::Socket(path) => Some((device.slot, path)),
        BackEnd::Blk(_)
        | BackEnd::Net(_)
        | BackEnd::Rng(_)
        | BackEnd::Console(_)
        | BackEnd::Pmem(_)
        | BackEnd::Balloon(_)
        | BackEnd::Mem(_)
        | BackEnd::Fs(_)
        | BackEnd::Vsock(_) => None,
    }
}

fn nothing_serves(device: &Device) -> Error {
    Error::Device { name: device.name.clone(), text: "nothing serves it".to_owned() }
}

/// Sends the word to start, and makes every channel non-blocking: from here on the launcher waits for events only.
pub fn start(processes: &Processes) -> Result<(), Error> {
    for process in &processes.all {
        let Some(control) = process.control.as_ref() else { continue };
        if process.program == Program::Core {
            tell(&process.name, control, &ToCore::Start, &[])?;
        }
        let wrong = |error| Error::HandOver { name: process.name.clone(), error };
        control.set_nonblocking(true).map_err(wrong)?;
    }
    Ok(())
}

fn attach(device: &Device) -> AttachDevice {
    AttachDevice {
        slot: device.slot,
        name: device.name.clone(),
        virtio_type: device.virtio_type,
        queues: device.queues,
        queue_size: device.queue_size,
        deadline_ms: limits::DEFAULT_DEADLINE_MS,
        pmem: None,
        mem: None,
    }
}
