//! COM1: `vm-superio`'s 16550A, with its output decoupled from the console and its input held back while
//! its FIFO is full.
//!
//! Two things are added to the crate's model. While the output buffer is full the line status shows a busy
//! transmitter, which makes a driver wait instead of losing text; once there is room again the transmitter
//! interrupt is raised anew. And when the guest has emptied the receive FIFO, an eventfd tells the control
//! loop that the terminal may be read further.

use crate::Error;
use crate::console::{ConsoleOutput, ConsoleWriter};
use nix::sys::eventfd::EfdFlags;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vm_superio::Trigger;
use vm_superio::serial::{Serial, SerialEvents};
use vmm_sys_util::eventfd::EventFd;

/// First port of COM1.
pub const PORT: u16 = 0x3F8;
/// Ports of COM1.
pub const PORTS: u16 = 8;
/// Its interrupt.
pub const GSI: u32 = 4;

const INTERRUPT_ENABLE: u8 = 1;
const LINE_STATUS: u8 = 5;
/// THRE and TEMT.
const TRANSMITTER_EMPTY: u8 = 1 << 5 | 1 << 6;
const DIVISOR_LATCH: u8 = 1 << 7;

/// COM1.
#[derive(Debug)]
pub struct SerialPort {
    model: Mutex<Serial<Line, InputRoom, ConsoleWriter>>,
    output: Arc<ConsoleOutput>,
    input_room: Arc<nix::sys::eventfd::EventFd>,
}

/// The interrupt line: an irqfd.
#[derive(Debug)]
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Tells when the receive FIFO has become empty.
#[derive(Debug)]
struct InputRoom(Arc<nix::sys::eventfd::EventFd>);

impl SerialEvents for InputRoom {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        // An eventfd's counter that is full is as readable as one that is not.
        let _full = self.0.write(1);
    }
}

impl SerialPort {
    /// COM1 with its interrupt on `line`, whose output goes to `output`.
    ///
    /// # Errors
    /// No eventfd to be had.
    pub fn new(line: EventFd, output: Arc<ConsoleOutput>) -> Result<Self, Error> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let room = nix::sys::eventfd::EventFd::from_flags(flags).map_err(Error::system("eventfd2"))?;
        let input_room = Arc::new(room);
        let events = InputRoom(Arc::clone(&input_room));
        let model = Serial::with_events(Line(line), events, ConsoleWriter(Arc::clone(&output)));
        Ok(Self { model: Mutex::new(model), output, input_room })
    }

    /// A byte read from the register at `offset` (0 to 7).
    pub fn read(&self, offset: u8) -> u8 {
        let value = self.lock().read(offset);
        if offset == LINE_STATUS && self.output.full() { value & !TRANSMITTER_EMPTY } else { value }
    }

    /// A byte written to the register at `offset` (0 to 7).
    pub fn write(&self, offset: u8, value: u8) {
        // The sink never fails, and an interrupt that cannot be raised is one that is already pending.
        let _pending = self.lock().write(offset, value);
    }

    /// How many bytes of input there is room for.
    pub fn input_capacity(&self) -> usize {
        self.lock().fifo_capacity()
    }

    /// Input for the guest, at most [`Self::input_capacity`] bytes.
    pub fn input(&self, bytes: &[u8]) {
        let _pending = self.lock().enqueue_raw_bytes(bytes);
    }

    /// Readable when the guest has emptied the receive FIFO.
    pub fn input_room(&self) -> &nix::sys::eventfd::EventFd {
        &self.input_room
    }

    /// Bytes of output dropped so far.
    pub fn dropped(&self) -> u64 {
        self.output.dropped()
    }

    /// Raises the transmitter interrupt again, if the guest has it enabled: a driver that found the
    /// transmitter busy waits for it. Writing the interrupt enable register anew is what the model offers.
    pub fn transmitter_has_room(&self) {
        let mut model = self.lock();
        if model.state().line_control & DIVISOR_LATCH == 0 {
            let enabled = model.read(INTERRUPT_ENABLE);
            let _pending = model.write(INTERRUPT_ENABLE, enabled);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Serial<Line, InputRoom, ConsoleWriter>> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK};

    const DATA: u8 = 0;
    const IDENTIFICATION: u8 = 2;
    const THR_ENABLE: u8 = 2;

    fn port() -> (SerialPort, EventFd, Arc<ConsoleOutput>) {
        let line = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).unwrap();
        let output = Arc::new(ConsoleOutput::default());
        (SerialPort::new(line.try_clone().unwrap(), Arc::clone(&output)).unwrap(), line, output)
    }

    #[test]
    fn a_stalled_console_shows_a_busy_transmitter_and_never_blocks() {
        let (port, ..) = port();
        assert_eq!(port.read(LINE_STATUS) & TRANSMITTER_EMPTY, TRANSMITTER_EMPTY);
        let mut sent = 0u64;
        while port.read(LINE_STATUS) & TRANSMITTER_EMPTY != 0 {
            port.write(DATA, b'x');
            sent += 1;
        }
        assert_eq!(port.dropped(), 0);
        assert!(sent >= 4096);
        (0..1000).for_each(|_| port.write(DATA, b'x'));
        assert_eq!(port.dropped(), 1000);
    }

    #[test]
    fn room_raises_the_transmitter_interrupt_again() {
        let (port, line, _) = port();
        port.write(INTERRUPT_ENABLE, THR_ENABLE);
        line.read().unwrap();
        assert_eq!(port.read(IDENTIFICATION) & 0x0F, 2, "the driver takes the interrupt");
        assert!(line.read().is_err(), "no further interrupt by itself");
        port.transmitter_has_room();
        line.read().unwrap();
        port.write(INTERRUPT_ENABLE, 0);
        port.transmitter_has_room();
        assert!(line.read().is_err(), "none that the guest did not enable");
    }

    #[test]
    fn input_waits_for_room() {
        let (port, ..) = port();
        let room = port.input_capacity();
        port.input(&vec![b'i'; room]);
        assert_eq!(port.input_capacity(), 0);
        assert!(port.input_room().read().is_err());
        for _ in 0..room {
            assert_eq!(port.read(DATA), b'i');
        }
        port.input_room().read().unwrap();
        assert_eq!(port.input_capacity(), room);
    }

    #[test]
    fn every_register_takes_every_value() {
        let (port, ..) = port();
        for value in 0..=u8::MAX {
            for offset in 0..=u8::MAX {
                port.write(offset, value);
                let _ = port.read(offset);
            }
        }
    }
}
