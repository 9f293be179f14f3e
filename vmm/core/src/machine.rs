//! The machine put together, from the hand-over to threads that wait to be let loose.

use crate::boot::acpi::POWER_BUTTON_GSI;
use crate::bus::Bus;
use crate::console::{ConsoleOutput, ConsoleSink};
use crate::control::Control;
use crate::counters::ExitCounters;
use crate::frontend::MemoryTable;
use crate::handoff::{Console, HandOver};
use crate::interrupts::Interrupts;
use crate::notices::Notices;
use crate::pci::{PciHost, Windows};
use crate::persistent_memory::PersistentMemory;
use crate::pluggable_memory::{self, Pluggable, PluggedSize};
use crate::rtc::Rtc;
use crate::serial::{self, SerialPort};
use crate::threads::{self, Threads};
use crate::vm::Vm;
use crate::{Error, boot, frontend, guest_memory, vcpu};
use kvm_ioctls::VcpuFd;
use protocol::{AttachDevice, Channel, memory_layout};
use sandbox_policies::Stage;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

/// Builds the machine of `hand_over` and gives every part that runs a thread of `threads`. The loop that is
/// returned is for the calling thread.
///
/// # Errors
/// Anything of the hand-over that cannot be used.
pub fn build<'a>(
    hand_over: HandOver,
    channel: &'a Channel,
    threads: &mut Threads,
) -> Result<Control<'a>, Error> {
    let HandOver { kvm, regions, memfds, source, cpus, console, devices, persistent, pluggable } = hand_over;
    let memory = guest_memory::map(&regions, memfds)?;
    let persistent = PersistentMemory::map(persistent, &regions)?;
    let mut plugged = Vec::new();
    let mut regions = Vec::new();
    for Pluggable { slot, region, memfd, plugged: page } in pluggable {
        plugged.push((slot, PluggedSize::map(page)?));
        regions.push((region, memfd));
    }
    let shared = pluggable_memory::with_pluggable(&memory, &persistent.sizes(), regions)?;
    let vm = Vm::new(kvm, memory, shared, persistent, cpus)?;
    let entry = boot::load(&vm.memory, source, cpus)?;
    let interrupts = Arc::new(Interrupts::new(Arc::clone(&vm.fd))?);
    let vcpus = vcpu::create(&vm, cpus, entry)?;

    let output = Arc::new(ConsoleOutput::default());
    let serial = SerialPort::new(interrupts.legacy_line(serial::GSI)?, Arc::clone(&output))?;
    let power_button = interrupts.legacy_line(POWER_BUTTON_GSI)?;
    let mut pci = pci_host(&vm, &interrupts, devices, plugged)?;
    let notices = Arc::new(Notices::new()?);
    for worker in pci.workers() {
        let notices = Arc::clone(&notices);
        threads.spawn(worker.name().to_owned(), Stage::Control, move || {
            Ok(move || worker.run(&|message, closed_then| notices.of_device(message, closed_then)))
        })?;
    }
    let bus = Arc::new(Bus { serial, rtc: Mutex::new(Rtc::host()), pci, counters: ExitCounters::default() });
    let vm = Arc::new(vm);
    for (index, vcpu) in (0..).zip(vcpus) {
        spawn_vcpu(threads, index, vcpu, &vm, &bus, &notices)?;
    }
    let input = match console {
        Some(Console { input, output: terminal }) => {
            spawn_writer(threads, terminal, &output, &bus)?;
            Some(input)
        }
        None => {
            output.close();
            None
        }
    };
    Control::new(channel, bus, notices, output, power_button, input)
}

fn pci_host(
    vm: &Vm,
    interrupts: &Arc<Interrupts>,
    devices: Vec<(AttachDevice, OwnedFd)>,
    mut plugged: Vec<(u8, PluggedSize)>,
) -> Result<PciHost, Error> {
    let pci64 = memory_layout::pci64_start(&guest_memory::regions(&vm.memory));
    let windows = Windows {
        mmio32: memory_layout::PCI32_START
            ..memory_layout::PCI32_START.saturating_add(memory_layout::PCI32_SIZE),
        mmio64: pci64..pci64.saturating_add(memory_layout::PCI64_SIZE),
    };
    let mut pci = PciHost::new(windows, Arc::clone(interrupts));
    let memory = Arc::new(MemoryTable::of(&vm.shared)?);
    for (device, socket) in devices {
        let slot = device.slot;
        let (memory, interrupts, vm) = (Arc::clone(&memory), Arc::clone(interrupts), Arc::clone(&vm.fd));
        let plugged = plugged.extract_if(.., |(of, _)| *of == slot).next().map(|(_, plugged)| plugged);
        let device = frontend::attach(device, socket, plugged, memory, interrupts, vm)?;
        pci.add(slot, device)?;
    }
    Ok(pci)
}

fn spawn_vcpu(
    made: &mut Threads,
    index: u8,
    mut vcpu: VcpuFd,
    vm: &Arc<Vm>,
    bus: &Arc<Bus>,
    notices: &Arc<Notices>,
) -> Result<(), Error> {
    let (vm, bus, notices) = (Arc::clone(vm), Arc::clone(bus), Arc::clone(notices));
    made.spawn(format!("vcpu{index}"), Stage::Vcpu, move || {
        vcpu::run::prepare(&mut vcpu)?;
        Ok(move || {
            // With `vm` guest memory stays mapped as long as a vCPU may touch it.
            notices.end(vcpu::run::run(&mut vcpu, index, &bus, &vm.persistent));
            threads::rest()
        })
    })
}

fn spawn_writer(
    threads: &mut Threads,
    terminal: OwnedFd,
    output: &Arc<ConsoleOutput>,
    bus: &Arc<Bus>,
) -> Result<(), Error> {
    let (output, bus, sink) = (Arc::clone(output), Arc::clone(bus), ConsoleSink::new(terminal)?);
    threads.spawn("console".to_owned(), Stage::Control, move || {
        Ok(move || output.write_to(&sink, || bus.serial.transmitter_has_room()))
    })
}
