//! The device status field (virtio 1.3, 2.1): which writes a driver may make.

/// The guest has noticed the device.
pub const ACKNOWLEDGE: u8 = 1;
/// It has a driver.
pub const DRIVER: u8 = 2;
/// The driver is set up.
pub const DRIVER_OK: u8 = 4;
/// Features are agreed.
pub const FEATURES_OK: u8 = 8;
/// The device cannot go on.
pub const DEVICE_NEEDS_RESET: u8 = 0x40;
/// The driver has given up.
pub const FAILED: u8 = 0x80;

/// The order in which a driver sets them (virtio 1.3, 3.1.1).
const ORDER: [u8; 4] = [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK];

/// The bits that a write of `value` adds to `old`, or `None` when the write is none that a driver may make: it clears
/// a bit, skips one, has bits that do not exist, or comes after the driver gave up.
#[must_use]
pub fn added(old: u8, value: u8) -> Option<u8> {
    let known = ORDER.iter().fold(FAILED, |bits, bit| bits | bit);
    let value = value & !DEVICE_NEEDS_RESET;
    let kept = old & !DEVICE_NEEDS_RESET;
    if value & !known != 0 || kept & !value != 0 || old & FAILED != 0 {
        return None;
    }
    let steps = value & !FAILED;
    let prefix = ORDER.iter().take_while(|bit| steps & **bit != 0).fold(0, |bits, bit| bits | bit);
    (prefix == steps).then_some(value & !kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_write_on_every_status() {
        let reachable = [0_u8, 1, 3, 11, 15];
        for old in reachable {
            for value in 0..=u8::MAX {
                let steps = value & !(FAILED | DEVICE_NEEDS_RESET);
                let legal = reachable.contains(&steps) && steps & old == old;
                assert_eq!(added(old, value).is_some(), legal, "{old:#x} <- {value:#x}");
                assert_eq!(added(old | FAILED, value | FAILED), None);
                assert_eq!(added(old | DEVICE_NEEDS_RESET, value), added(old, value));
            }
        }
        assert_eq!(added(3, 11), Some(FEATURES_OK));
        assert_eq!(added(15, 15), Some(0));
    }
}
