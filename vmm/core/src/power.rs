//! The registers by which a guest ends the machine (ACPI 6.5, 4.8.3.7 and 4.8.3.6; hardware-reduced), and
//! the one command of a keyboard controller that Linux falls back to.
//!
//! No state: a write either ends the machine or does nothing.

use protocol::Exit;

/// Sleep control register (ACPI 6.5, table 4.21).
pub const SLEEP_CONTROL: u16 = 0x600;
/// Sleep status register. Reads zero: this machine wakes by being started.
pub const SLEEP_STATUS: u16 = 0x601;
/// The FADT's reset register.
pub const RESET: u16 = 0x602;
/// What the FADT says to write there.
pub const RESET_VALUE: u8 = 1;
/// SLP_TYP of `\_S5`.
pub const S5: u8 = 5;
/// The 8042's command and status port: there is no controller, but a reset by it is understood.
pub const I8042_COMMAND: u16 = 0x64;

const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 0b111;
const I8042_PULSE_RESET: u8 = 0xFE;

/// Whether `port` is one of these registers.
#[must_use]
pub const fn serves(port: u16) -> bool {
    matches!(port, SLEEP_CONTROL | SLEEP_STATUS | RESET | I8042_COMMAND)
}

/// All read as zero. The 8042's status without "input buffer full" also spares a rebooting guest its wait.
#[must_use]
pub const fn read(_port: u16) -> u8 {
    0
}

/// A byte written: how the machine ends, if it does.
#[must_use]
pub fn write(port: u16, value: u8) -> Option<Exit> {
    match port {
        SLEEP_CONTROL if value & SLEEP_ENABLE != 0 && (value >> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK == S5 => {
            Some(Exit::PowerOff)
        }
        RESET if value == RESET_VALUE => Some(Exit::Reset),
        I8042_COMMAND if value == I8042_PULSE_RESET => Some(Exit::Reset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn just_three_writes_of_all_end_the_machine() {
        let ending: Vec<(u16, u8)> = (0..=u16::MAX)
            .flat_map(|port| (0..=u8::MAX).map(move |value| (port, value)))
            .filter(|(port, value)| write(*port, *value).is_some())
            .collect();
        // SLP_EN and SLP_TYP 5; bits 0, 1, 6 and 7 are not of the register's business.
        let sleeps = ending.iter().filter(|(port, _)| *port == SLEEP_CONTROL);
        assert!(sleeps.clone().all(|(_, value)| value & 0b0011_1100 == 0b0011_0100));
        assert_eq!(sleeps.count(), 16);
        assert_eq!(ending.len(), 18);
        assert_eq!(write(SLEEP_CONTROL, 0x34), Some(Exit::PowerOff));
        assert_eq!(write(RESET, 1), Some(Exit::Reset));
        assert_eq!(write(0x64, 0xFE), Some(Exit::Reset));
    }
}
