//! What a virtio-console driver sees (virtio 1.2, §5.3): numbers and structures under the names of the specification.
//! All little-endian.

/// §5.3.3.
pub mod feature {
    /// `cols` and `rows` are valid.
    pub const SIZE: u64 = 1 << 0;
    /// There are several ports, and control queues.
    pub const MULTIPORT: u64 = 1 << 1;
}

/// The queues (§5.3.2): two of port 0, two for control, two of each other port.
pub mod queue {
    /// To the driver, of port 0.
    pub const RECEIVEQ: u16 = 0;
    /// From the driver, of port 0.
    pub const TRANSMITQ: u16 = 1;
    /// To the driver.
    pub const CONTROL_RECEIVEQ: u16 = 2;
    /// From the driver.
    pub const CONTROL_TRANSMITQ: u16 = 3;
    /// Of a device with one port.
    pub const COUNT: u16 = 2;

    /// Of a device with VIRTIO_CONSOLE_F_MULTIPORT and so many ports.
    pub fn count(ports: u16) -> u16 {
        ports.saturating_add(1).saturating_mul(2)
    }
}

/// `struct virtio_console_config` as far as this device fills it in (§5.3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Characters of a line. Valid with VIRTIO_CONSOLE_F_SIZE, as `rows`.
    pub cols: u16,
    /// Lines.
    pub rows: u16,
    /// Valid with VIRTIO_CONSOLE_F_MULTIPORT.
    pub max_nr_ports: u32,
}

impl Config {
    /// As the driver reads it. `emerg_wr`, with VIRTIO_CONSOLE_F_EMERG_WRITE only, reads as nothing.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        let emerg_wr: u32 = 0;
        let mut bytes = [self.cols.to_le_bytes(), self.rows.to_le_bytes()].concat();
        bytes.extend([self.max_nr_ports, emerg_wr].into_iter().flat_map(u32::to_le_bytes));
        bytes
    }
}

/// `event` of a control message (§5.3.6.2).
pub mod event {
    /// From the driver: it can take control messages (1), or failed (0).
    pub const DEVICE_READY: u16 = 0;
    /// To the driver: there is this port.
    pub const PORT_ADD: u16 = 1;
    /// From the driver: the port can be used (1), or not (0).
    pub const PORT_READY: u16 = 3;
    /// To the driver: the port is a console (1).
    pub const CONSOLE_PORT: u16 = 4;
    /// To the driver: the console's size, which follows as `cols` and `rows`.
    pub const RESIZE: u16 = 5;
    /// Both ways: the port is open (1) or closed (0) on the sender's side.
    pub const PORT_OPEN: u16 = 6;
    /// To the driver: the port's name, which follows without a zero byte.
    pub const PORT_NAME: u16 = 7;
}

/// `struct virtio_console_control`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    /// The port's number.
    pub id: u32,
    /// See [`event`].
    pub event: u16,
    /// By event.
    pub value: u16,
}

impl Control {
    /// Bytes of it.
    pub const SIZE: usize = 8;

    /// As the driver wrote it.
    #[must_use]
    pub fn parse(bytes: [u8; Self::SIZE]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Self {
            id: u32::from_le_bytes([a, b, c, d]),
            event: u16::from_le_bytes([e, f]),
            value: u16::from_le_bytes([g, h]),
        }
    }

    /// As the driver reads it.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        [&self.id.to_le_bytes()[..], &self.event.to_le_bytes(), &self.value.to_le_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_the_specifications_layout() {
        let config = Config { cols: 80, rows: 0x118, max_nr_ports: 0x203 };
        assert_eq!(config.bytes(), [80, 0, 0x18, 1, 3, 2, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_control_message_has_the_specifications_layout() {
        let control = Control { id: 0x0403_0201, event: 0x0605, value: 0x0807 };
        assert_eq!(control.bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(Control::parse([1, 2, 3, 4, 5, 6, 7, 8]), control);
    }
}
