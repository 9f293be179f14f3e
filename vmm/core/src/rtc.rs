//! The clock: an MC146818's time registers and RAM, as far as Linux's `rtc_cmos` and early boot ask.
//!
//! Time is the host's UTC, always: writes to the time registers are accepted and change nothing, for a
//! guest keeps its own clock once it has read this one. There is no interrupt (the DSDT gives the device
//! none), so alarms are storage. Register B's 24-hour bit is fixed at one; BCD and binary are both served,
//! as the data mode bit says. No update cycle is ever in progress.

/// Index port.
pub const INDEX: u16 = 0x70;
/// Data port.
pub const DATA: u16 = 0x71;
/// Where the century is kept; the FADT says so.
pub const CENTURY: u8 = 0x32;

const REGISTER_A: u8 = 0x0A;
const REGISTER_B: u8 = 0x0B;
const REGISTER_C: u8 = 0x0C;
const REGISTER_D: u8 = 0x0D;
/// 32.768 kHz time base, 1024 Hz rate, UIP clear.
const A_DIVIDER: u8 = 0x26;
const B_24_HOUR: u8 = 1 << 1;
const B_BINARY: u8 = 1 << 2;
/// Periodic, alarm and update interrupts, square wave, daylight saving: there is nothing behind them.
const B_WRITABLE: u8 = 1 << 7 | B_BINARY;
/// Valid RAM and time.
const D_VALID: u8 = 1 << 7;

/// The device. `clock` gives the seconds since 1970, UTC.
#[derive(Debug)]
pub struct Rtc<C = fn() -> u64> {
    index: u8,
    ram: [u8; 128],
    clock: C,
}

impl Rtc {
    /// A clock that shows the host's time.
    #[must_use]
    pub fn host() -> Self {
        Self::new(host_time)
    }
}

impl<C: Fn() -> u64> Rtc<C> {
    /// A clock that shows `clock`'s time.
    pub fn new(clock: C) -> Self {
        Self { index: 0, ram: [0; 128], clock }
    }

    /// A byte read from one of its ports.
    #[must_use]
    pub fn read(&self, port: u16) -> u8 {
        if port != DATA {
            // The index is write-only.
            return 0xFF;
        }
        let now = Time::at((self.clock)());
        match self.index {
            0 => self.encode(now.second),
            2 => self.encode(now.minute),
            4 => self.encode(now.hour),
            6 => self.encode(now.weekday),
            7 => self.encode(now.day),
            8 => self.encode(now.month),
            9 => self.encode(now.year_of_century),
            CENTURY => self.encode(now.century),
            REGISTER_A => A_DIVIDER,
            REGISTER_B => self.mode() | B_24_HOUR,
            REGISTER_C => 0,
            REGISTER_D => D_VALID,
            index => self.ram.get(usize::from(index)).copied().unwrap_or(0xFF),
        }
    }

    /// A byte written to one of its ports.
    pub fn write(&mut self, port: u16, value: u8) {
        if port == INDEX {
            // Bit 7 is the NMI mask of old machines.
            self.index = value & 0x7F;
        } else if let Some(byte) = self.ram.get_mut(usize::from(self.index)) {
            *byte = value;
        }
    }

    fn mode(&self) -> u8 {
        self.ram.get(usize::from(REGISTER_B)).copied().unwrap_or(0) & B_WRITABLE
    }

    fn encode(&self, value: u8) -> u8 {
        if self.mode() & B_BINARY != 0 {
            return value;
        }
        let (tens, ones) = (value.wrapping_div(10), value.wrapping_rem(10));
        (tens << 4) | ones
    }
}

/// Civil time, UTC.
#[derive(Debug, PartialEq, Eq)]
struct Time {
    second: u8,
    minute: u8,
    hour: u8,
    /// 1 is Sunday.
    weekday: u8,
    day: u8,
    month: u8,
    year_of_century: u8,
    century: u8,
}

impl Time {
    /// The proleptic Gregorian calendar in years that begin on 1 March, so that the leap day comes last
    /// (400 years have 146,097 days; 719,468 days lie between 0000-03-01 and 1970-01-01).
    fn at(seconds: u64) -> Self {
        let days = seconds.wrapping_div(86_400);
        let second = seconds.wrapping_rem(86_400);
        let shifted = days.wrapping_add(719_468);
        let era = shifted.wrapping_div(146_097);
        let of_era = shifted.wrapping_rem(146_097);
        let leaps = of_era
            .wrapping_sub(of_era.wrapping_div(1460))
            .wrapping_add(of_era.wrapping_div(36_524))
            .wrapping_sub(of_era.wrapping_div(146_096));
        let year_of_era = leaps.wrapping_div(365);
        let before = year_of_era
            .wrapping_mul(365)
            .wrapping_add(year_of_era.wrapping_div(4))
            .wrapping_sub(year_of_era.wrapping_div(100));
        let of_year = of_era.wrapping_sub(before);
        let from_march = of_year.wrapping_mul(5).wrapping_add(2).wrapping_div(153);
        let month_start = from_march.wrapping_mul(153).wrapping_add(2).wrapping_div(5);
        let month = if from_march < 10 { from_march.wrapping_add(3) } else { from_march.wrapping_sub(9) };
        let year = era.wrapping_mul(400).wrapping_add(year_of_era).wrapping_add(u64::from(month <= 2));
        let byte = |value: u64| u8::try_from(value).unwrap_or(u8::MAX);
        Self {
            second: byte(second.wrapping_rem(60)),
            minute: byte(second.wrapping_div(60).wrapping_rem(60)),
            hour: byte(second.wrapping_div(3600)),
            // 1970-01-01 was a Thursday.
            weekday: byte(days.wrapping_add(4).wrapping_rem(7).wrapping_add(1)),
            day: byte(of_year.wrapping_sub(month_start).wrapping_add(1)),
            month: byte(month),
            year_of_century: byte(year.wrapping_rem(100)),
            century: byte(year.wrapping_div(100)),
        }
    }
}

fn host_time() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register<C: Fn() -> u64>(rtc: &mut Rtc<C>, index: u8) -> u8 {
        rtc.write(INDEX, index);
        rtc.read(DATA)
    }

    fn shown(seconds: u64) -> [u8; 8] {
        let mut rtc = Rtc::new(move || seconds);
        [CENTURY, 9, 8, 7, 4, 2, 0, 6].map(|index| register(&mut rtc, index))
    }

    #[test]
    fn time_is_shown_in_bcd() {
        // `date -u -d @…`: 2026-11-23 00:23:27, a Monday; leap days; the turn of a century.
        assert_eq!(shown(1_795_393_407), [0x20, 0x26, 0x11, 0x23, 0x00, 0x23, 0x27, 2]);
        assert_eq!(shown(0), [0x19, 0x70, 0x01, 0x01, 0x00, 0x00, 0x00, 5]);
        assert_eq!(shown(951_827_696), [0x20, 0x00, 0x02, 0x29, 0x12, 0x34, 0x56, 3]);
        assert_eq!(shown(4_107_542_399), [0x21, 0x00, 0x02, 0x28, 0x23, 0x59, 0x59, 1]);
        assert_eq!(shown(4_107_542_400), [0x21, 0x00, 0x03, 0x01, 0x00, 0x00, 0x00, 2]);
    }

    #[test]
    fn binary_mode_is_the_guests_choice_and_24_hours_is_not() {
        let mut rtc = Rtc::new(|| 951_827_696);
        rtc.write(INDEX, REGISTER_B);
        rtc.write(DATA, B_BINARY);
        assert_eq!(rtc.read(DATA), B_BINARY | B_24_HOUR);
        assert_eq!([9, 8, 7, 4, 2, 0].map(|index| register(&mut rtc, index)), [0, 2, 29, 12, 34, 56]);
    }

    #[test]
    fn linux_finds_a_working_clock() {
        let mut rtc = Rtc::new(|| 0);
        assert_eq!(register(&mut rtc, REGISTER_A) & 0x80, 0, "no update in progress");
        assert_eq!(register(&mut rtc, REGISTER_C), 0, "no interrupt pending");
        assert_eq!(register(&mut rtc, REGISTER_D) & 0x7F, 0, "mc146818_does_rtc_work");
        for index in [1, 3, 5, 0x0F, 0x7F] {
            rtc.write(INDEX, index);
            rtc.write(DATA, 0xA5);
            assert_eq!(rtc.read(DATA), 0xA5);
        }
    }

    #[test]
    fn setting_the_time_changes_nothing() {
        let mut rtc = Rtc::new(|| 951_827_696);
        rtc.write(INDEX, 9);
        rtc.write(DATA, 0x42);
        assert_eq!(rtc.read(DATA), 0x00);
    }

    #[test]
    fn every_index_and_value_is_harmless() {
        let mut rtc = Rtc::new(|| u64::MAX);
        for index in 0..=u8::MAX {
            rtc.write(INDEX, index);
            rtc.write(DATA, index);
            let _ = rtc.read(DATA);
        }
    }
}
