//! A driver for the disk in a few instructions: virtio 1.x over PCI by polling, and the rings, headers and
//! buffers that it works on, ready-made in memory. Numbers are from virtio 1.3: 2.7 (split virtqueues), 4.1.4.3
//! (common configuration), 5.2.6 (requests).

use crate::guest::print;

/// What the guest says when all requests are done: their status bytes follow, each as a digit.
pub const DONE: &str = "io";

/// The first sector of each place on the disk that requests change.
pub const WRITTEN: u64 = 8;
pub const COPIED: u64 = 16;
pub const IDENTIFIED: u64 = 24;
pub const DISCARDED: u64 = 64;
pub const ZEROED: u64 = 72;
pub const UNMAPPED: u64 = 80;

/// How many sectors each of them has.
pub const SECTORS: u32 = 8;

/// What the guest says that switched bus mastering off: the lowest byte of its command register follows, as a digit.
pub const BUS: &str = "bus";

/// What is written.
pub const PATTERN: u8 = 0xA5;

/// Where the guest puts the device's registers, in the window for 32-bit BARs, and parts of them.
const BAR: u32 = 0xC000_0000;
const STATUS: u32 = BAR + 0x14;
const NOTIFY: u32 = BAR + 0x3000;

const QUEUE_SIZE: u16 = 64;
const BYTES: u32 = SECTORS * 512;

/// VIRTIO_BLK_F_FLUSH, _DISCARD and _WRITE_ZEROES.
const FEATURES: u32 = 1 << 9 | 1 << 13 | 1 << 14;

/// Places in the data, from its start.
const AVAILABLE: u32 = 0x400;
const USED: u32 = 0x600;
const HEADERS: u32 = 0x1000;
const SEGMENTS: u32 = 0x1400;
const STATUSES: u32 = 0x1800;
const SOURCE: u32 = 0x2000;
const COPY: u32 = 0x3000;
const IDENTITY: u32 = 0x4000;
const END: u32 = 0x5000;

/// A request: type, sector, and its data: where, how long, whether the device writes it.
struct Request(u32, u64, Option<(u32, u32, bool)>);

const fn segment(nth: u32) -> Option<(u32, u32, bool)> {
    Some((SEGMENTS + 16 * nth, 16, false))
}

/// Each kind: write, read back, write what was read, flush, identify, write the identity, discard, write
/// zeroes, the same with permission to unmap.
const REQUESTS: [Request; 9] = [
    Request(1, WRITTEN, Some((SOURCE, BYTES, false))),
    Request(0, WRITTEN, Some((COPY, BYTES, true))),
    Request(1, COPIED, Some((COPY, BYTES, false))),
    Request(4, 0, None),
    Request(8, 0, Some((IDENTITY, 20, true))),
    Request(1, IDENTIFIED, Some((IDENTITY, 512, false))),
    Request(11, 0, segment(0)),
    Request(13, 0, segment(1)),
    Request(13, 0, segment(2)),
];

/// Sector and flags of each segment of discard and write-zeroes.
const SEGMENT_LIST: [(u64, u32); 3] = [(DISCARDED, 0), (ZEROED, 0), (UNMAPPED, 1)];

/// How many requests there are.
pub const COUNT: usize = REQUESTS.len();

/// What the code works on, to be loaded at `data`.
pub fn data(data: u32) -> Vec<u8> {
    let mut bytes = vec![0; place(END)];
    let mut put = |at: u32, what: &[u8]| bytes[place(at)..place(at) + what.len()].copy_from_slice(what);
    for (nth, Request(kind, sector, buffer)) in (0_u32..).zip(&REQUESTS) {
        let header = HEADERS + 16 * nth;
        put(header, &kind.to_le_bytes());
        put(header + 8, &sector.to_le_bytes());
        let head = 3 * nth;
        let status = (STATUSES + nth, 1, true);
        put(STATUSES + nth, &[0xFF]);
        let next = if buffer.is_some() { head + 1 } else { head + 2 };
        put(16 * head, &descriptor(data, (header, 16, false), Some(next)));
        if let Some(buffer) = buffer {
            put(16 * (head + 1), &descriptor(data, *buffer, Some(head + 2)));
        }
        put(16 * (head + 2), &descriptor(data, status, None));
    }
    // VIRTQ_AVAIL_F_NO_INTERRUPT; requests in turn, as often as there is room.
    put(AVAILABLE, &[1, 0]);
    for nth in 0..QUEUE_SIZE {
        let head = 3 * (usize::from(nth) % COUNT);
        put(AVAILABLE + 4 + 2 * u32::from(nth), &u16::try_from(head).expect("small").to_le_bytes());
    }
    for (nth, (sector, flags)) in (0_u32..).zip(SEGMENT_LIST) {
        put(SEGMENTS + 16 * nth, &sector.to_le_bytes());
        put(SEGMENTS + 16 * nth + 8, &SECTORS.to_le_bytes());
        put(SEGMENTS + 16 * nth + 12, &flags.to_le_bytes());
    }
    put(SOURCE, &[PATTERN; 8 * 512]);
    bytes
}

fn place(at: u32) -> usize {
    usize::try_from(at).expect("small")
}

/// struct virtq_desc
fn descriptor(data: u32, (at, size, written): (u32, u32, bool), next: Option<u32>) -> Vec<u8> {
    let flags = u16::from(next.is_some()) | u16::from(written) << 1;
    let next = u16::try_from(next.unwrap_or_default()).expect("small");
    let address = u64::from(data + at).to_le_bytes();
    [&address[..], &size.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
}

/// Finds the device at 00:01.0, starts it, makes each request and prints how each ended.
pub fn code(data: u32) -> Vec<u8> {
    let mut code = Vec::new();
    // BAR 0, its upper half, and the command register: memory and bus master.
    for (register, value) in [(0x10, BAR), (0x14, 0), (0x04, 6)] {
        code.extend(configure(register, value));
    }
    for status in [0, 1, 3] {
        code.extend(set8(STATUS, status));
    }
    // VIRTIO_F_VERSION_1 is bit 32.
    for (half, features) in [(0, FEATURES), (1, 1)] {
        code.extend(set32(BAR + 0x08, half));
        code.extend(set32(BAR + 0x0C, features));
    }
    code.extend(set8(STATUS, 0xB));
    code.extend(set16(BAR + 0x16, 0));
    code.extend(set16(BAR + 0x18, QUEUE_SIZE));
    for (register, ring) in [(0x20, 0), (0x28, AVAILABLE), (0x30, USED)] {
        code.extend(set32(BAR + register, data + ring));
        code.extend(set32(BAR + register + 4, 0));
    }
    code.extend(set16(BAR + 0x1C, 1));
    code.extend(set8(STATUS, 0xF));
    for _ in REQUESTS {
        code.extend(request(data));
    }
    code.extend(print(&format!("@@{DONE} ")));
    for nth in (0..).take(COUNT) {
        // mov al, [status]; add al, '0'; mov dx, 0x3F8; out dx, al
        code.push(0xA0);
        code.extend((data + STATUSES + nth).to_le_bytes());
        code.extend([0x04, 0x30, 0x66, 0xBA, 0xF8, 0x03, 0xEE]);
    }
    code.extend(print("\n"));
    code
}

/// Requests in turn for good.
pub fn endless(data: u32) -> Vec<u8> {
    let mut code = request(data);
    // jmp rel32, from behind it.
    let back = i32::try_from(code.len()).expect("short") + 5;
    code.push(0xE9);
    code.extend((-back).to_le_bytes());
    code
}

/// Switches bus mastering off between a request and its end, makes each request once more without it, says what it finds
/// in the command register then.
pub fn without_bus_mastering(data: u32) -> Vec<u8> {
    let mut code = submit(data);
    code.extend(configure(0x04, 2));
    code.extend(wait(data));
    for _ in REQUESTS {
        code.extend(request(data));
    }
    code.extend(print(&format!("@@{BUS} ")));
    // mov dx, 0xCFC; in al, dx; add al, '0'; mov dx, 0x3F8; out dx, al
    code.extend([0x66, 0xBA, 0xFC, 0x0C, 0xEC, 0x04, 0x30, 0x66, 0xBA, 0xF8, 0x03, 0xEE]);
    code.extend(print("\n"));
    code
}

/// Makes the next request available, notifies, and waits until it is used.
fn request(data: u32) -> Vec<u8> {
    [submit(data), wait(data)].concat()
}

/// Makes the next request available and notifies.
fn submit(data: u32) -> Vec<u8> {
    // inc word [available]
    let available = (data + AVAILABLE + 2).to_le_bytes();
    [&[0x66, 0xFF, 0x05][..], &available, &set16(NOTIFY, 0)].concat()
}

/// Waits until all that is available is used.
fn wait(data: u32) -> Vec<u8> {
    let (available, used) = ((data + AVAILABLE + 2).to_le_bytes(), (data + USED + 2).to_le_bytes());
    let mut code = Vec::new();
    // wait: mov ax, [available]; cmp ax, [used]; jne wait
    code.extend([0x66, 0xA1]);
    code.extend(available);
    code.extend([0x66, 0x3B, 0x05]);
    code.extend(used);
    code.extend([0x75, 0xF1]);
    code
}

/// Writes a register of the device's configuration space.
fn configure(register: u32, value: u32) -> Vec<u8> {
    [out32(0xCF8, 0x8000_0800 | register), out32(0xCFC, value)].concat()
}

/// `mov byte [address], value`
fn set8(address: u32, value: u8) -> Vec<u8> {
    [&[0xC6, 0x05][..], &address.to_le_bytes(), &[value]].concat()
}

/// `mov word [address], value`
fn set16(address: u32, value: u16) -> Vec<u8> {
    [&[0x66, 0xC7, 0x05][..], &address.to_le_bytes(), &value.to_le_bytes()].concat()
}

/// `mov dword [address], value`
fn set32(address: u32, value: u32) -> Vec<u8> {
    [&[0xC7, 0x05][..], &address.to_le_bytes(), &value.to_le_bytes()].concat()
}

/// `mov edx, port; mov eax, value; out dx, eax`
fn out32(port: u32, value: u32) -> Vec<u8> {
    [&[0xBA][..], &port.to_le_bytes(), &[0xB8], &value.to_le_bytes(), &[0xEF]].concat()
}
