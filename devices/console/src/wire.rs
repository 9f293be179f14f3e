//! What a virtio-console driver sees (virtio 1.2, §5.3): numbers and structures under the names of the specification.
//! All little-endian.

/// §5.3.3.
pub mod feature {
    /// `cols` and `rows` are valid.
    pub const SIZE: u64 = 1 << 0;
}

/// The queues of port 0 (§5.3.2).
pub mod queue {
    /// To the driver.
    pub const RECEIVEQ: u16 = 0;
    /// Of a device with one port. The other one is `transmitq`.
    pub const COUNT: u16 = 2;
}

/// `struct virtio_console_config` as far as this device fills it in (§5.3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Characters of a line. Valid with VIRTIO_CONSOLE_F_SIZE, as `rows`.
    pub cols: u16,
    /// Lines.
    pub rows: u16,
}

impl Config {
    /// As the driver reads it. `max_nr_ports` is valid with VIRTIO_CONSOLE_F_MULTIPORT only; `emerg_wr`, with
    /// VIRTIO_CONSOLE_F_EMERG_WRITE only, reads as nothing.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        let (max_nr_ports, emerg_wr): (u32, u32) = (1, 0);
        let mut bytes = [self.cols.to_le_bytes(), self.rows.to_le_bytes()].concat();
        bytes.extend([max_nr_ports, emerg_wr].into_iter().flat_map(u32::to_le_bytes));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_the_specifications_layout() {
        assert_eq!(Config { cols: 80, rows: 0x118 }.bytes(), [80, 0, 0x18, 1, 1, 0, 0, 0, 0, 0, 0, 0]);
    }
}
