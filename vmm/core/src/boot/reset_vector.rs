//! What a processor finds at F000:FFF0: the whole of this machine's firmware.
//!
//! Linux on hardware-reduced ACPI reboots by EFI (`efi_reboot_required`), and where there is none by a jump
//! to the BIOS in real mode; the FADT's reset register comes after that, which is too late. So the reset
//! vector does what a BIOS would: it resets.

use super::layout;
use crate::{Error, GuestMemory, guest_memory, power};

/// Real mode: `mov dx, RESET; mov al, RESET_VALUE; out dx, al`, then `hlt; jmp` to the halt.
const fn code() -> [u8; 9] {
    let [low, high] = power::RESET.to_le_bytes();
    [0xBA, low, high, 0xB0, power::RESET_VALUE, 0xEE, 0xF4, 0xEB, 0xFD]
}

/// Writes it.
pub(super) fn write(memory: &GuestMemory) -> Result<(), Error> {
    guest_memory::write_bytes(memory, "reset vector", layout::RESET_VECTOR, &code())
}
