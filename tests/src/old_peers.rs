//! The hand-over as programs of minor versions 1 to 4 have it, kept as it was: their frames, recorded, and how they read
//! those of others. Nothing here changes when the protocol does; that is what it is for. Between them there are but
//! optional fields of the set-up, which are sent only when they say something, and what a device keeps, which it is given only
//! when it asks.
//!
//! A peer of such a version skips optional fields and bytes behind them that it does not know. It refuses a kind of message
//! that it does not know, and a number of descriptors other than it knows of, and ends the peer that sent it.

/// `NAME HEX` on each line, `#` for comments; written by `cargo xtask record-peers`.
const RECORDED: [&str; 4] = [
    include_str!("../protocol/peers/minor-1.txt"),
    include_str!("../protocol/peers/minor-2.txt"),
    include_str!("../protocol/peers/minor-3.txt"),
    include_str!("../protocol/peers/minor-4.txt"),
];

/// The minor versions that were recorded.
pub const MINORS: [u8; 4] = [1, 2, 3, 4];

/// A recorded frame of this minor version: `setup`, `query` and `stop` are the launcher's, `ready`, `counters` and `failed` a
/// device's. Since minor version 3 a device `keeps`, and waits for the launcher's `keep`, before it is ready.
pub fn frame(minor: u8, name: &str) -> Option<Vec<u8>> {
    let recorded = RECORDED.get(usize::from(minor).checked_sub(1)?)?;
    let lines = recorded.lines().filter(|line| !line.starts_with('#'));
    let hex = lines.filter_map(|line| line.split_once(' ')).find(|(found, _)| *found == name);
    crate::packet::from_hex(hex?.1)
}

/// What a device of such a version understands of its launcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToDevice {
    /// A disk, with its serial.
    Setup(String),
    /// What outlives the device.
    Keep,
    /// Answer with counters.
    Query,
    /// End.
    Stop,
}

/// What a launcher of such a version understands of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromDevice {
    /// It wants what outlives it.
    Keeps,
    /// It serves; the landlock ABI, and the number of lacking layers.
    Ready(u8, u64),
    /// It gives up, and why.
    Failed(String),
    /// Names and values.
    Counters(Vec<(String, u64)>),
}

/// As a device reads; `Err` says what it would refuse.
pub fn to_device(packet: &[u8], descriptors: usize) -> Result<ToDevice, String> {
    let (kind, announced, body) = header(packet).ok_or_else(|| format!("malformed: {packet:02x?}"))?;
    let expected = match kind {
        0x0301 => 2,
        0x0304 => 1,
        _ => 0,
    };
    if descriptors != expected || announced != expected {
        return Err(format!("{descriptors} descriptors with message {kind:#06x}, {announced} announced"));
    }
    let mut reader = Reader(body);
    let message = match kind {
        0x0301 => setup(&mut reader).map(ToDevice::Setup),
        // Whatever their body.
        0x0302 => return Ok(ToDevice::Query),
        0x0303 => return Ok(ToDevice::Stop),
        0x0304 => return Ok(ToDevice::Keep),
        _ => return Err(format!("an unknown message, {kind:#06x}")),
    };
    message.filter(|_| reader.fields().is_some()).ok_or_else(|| format!("malformed: {packet:02x?}"))
}

/// As a launcher reads; `Err` says what it would refuse.
pub fn from_device(packet: &[u8], descriptors: usize) -> Result<FromDevice, String> {
    let (kind, announced, body) = header(packet).ok_or_else(|| format!("malformed: {packet:02x?}"))?;
    if descriptors != 0 || announced != 0 {
        return Err(format!("{descriptors} descriptors with message {kind:#06x}, {announced} announced"));
    }
    let mut reader = Reader(body);
    let message = match kind {
        0x0401 => ready(&mut reader),
        0x0402 => failed(&mut reader),
        0x0403 => counters(&mut reader),
        0x0404 => Some(FromDevice::Keeps),
        _ => return Err(format!("an unknown message, {kind:#06x}")),
    };
    message.filter(|_| reader.fields().is_some()).ok_or_else(|| format!("malformed: {packet:02x?}"))
}

/// Kind, descriptors and body.
fn header(packet: &[u8]) -> Option<(u16, usize, &[u8])> {
    let (header, body) = packet.split_first_chunk::<16>()?;
    let [b'v', b'm', b'm', 0, 1, _minor, k0, k1, b0, b1, b2, b3, descriptors, ..] = *header else {
        return None;
    };
    let length = u32::from_le_bytes([b0, b1, b2, b3]);
    let fits = usize::try_from(length) == Ok(body.len());
    fits.then_some((u16::from_le_bytes([k0, k1]), descriptors.into(), body))
}

/// A disk: read-only, direct, serial, queues, their size. Its name and the others are read to get past them.
fn setup(reader: &mut Reader<'_>) -> Option<String> {
    let _name = reader.text()?;
    let kind = reader.number()?;
    let [_readonly, _direct] = [reader.byte()?, reader.byte()?];
    let serial = reader.text()?;
    let [_queues, _queue_size] = [reader.number()?, reader.number()?];
    (kind == 0).then_some(serial)
}

fn ready(reader: &mut Reader<'_>) -> Option<FromDevice> {
    let abi = reader.byte()?;
    let lacking = reader.number()?;
    for _ in 0..lacking {
        reader.text()?;
    }
    Some(FromDevice::Ready(abi, lacking))
}

fn failed(reader: &mut Reader<'_>) -> Option<FromDevice> {
    // Of nine kinds.
    reader.number().filter(|kind| *kind < 9)?;
    reader.text().map(FromDevice::Failed)
}

fn counters(reader: &mut Reader<'_>) -> Option<FromDevice> {
    let count = reader.number().filter(|count| *count <= 64)?;
    let counter = |_| Some((reader.text()?, reader.number()?));
    (0..count).map(counter).collect::<Option<Vec<_>>>().map(FromDevice::Counters)
}

/// bincode's variable-length encoding, as far as it is used.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u64> {
        let size = match self.byte()? {
            small @ 0..=250 => return Some(small.into()),
            251 => 2,
            252 => 4,
            253 => 8,
            _ => return None,
        };
        Some(self.take(size)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.number()?).ok()?;
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }

    /// Optional fields: a list of tag and bytes. What follows is skipped.
    fn fields(&mut self) -> Option<()> {
        for _ in 0..self.number()? {
            let _tag = self.number()?;
            let length = usize::try_from(self.number()?).ok()?;
            self.take(length)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_is_understood() {
        for minor in MINORS {
            let recorded = |name| super::frame(minor, name);
            let frame = |name| recorded(name).unwrap();
            assert_eq!(to_device(&frame("setup"), 2), Ok(ToDevice::Setup("golden".to_owned())));
            assert_eq!(to_device(&frame("query"), 0), Ok(ToDevice::Query));
            assert_eq!(to_device(&frame("stop"), 0), Ok(ToDevice::Stop));
            assert!(matches!(from_device(&frame("ready"), 0), Ok(FromDevice::Ready(..))));
            let failed = from_device(&frame("failed"), 0);
            assert!(matches!(failed, Ok(FromDevice::Failed(text)) if !text.is_empty()));
            assert!(matches!(from_device(&frame("counters"), 0), Ok(FromDevice::Counters(_))));
            let keeps = from_device(&recorded("keeps").unwrap_or_default(), 0).ok();
            let keep = to_device(&recorded("keep").unwrap_or_default(), 1).ok();
            let both = (Some(FromDevice::Keeps), Some(ToDevice::Keep));
            assert_eq!((keeps, keep), if minor < 3 { (None, None) } else { both });
            for name in ["setup", "query", "stop", "ready", "counters", "failed"] {
                assert_eq!(frame(name)[4..6], [1, minor], "{name} is of version 1.{minor}");
            }
        }
    }

    #[test]
    fn what_an_old_peer_would_refuse_is_refused() {
        let frame = |name| frame(1, name).unwrap();
        assert!(to_device(&frame("setup"), 3).is_err());
        let mut third = frame("setup");
        third[12] = 3;
        assert!(to_device(&third, 3).is_err());
        assert!(from_device(&frame("ready"), 1).is_err());
        for unknown in ["query", "ready"] {
            let mut unknown = frame(unknown);
            unknown[6] = 0x77;
            assert!(to_device(&unknown, 0).is_err() && from_device(&unknown, 0).is_err());
        }
        let mut longer = frame("stop");
        longer.push(0);
        assert!(to_device(&longer, 0).is_err());
    }

    #[test]
    fn fields_of_later_versions_are_skipped() {
        let mut ready = frame(1, "ready").unwrap();
        let fields = ready.len() - 1;
        assert_eq!(ready[fields], 0, "no optional field");
        ready[fields] = 1;
        ready.extend([9, 2, 0xAA, 0xBB, 0xCC]);
        let length = u8::try_from(ready.len() - 16).unwrap();
        ready[8] = length;
        assert!(matches!(from_device(&ready, 0), Ok(FromDevice::Ready(..))));
    }
}
