//! Guests that mean harm to the core: what they do costs them their time, and the core answers the launcher all the while.

use protocol::{Exit, ToCore};

use crate::{LOAD, Launcher, out, print};

/// The interrupt command register of the local APIC (Intel SDM volume 3, 11.6.1), by its low half.
const ICR: u32 = 0xFEE0_0300;
/// To all but the sender, edge, asserted.
const INIT: u32 = 0xC_4500;
/// The same, to begin at 0x8000.
const STARTUP: u32 = 0xC_4608;

/// Until the guest has had so many exits of a kind. The core answers each time.
fn until(launcher: &Launcher, counter: &str, count: u64) {
    while launcher.counter(counter) < count {
        std::thread::yield_now();
    }
}

/// The core ends when it is told to, whatever its guest is at.
fn stops(launcher: Launcher) {
    launcher.channel.send(&ToCore::Stop, &[]).unwrap();
    launcher.served.join().unwrap();
}

/// `mov dx, port; mov ecx, -1; mov esi/edi, LOAD; cld`
fn for_ever(port: u16) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    let mut code = vec![0x66, 0xBA, low, high, 0xB9];
    code.extend(u32::MAX.to_le_bytes());
    for register in [0xBE, 0xBF] {
        code.push(register);
        code.extend((LOAD + 0x1000).to_le_bytes());
    }
    code.push(0xFC);
    code
}

#[test]
fn string_instructions_without_end_hold_up_nobody() {
    // rep outsb into a console that nobody reads, rep outsd where nobody is, and into the PCI address.
    for (port, instruction, counter) in
        [(0x3F8, 0x6E, "serial"), (0x1234, 0x6F, "unassigned_port"), (0xCF8, 0x6F, "pci_config")]
    {
        let code = [for_ever(port), vec![0xF3, instruction]].concat();
        let launcher = Launcher::run(&code);
        until(&launcher, counter, 3);
        stops(launcher);
    }
    // rep insb, over its own code and to the end of its memory: whatever becomes of the guest, the core says it.
    let launcher = Launcher::run(&[for_ever(0x1234), vec![0xF3, 0x6C]].concat());
    until(&launcher, "unassigned_port", 3);
    stops(launcher);
}

#[test]
fn a_guest_that_halts_for_ever_is_no_hung_core() {
    // cli; hlt
    let mut launcher = Launcher::run(&[print("."), vec![0xFA, 0xF4, 0xEB, 0xFD]].concat());
    assert_eq!(launcher.shown(1), ".");
    assert!(launcher.counter("serial") >= 1);
    stops(launcher);
}

#[test]
fn processors_that_are_started_over_and_over_are_the_guests_trouble() {
    // mov word [0x8000], 0xFEEB: the others jump to themselves. Then 10,000 times INIT and STARTUP.
    let mut code = vec![0x66, 0xC7, 0x05, 0, 0x80, 0, 0, 0xEB, 0xFE, 0xB9];
    code.extend(10_000u32.to_le_bytes());
    let begin = code.len();
    for command in [INIT, STARTUP, STARTUP] {
        // mov dword [ICR], command
        code.extend([0xC7, 0x05]);
        code.extend(ICR.to_le_bytes());
        code.extend(command.to_le_bytes());
    }
    // dec ecx; jnz
    let back = u8::try_from(code.len() + 3 - begin).unwrap().wrapping_neg();
    code.extend([0x49, 0x75, back]);
    code.extend(print("."));
    code.extend(out(0x600, 0x34));
    let mut launcher = Launcher::run(&code);
    assert_eq!(launcher.exit(), Exit::PowerOff);
    assert_eq!(launcher.shown(1), ".");
}

/// For dx from `last` down, by `step`: `access`.
fn ports(last: u32, step: u8, access: &[u8]) -> Vec<u8> {
    let mut code = vec![0xBA];
    code.extend(last.to_le_bytes());
    code.extend(access);
    // sub edx, step; jns
    let back = u8::try_from(access.len() + 5).unwrap().wrapping_neg();
    code.extend([0x83, 0xEA, step, 0x79, back]);
    code
}

#[test]
fn every_port_is_answered_in_every_width() {
    // in al, ax, eax; mov eax, 0x55555555; out al, ax, eax: none of these writes ends a machine. Where ours are in each
    // width, and everywhere in the largest, of four ports, or as many as there are.
    let wide = [0xED, 0xB8, 0x55, 0x55, 0x55, 0x55, 0xEF];
    let all = [0xEC, 0x66, 0xED, 0xED, 0xB8, 0x55, 0x55, 0x55, 0x55, 0xEE, 0x66, 0xEF, 0xEF];
    let code = [ports(0xFFFF, 4, &wide), ports(0xFFF, 1, &all), out(0x600, 0x34)].concat();
    assert_eq!(Launcher::run(&code).exit(), Exit::PowerOff);
}
