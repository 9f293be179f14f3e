//! Whole machines with guests of a few instructions, on the host's KVM. The guests are 32-bit and poll, so
//! that a KVM that only emulates runs them too.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test says what it expects by failing"
)]

mod hostile;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::pipe;
use protocol::{Channel, CoreSetup, Exit, FailureKind, FromCore, Phase, PmemOptions, ToCore, memory_layout};
use sandbox_policies::Stage;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;
use vmm_core::threads::Threads;
use vmm_core::{handoff, machine};

const LOAD: u32 = 0x20_0000;
const MEMORY: u64 = 128 << 20;

/// A machine that runs, with the launcher's end of everything.
struct Launcher {
    channel: Channel,
    input: Option<File>,
    output: File,
    /// The core's control thread.
    served: JoinHandle<()>,
}

impl Launcher {
    fn run(code: &[u8]) -> Self {
        Self::with(code, vec![], || ())
    }

    /// A machine with files as its persistent memory, and what happens between its being built and its running.
    fn with(
        code: &[u8],
        persistent: Vec<(String, PmemOptions, OwnedFd)>,
        built: impl FnOnce() + Send + 'static,
    ) -> Self {
        let (channel, core) = Channel::pair().unwrap();
        let (input, typed) = pipe().unwrap();
        let (shown, output) = pipe().unwrap();
        let memfds =
            memory_layout::regions(MEMORY).iter().map(|region| memfd(region.size)).collect::<Vec<_>>();
        let mut fds = vec![OwnedFd::from(File::options().read(true).write(true).open("/dev/kvm").unwrap())];
        fds.extend(memfds);
        fds.push(image(code));
        fds.extend([input, output]);
        let setup = CoreSetup {
            memory: memory_layout::regions(MEMORY),
            cpus: 2,
            command_line: "quiet".to_owned(),
            initrd: false,
            console: true,
        };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        channel.send(&ToCore::Setup(setup), &fds).unwrap();
        channel.send(&ToCore::Start, &[]).unwrap();
        let served = std::thread::spawn(move || {
            let mut hand_over = handoff::receive(&core).unwrap().unwrap();
            // Without the device that belongs to it, which has no part in reading and writing.
            hand_over.persistent = persistent;
            let mut threads = Threads::unconfined();
            let control = machine::build(hand_over, &core, &mut threads).unwrap();
            threads.confine(Stage::Control).unwrap();
            built();
            threads.serve();
            control.serve().unwrap();
        });
        Self { channel, input: Some(typed.into()), output: shown.into(), served }
    }

    fn next(&self) -> FromCore {
        self.channel.receive(Phase::Serving).unwrap().unwrap().0
    }

    fn exit(&self) -> Exit {
        match self.next() {
            FromCore::Exited(exit) => exit,
            other => panic!("{other:?}"),
        }
    }

    fn counter(&self, name: &str) -> u64 {
        self.channel.send(&ToCore::Query, &[]).unwrap();
        match self.next() {
            FromCore::Counters(counters) => {
                counters.entries.iter().find(|counter| counter.name == name).unwrap().value
            }
            other => panic!("{other:?}"),
        }
    }

    fn shown(&mut self, size: usize) -> String {
        let mut bytes = vec![0; size];
        self.output.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }
}

fn memfd(size: u64) -> OwnedFd {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    let fd = memfd_create("guest", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
    let file = File::from(fd);
    file.set_len(size).unwrap();
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    file.into()
}

/// An ELF file with one segment, `code`, which is also the PVH entry.
fn image(code: &[u8]) -> OwnedFd {
    let (segment, note) = (0x100u64, 0xC0u64);
    let size = u64::try_from(code.len()).unwrap();
    let mut elf = vec![0; 0x100];
    let mut put = |at: usize, bytes: &[u8]| elf[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7FELF\x02\x01\x01");
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
    header(0x40, 1, segment, size);
    header(0x78, 4, note, 20);
    put(0xC0, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
    put(0xCC, b"Xen\0");
    put(0xD0, &LOAD.to_le_bytes());
    elf.extend_from_slice(code);
    let mut file = File::from(memfd_create("kernel", MFdFlags::MFD_CLOEXEC).unwrap());
    file.write_all(&elf).unwrap();
    file.into()
}

/// `mov dx, port; mov al, value; out dx, al`
fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xBA, low, high, 0xB0, value, 0xEE]
}

fn print(text: &str) -> Vec<u8> {
    text.bytes().flat_map(|byte| out(0x3F8, byte)).collect()
}

/// `mov dx, port; in al, dx`
fn input(port: u16) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xBA, low, high, 0xEC]
}

const SEND_AL: [u8; 5] = [0x66, 0xBA, 0xF8, 0x03, 0xEE];

#[test]
fn a_guest_prints_and_powers_off() {
    let mut launcher = Launcher::run(&[print("OK\n"), out(0x600, 0x34)].concat());
    assert_eq!(launcher.exit(), Exit::PowerOff);
    assert_eq!(launcher.shown(3), "OK\n");
}

#[test]
fn both_ways_to_reset_are_understood() {
    for code in [out(0x602, 1), out(0x64, 0xFE)] {
        assert_eq!(Launcher::run(&code).exit(), Exit::Reset);
    }
}

#[test]
fn the_reset_vector_resets() {
    let place = |offset: u32| (LOAD + offset).to_le_bytes();
    // Copies what follows to 0x7000, into a 16-bit segment; there: leave protected mode, jump to F000:FFF0.
    let mut code =
        [&[0xBE][..], &place(0x40), &[0xBF, 0, 0x70, 0, 0, 0xB9, 0x20, 0, 0, 0, 0xFC, 0xF3, 0xA4]].concat();
    code.extend([&[0x0F, 0x01, 0x15][..], &place(0x60), &[0xEA, 0, 0x70, 0, 0, 8, 0]].concat());
    code.resize(0x40, 0x90);
    code.extend([0x0F, 0x20, 0xC0, 0x24, 0xFE, 0x0F, 0x22, 0xC0, 0xEA, 0xF0, 0xFF, 0x00, 0xF0]);
    code.resize(0x60, 0x90);
    code.extend([&[15, 0][..], &place(0x70)].concat());
    code.resize(0x78, 0);
    code.extend(0x0000_9B00_0000_FFFFu64.to_le_bytes());
    assert_eq!(Launcher::run(&code).exit(), Exit::Reset);
}

#[test]
fn boot_information_is_where_ebx_points() {
    // mov eax, [ebx]; then al, ah and the upper half, printed: the magic number of hvm_start_info.
    let shift = [0xC1, 0xE8, 8];
    let mut code = vec![0x8B, 0x03];
    for _ in 0..4 {
        code.extend(SEND_AL);
        code.extend(shift);
    }
    code.extend(out(0x600, 0x34));
    let mut launcher = Launcher::run(&code);
    assert_eq!(launcher.exit(), Exit::PowerOff);
    let mut magic = [0; 4];
    launcher.output.read_exact(&mut magic).unwrap();
    assert_eq!(u32::from_le_bytes(magic), 0x336E_C578);
}

#[test]
fn string_output_arrives_byte_by_byte() {
    let text = b"a string, at one port";
    // mov esi, text; mov ecx, size; mov dx, 0x3F8; rep outsb
    let mut code = vec![0xBE];
    let place = LOAD + 0x100;
    code.extend(place.to_le_bytes());
    code.push(0xB9);
    code.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
    code.extend([0x66, 0xBA, 0xF8, 0x03, 0xFC, 0xF3, 0x6E]);
    code.extend(out(0x600, 0x34));
    code.resize(0x100, 0x90);
    code.extend(text);
    let mut launcher = Launcher::run(&code);
    assert_eq!(launcher.exit(), Exit::PowerOff);
    assert_eq!(launcher.shown(text.len()).as_bytes(), text);
}

#[test]
fn input_reaches_a_guest_that_polls_and_exits_are_counted_meanwhile() {
    // wait: in al, LSR; test al, 1; jz wait; in al, RBR; send it; power off
    let mut code = print(">");
    code.extend(input(0x3FD));
    code.extend([0xA8, 1, 0x74, 0xF7]);
    code.extend(input(0x3F8));
    code.extend(SEND_AL);
    code.extend(out(0x600, 0x34));
    let mut launcher = Launcher::run(&code);
    assert_eq!(launcher.shown(1), ">");
    assert!(launcher.counter("serial") >= 1);
    assert_eq!(launcher.counter("power"), 0);
    launcher.input.take().unwrap().write_all(b"!").unwrap();
    assert_eq!(launcher.exit(), Exit::PowerOff);
    assert_eq!(launcher.shown(1), "!");
}

#[test]
fn what_nobody_serves_reads_as_ones() {
    // in al, 0x42; send; mov al, [0xD0000000]; send; mov [0xD0000000], al; out 0x42, al
    let mut code = input(0x42);
    code.extend(SEND_AL);
    code.extend([0xA0, 0, 0, 0, 0xD0]);
    code.extend(SEND_AL);
    code.extend([0xA2, 0, 0, 0, 0xD0]);
    code.extend(out(0x42, 7));
    code.extend(print("."));
    // Stays, so that the counters can be asked for.
    code.extend([0xEB, 0xFE]);
    let mut launcher = Launcher::run(&code);
    let mut shown = [0; 3];
    launcher.output.read_exact(&mut shown).unwrap();
    assert_eq!(shown, [0xFF, 0xFF, b'.']);
    assert_eq!((launcher.counter("unassigned_port"), launcher.counter("unassigned_mmio")), (2, 2));
    launcher.channel.send(&ToCore::Stop, &[]).unwrap();
}

#[test]
fn a_triple_fault_is_a_crash_that_says_where() {
    // lidt [an empty table]; int3
    let mut code = vec![0x0F, 0x01, 0x1D];
    code.extend((LOAD + 0x40).to_le_bytes());
    code.push(0xCC);
    code.resize(0x50, 0);
    match Launcher::run(&code).exit() {
        Exit::GuestCrash(text) => {
            assert!(text.starts_with("vCPU 0: ") && text.contains("rip 0x20000"), "{text}")
        }
        other => panic!("{other:?}"),
    }
}

/// Persistent memory of a large page each, `readonly` or not, on files that begin with a byte of their own.
fn persistent(files: &[(File, bool)]) -> Vec<(String, PmemOptions, OwnedFd)> {
    let sizes = vec![2 << 20; files.len()];
    let regions = memory_layout::persistent(&memory_layout::regions(MEMORY), &sizes);
    let named = files.iter().zip(regions).enumerate();
    let named = named.map(|(number, ((file, readonly), region))| {
        let options = PmemOptions { region, readonly: *readonly };
        (format!("pmem{number}"), options, file.try_clone().unwrap().into())
    });
    named.collect()
}

fn page(first: u8) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[first]).unwrap();
    file.set_len(2 << 20).unwrap();
    file
}

/// `code` with the first large page of persistent memory at 1 GiB, and the second behind it: through tables of 4 levels,
/// whose addresses have more than 32 bits, in compatibility mode (Intel SDM volume 3, 4.5 and 10.8.5).
fn paged(code: &[u8]) -> Vec<u8> {
    const PML4: u32 = LOAD + 0x1000;
    const PDPT: u32 = LOAD + 0x2000;
    const LOW: u32 = LOAD + 0x3000;
    const HIGH: u32 = LOAD + 0x4000;
    let mut whole = vec![0xB8];
    whole.extend(PML4.to_le_bytes());
    // mov cr3, eax; cr4.PAE
    whole.extend([0x0F, 0x22, 0xD8, 0x0F, 0x20, 0xE0, 0x83, 0xC8, 0x20, 0x0F, 0x22, 0xE0]);
    // mov ecx, IA32_EFER; mov eax, LME; xor edx, edx; wrmsr; cr0.PG
    whole.extend([0xB9, 0x80, 0, 0, 0xC0, 0xB8, 0, 1, 0, 0, 0x31, 0xD2, 0x0F, 0x30]);
    whole.extend([0x0F, 0x20, 0xC0, 0x0D, 0, 0, 0, 0x80, 0x0F, 0x22, 0xC0]);
    whole.extend(code);
    let regions = memory_layout::persistent(&memory_layout::regions(MEMORY), &[2 << 20; 2]);
    // Present and writable.
    let table = |address: u32| u64::from(address) | 3;
    let large = |address: u64| address | 0x83;
    let tables = [
        (PML4, [table(PDPT), 0]),
        (PDPT, [table(LOW), table(HIGH)]),
        (LOW, [large(0), large(LOAD.into())]),
        (HIGH, [large(regions[0].guest_phys), large(regions[1].guest_phys)]),
    ];
    for (table, entries) in tables {
        whole.resize(usize::try_from(table - LOAD).unwrap(), 0);
        whole.extend(entries.iter().flat_map(|entry| entry.to_le_bytes()));
    }
    whole
}

/// `mov al, [address]`
fn load(address: u32) -> Vec<u8> {
    [&[0xA0][..], &address.to_le_bytes()].concat()
}

/// `mov al, value; mov [address], al`
fn store(value: u8, address: u32) -> Vec<u8> {
    [&[0xB0, value, 0xA2][..], &address.to_le_bytes()].concat()
}

const PAGE: u32 = 0x4000_0000;
const READONLY: u32 = 0x4020_0000;

#[test]
fn a_guest_reads_and_writes_files_that_are_its_memory() {
    use std::os::unix::fs::FileExt;
    let files = [(page(b'A'), false), (page(b'R'), true)];
    let load_and_show = |address| [load(address), SEND_AL.to_vec()].concat();
    let code = [
        load_and_show(PAGE),
        store(b'B', PAGE + 0x1F_FFFF),
        load_and_show(READONLY),
        store(b'X', READONLY),
        load_and_show(READONLY),
        out(0x600, 0x34),
    ];
    let mut launcher = Launcher::with(&paged(&code.concat()), persistent(&files), || ());
    assert_eq!(launcher.exit(), Exit::PowerOff);
    assert_eq!(launcher.shown(3), "ARR");
    let last = |file: &File| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, 0x1F_FFFF).unwrap();
        byte[0]
    };
    assert_eq!((last(&files[0].0), last(&files[1].0)), (b'B', 0));
}

#[test]
fn a_file_that_is_shortened_under_its_guest_ends_the_machine_with_its_name() {
    for (code, readonly) in [(load(PAGE), false), (store(1, PAGE), false), (load(PAGE), true)] {
        let files = [(page(b'A'), readonly)];
        let file = files[0].0.try_clone().unwrap();
        let shorten = move || file.set_len(0).unwrap();
        let code = paged(&[code, out(0x600, 0x34)].concat());
        let launcher = Launcher::with(&code, persistent(&files), shorten);
        match launcher.next() {
            FromCore::Failed(failure) => {
                assert_eq!(failure.kind, FailureKind::Resource);
                assert!(failure.text.starts_with("pmem0: "), "{}", failure.text);
                assert!(failure.text.contains("shortened"), "{}", failure.text);
            }
            other => panic!("{other:?}"),
        }
    }
}
