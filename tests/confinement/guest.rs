//! Guests of a few instructions: 32-bit code in an ELF file with a PVH entry (Xen's ELF note 18). They use
//! no interrupts, so that a KVM that only emulates runs them too.

use crate::driver;

/// Where the code is loaded and entered.
const LOAD: u32 = 0x20_0000;
/// Where what the driver of the disk works on is loaded; its size is the end of the file.
const DATA: u32 = LOAD + 0x8000;

/// What each guest says first, as a line `@@up`.
pub const UP: &str = "up";

/// What a guest does after it has said that it is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// Halts for good, interrupts off.
    Halts,
    /// Polls the serial port's line status, an exit to user space each time.
    Polls,
    /// Drives its disk through each kind of request, says so ([`driver::DONE`]), then halts for good.
    Drives,
    /// The same, then powers off.
    DrivesAndPowersOff,
    /// The same, then goes on with requests for good.
    KeepsDriving,
    /// Drives it, switches bus mastering off in the middle of a request, drives it again ([`driver::BUS`]), then powers off.
    DrivesWithoutBusMastering,
    /// Powers off by the ACPI sleep control register.
    PowersOff,
    /// Resets by the ACPI reset register.
    Resets,
    /// Takes an exception without an interrupt table: a triple fault.
    Faults,
}

/// `cli; hlt`, and `jmp` to the latter
const HALT: [u8; 4] = [0xFA, 0xF4, 0xEB, 0xFD];

impl Guest {
    /// The ELF file.
    pub fn image(self) -> Vec<u8> {
        let mut loaded = self.code();
        loaded.resize(usize::try_from(DATA - LOAD).expect("small"), 0);
        loaded.extend(driver::data(DATA));
        elf(&loaded)
    }

    fn code(self) -> Vec<u8> {
        let mut code = print(&format!("@@{UP}\n"));
        code.extend(match self {
            Self::Halts => HALT.to_vec(),
            Self::Drives => [driver::code(DATA), HALT.to_vec()].concat(),
            Self::DrivesAndPowersOff => [driver::code(DATA), out(0x600, 0x34)].concat(),
            Self::KeepsDriving => [driver::code(DATA), driver::endless(DATA)].concat(),
            Self::DrivesWithoutBusMastering => {
                [driver::code(DATA), driver::without_bus_mastering(DATA), out(0x600, 0x34)].concat()
            }
            // mov dx, 0x3FD; in al, dx; jmp to in
            Self::Polls => vec![0x66, 0xBA, 0xFD, 0x03, 0xEC, 0xEB, 0xFD],
            // SLP_EN and S5.
            Self::PowersOff => out(0x600, 0x34),
            Self::Resets => out(0x602, 1),
            Self::Faults => fault(LOAD + u32::try_from(code.len()).expect("short")),
        });
        code
    }
}

/// Sends a text by the serial port.
pub fn print(text: &str) -> Vec<u8> {
    text.bytes().flat_map(|byte| out(0x3F8, byte)).collect()
}

/// `mov dx, port; mov al, value; out dx, al`
fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xBA, low, high, 0xB0, value, 0xEE]
}

/// `lidt [six zero bytes]; int3`, at address `here`.
fn fault(here: u32) -> Vec<u8> {
    let mut code = vec![0x0F, 0x01, 0x1D];
    code.extend((here + 8).to_le_bytes());
    code.push(0xCC);
    code.extend([0; 6]);
    code
}

/// An ELF file with one loadable segment, `code`, and the note that makes it a PVH kernel.
fn elf(code: &[u8]) -> Vec<u8> {
    let size = u64::try_from(code.len()).expect("short");
    let mut elf = vec![0; 0x100];
    let mut put = |at: usize, bytes: &[u8]| elf[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7FELF\x02\x01\x01");
    // ET_EXEC for x86-64, entered at LOAD, two program headers of 56 bytes at 0x40.
    put(0x10, &[2, 0, 62, 0]);
    put(0x18, &u64::from(LOAD).to_le_bytes());
    put(0x20, &0x40u64.to_le_bytes());
    put(0x36, &[56, 0, 2, 0]);
    let mut header = |at: usize, kind: u32, offset: u64, size: u64| {
        put(at, &kind.to_le_bytes());
        put(at + 8, &offset.to_le_bytes());
        put(at + 24, &u64::from(LOAD).to_le_bytes());
        put(at + 32, &size.to_le_bytes());
        put(at + 40, &size.to_le_bytes());
    };
    header(0x40, 1, 0x100, size);
    header(0x78, 4, 0xC0, 20);
    // XEN_ELFNOTE_PHYS32_ENTRY of "Xen": LOAD.
    put(0xC0, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
    put(0xCC, b"Xen\0");
    put(0xD0, &LOAD.to_le_bytes());
    elf.extend_from_slice(code);
    elf
}
