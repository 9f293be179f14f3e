//! `--dry-run`: what a machine would open, spawn and grant, one line each. The input is checked as for a run.

use std::fmt::Write;

use protocol::{DiskFormat, memory_layout};
use sandbox_policies::Program;

use crate::config::{Console, HugePages, Speculation};
use crate::device::{BackEnd, Blk, Device, Interface, Net, Pmem};
use crate::handover;
use crate::inputs::{Inputs, Resource};
use crate::machine::Machine;
use crate::network::Network;
use crate::open::Disk;
use crate::programs::{self, Executable};
use crate::size::Size;
use crate::spawn::HAND_OVER;

/// The plan of a machine whose inputs are open.
pub fn plan(machine: &Machine, inputs: &Inputs) -> String {
    let mut plan = String::new();
    let mut add = |line: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(plan, "{}", crate::report::printable(&line));
    };
    opened(machine, inputs).into_iter().for_each(&mut add);
    for region in memory_layout::regions(machine.memory.0) {
        let pages = match machine.huge_pages {
            HugePages::Off => "ordinary pages",
            HugePages::Default => "huge pages of the host's default size",
            HugePages::Mib2 => "2M huge pages",
            HugePages::Gib1 => "1G huge pages",
        };
        let size = crate::size::Size(region.size);
        add(format!(
            "make   memfd of {size} for guest address {:#x}: {pages}, sealed shrink grow seal",
            region.guest_phys
        ));
    }
    if machine.speculation == Speculation::Restricted {
        add("take   from every process: speculation past stores and along indirect branches".to_owned());
    }
    if let Some(path) = &machine.cgroup {
        add(format!("make   a control group for each program in {}", path.display()));
    }
    for device in &machine.devices {
        let program = device.back_end.program();
        let executable = program.and_then(|program| programs::among(&inputs.device_programs, program));
        if let Some(executable) = executable {
            add(spawned(machine, executable, &device.name));
            let resource = match &device.back_end {
                BackEnd::Rng(_) => "generator",
                BackEnd::Net(net) if net.interface.is_stream() => "stream",
                BackEnd::Net(_) => "tap",
                BackEnd::Console(console) if console.places.len() > 1 => "a descriptor for each port",
                BackEnd::Console(_) => "console",
                BackEnd::Pmem(_) => "file, for reading",
                BackEnd::Balloon(_) => "nothing",
                BackEnd::Mem(_) => "page for what is plugged",
                BackEnd::Vsock(_) => "listening socket",
                BackEnd::Fs(_) => "nothing, for its root is its directory",
                BackEnd::Blk(_) | BackEnd::Socket(_) => "disk",
            };
            add(granted(&device.name, &["vhost-user socket".to_owned(), resource.to_owned()]));
            limited(device).into_iter().for_each(&mut add);
        }
    }
    add(spawned(machine, &inputs.core, Program::Core.name()));
    add(granted(Program::Core.name(), &core_descriptors(machine)));
    add(format!("confine vmm itself: policy vmm, stage {}", stages(Program::Launcher)));
    plan
}

fn opened(machine: &Machine, inputs: &Inputs) -> Vec<String> {
    let mut lines = vec![
        format!("open   {} for reading: kernel", machine.kernel.display()),
        format!("open   {} for reading and writing: KVM", machine.kvm.display()),
        "open   /dev/null for reading and writing: descriptors 0 and 1 of every program".to_owned(),
    ];
    lines.extend(machine.initrd.iter().map(|path| format!("open   {} for reading: initrd", path.display())));
    match &machine.console {
        Console::Stdio => lines.push("use    standard input and output: console".to_owned()),
        Console::None => {}
        Console::File(path) => lines.push(format!("open   {} for appending: console output", path.display())),
    }
    lines
        .extend(machine.events.iter().map(|path| format!("open   {} for appending: events", path.display())));
    let control = machine.control_socket.iter();
    lines.extend(control.map(|path| format!("listen at {}: control socket, mode 0600", path.display())));
    for (device, resource) in machine.devices.iter().zip(&inputs.resources) {
        if let BackEnd::Console(console) = &device.back_end {
            lines.extend(console.places.iter().skip(1).map(|place| format!("{place}: {}", device.name)));
        }
        if let (BackEnd::Blk(blk), Resource::Disk(disk)) = (&device.back_end, resource) {
            lines.extend(opened_backing(device, blk, disk));
        }
        lines.push(match (&device.back_end, resource) {
            (BackEnd::Blk(blk), Resource::Disk(disk)) => opened_disk(device, blk, disk.size),
            (BackEnd::Blk(blk), _) => opened_disk(device, blk, 0),
            (BackEnd::Net(net), Resource::Network(network)) => tap(device, net, network),
            (BackEnd::Net(_), _) => format!("open   a tap: {}", device.name),
            (BackEnd::Rng(path), _) => format!("open   {} for reading: {}", path.display(), device.name),
            (BackEnd::Console(console), _) => {
                let first = console.places.first().map_or_else(String::new, ToString::to_string);
                format!("{first}: {}", device.name)
            }
            (BackEnd::Pmem(pmem), resource) => opened_memory(device, pmem, resource),
            (BackEnd::Balloon(_), _) => {
                format!("open   /dev/null, since there is nothing else: {}", device.name)
            }
            (BackEnd::Mem(_), resource) => made_memory(device, resource),
            (BackEnd::Fs(fs), _) => {
                let how = if fs.options.readonly { "reading" } else { "reading and writing" };
                format!("open   {} for {how} what is in it: {}", fs.path.display(), device.name)
            }
            (BackEnd::Vsock(vsock), _) => {
                let (path, folder) = (vsock.path.display(), vsock.folder().display());
                format!("listen at {path}, mode 0600, and open {folder} to connect in it: {}", device.name)
            }
            (BackEnd::Socket(path), _) => {
                format!("connect to {}: {}, back end of somebody else", path.display(), device.name)
            }
        });
    }
    lines
}

fn opened_disk(device: &Device, blk: &Blk, size: u64) -> String {
    let access = if blk.options.readonly { "reading" } else { "reading and writing" };
    let direct = if blk.options.direct { ", direct" } else { "" };
    let lock = match (blk.lock, blk.options.readonly) {
        (false, _) => "not locked",
        (true, true) => "locked for readers",
        (true, false) => "locked for one writer",
    };
    let (path, name) = (blk.path.display(), &device.name);
    let content = content(blk.format, size);
    format!("open   {path} for {access}{direct}, {lock}: {name}, {content}")
}

fn opened_backing(device: &Device, blk: &Blk, disk: &Disk) -> Vec<String> {
    let lock = if blk.lock { "locked for readers" } else { "not locked" };
    let layers = blk.layers().zip(&disk.backing).zip(1..);
    let opened = layers.map(|(((path, format), (_, size)), number)| {
        let (path, name, content) = (path.display(), &device.name, content(format, *size));
        format!("open   {path} for reading, {lock}: {name}, backing file {number}, {content}")
    });
    opened.collect()
}

fn content(format: DiskFormat, size: u64) -> String {
    match format {
        DiskFormat::Raw => format!("{size} bytes"),
        // How large the disk is its program reads.
        DiskFormat::Qcow2 => format!("a qcow2 image of {size} bytes"),
    }
}

fn opened_memory(device: &Device, pmem: &Pmem, resource: &Resource) -> String {
    let access = if pmem.readonly { "reading" } else { "reading and writing" };
    let lock = match (pmem.lock, pmem.readonly) {
        (false, _) => "not locked",
        (true, true) => "locked for readers",
        (true, false) => "locked for one writer",
    };
    let place = resource.for_core().map_or_else(String::new, |(options, _)| {
        format!(", {} at guest address {:#x}", Size(options.region.size), options.region.guest_phys)
    });
    format!("open   {} for {access}, {lock}, and for reading: {}{place}", pmem.path.display(), device.name)
}

fn made_memory(device: &Device, resource: &Resource) -> String {
    let place = resource.mem_for_core().map_or_else(String::new, |(region, _)| {
        format!("{} for guest address {:#x}", Size(region.size), region.guest_phys)
    });
    format!("make   memfd of {place}, to be plugged in, sealed shrink grow seal: {}", device.name)
}

fn tap(device: &Device, net: &Net, network: &Network) -> String {
    let (interface, mac) = (&network.name, network.options.mac);
    let how = match (&net.interface, network.made) {
        (Interface::Named(_), true) => {
            format!("make   tap {interface}, which goes with the machine, and bring it up")
        }
        (Interface::Named(_), false) => format!("attach to tap {interface}"),
        (Interface::Inherited(_), _) => format!("use    {}, tap {interface}", net.interface),
        (Interface::Stream(_), _) => format!("connect to {}", net.interface),
        (Interface::User(program), _) => format!("spawn  {}, which confines itself", program.display()),
    };
    let pairs = if net.pairs == 1 { String::new() } else { format!(", {} pairs of queues", net.pairs) };
    format!("{how}: {}, {mac}{pairs}", device.name)
}

fn spawned(machine: &Machine, executable: &Executable, name: &str) -> String {
    let (path, program) = (executable.path.display(), executable.program);
    let requirement = handover::requirement(machine);
    let stages = stages(program);
    format!(
        "spawn  {name}: {path} {HAND_OVER} --sandbox={requirement}; policy {}, stages {stages}",
        program.name()
    )
}

fn granted(name: &str, by_message: &[String]) -> String {
    let inherited = "0 and 1 /dev/null, 2 log pipe, 3 control channel";
    format!("grant  {name}: {inherited}; by message: {}", by_message.join(", "))
}

fn limited(device: &Device) -> Option<String> {
    let bandwidth = device.rates.bandwidth.map(|rate| (Size(rate.per_second), Size(rate.burst)));
    let bandwidth = bandwidth.map(|(rate, burst)| format!("{rate} a second (burst {burst})"));
    let operations = device.rates.operations;
    let operations =
        operations.map(|rate| format!("{} operations a second (burst {})", rate.per_second, rate.burst));
    let limits: Vec<String> = bandwidth.into_iter().chain(operations).collect();
    (!limits.is_empty()).then(|| format!("limit  {}: {}", device.name, limits.join(", ")))
}

/// In the order of the messages: `Setup`, then an `Attach` for each device.
fn core_descriptors(machine: &Machine) -> Vec<String> {
    let mut descriptors = vec!["KVM".to_owned()];
    let regions = memory_layout::regions(machine.memory.0).into_iter();
    descriptors.extend(regions.map(|region| format!("guest memory at {:#x}", region.guest_phys)));
    descriptors.push("kernel".to_owned());
    descriptors.extend(machine.initrd.as_ref().map(|_| "initrd".to_owned()));
    if machine.console != Console::None {
        descriptors.extend(["console input".to_owned(), "console output".to_owned()]);
    }
    for device in &machine.devices {
        descriptors.push(format!("vhost-user socket of {} (PCI device {})", device.name, device.slot));
        if let BackEnd::Pmem(_) = device.back_end {
            descriptors.push(format!("file of {}, to be mapped", device.name));
        }
        if let BackEnd::Mem(_) = device.back_end {
            descriptors.push(format!("memory of {}", device.name));
            descriptors.push(format!("page of {} for what is plugged", device.name));
        }
    }
    descriptors
}

fn stages(program: Program) -> String {
    // The stage for programs that nobody spawned is not used here.
    let stages = program.stages().iter().filter(|stage| **stage != sandbox_policies::Stage::StandAlone);
    stages.map(|stage| stage.key()).collect::<Vec<_>>().join(" ")
}
