//! Golden bytes of every message, and neighbours one minor version away.
//!
//! A change here is a change of the wire: add optional fields and kinds, never alter what stands.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

use protocol::{
    Abandon, AskDevice, AttachDevice, BalloonAmount, BalloonOptions, BlkOptions, ConsoleOptions, ConsolePort,
    ConsoleSize, CoreSetup, Counter, Counters, DeviceLost, DeviceOptions, DeviceSetup, DeviceStatus,
    DiskFormat, Error, Exit, Failure, FailureKind, FromCore, FromDevice, FromLauncher, FsOptions,
    MemoryRegion, Message, NetOptions, Phase, PmemOptions, ProcessStatus, Rate, Rates, Ready, Reconnect,
    Reconnected, Refused, Replace, ReplaceDevice, Replaced, SetDevice, SetOutcome, Setting, Statistic,
    Statistics, ToCore, ToDevice, ToLauncher, Violation, ViolationFrame, VsockOptions, frame, limits,
};
use std::fmt::Debug;

mod spawner;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn golden<M: Message + PartialEq + Debug>(message: &M, kind: u16, bytes: &str) {
    assert_eq!(message.kind(), kind, "{message:?}");
    let body = message.encode().unwrap();
    assert_eq!(hex(&body), bytes, "{message:?}");
    assert_eq!(&M::decode(kind, &body).unwrap(), message);
}

fn setup() -> CoreSetup {
    CoreSetup {
        memory: vec![MemoryRegion { guest_phys: 0, size: 128 << 20 }],
        cpus: 2,
        command_line: "a=b".into(),
        initrd: true,
        console: false,
    }
}

fn attach() -> AttachDevice {
    AttachDevice {
        slot: 1,
        name: "blk0".into(),
        virtio_type: 2,
        queues: 2,
        queue_size: 256,
        deadline_ms: 1000,
        pmem: None,
        mem: None,
    }
}

fn pmem() -> PmemOptions {
    let region = MemoryRegion { guest_phys: 20 << 30, size: 2 << 20 };
    PmemOptions { region, readonly: true }
}

fn pmem_device(options: PmemOptions) -> ToDevice {
    ToDevice::Setup(DeviceSetup { options: DeviceOptions::Pmem(options), ..rng() })
}

fn blk(backing: &[DiskFormat]) -> DeviceSetup {
    let options = BlkOptions {
        readonly: true,
        direct: false,
        serial: "s".into(),
        queues: 1,
        queue_size: 128,
        discard: false,
        backing: backing.to_vec(),
    };
    DeviceSetup { options: DeviceOptions::Blk(options), ..rng() }
}

fn rng() -> DeviceSetup {
    DeviceSetup {
        name: "d".into(),
        options: DeviceOptions::Rng,
        blamed: false,
        keep: false,
        rates: Rates::default(),
    }
}

fn net(mtu: Option<u16>) -> DeviceSetup {
    let mac = "52:54:00:ab:cd:01".parse().unwrap();
    let options = NetOptions { mac, any_source: false, mtu, segments_udp: true, pairs: 1, stream: false };
    DeviceSetup {
        name: "d".into(),
        options: DeviceOptions::Net(options),
        blamed: false,
        keep: false,
        rates: Rates::default(),
    }
}

fn pairs(pairs: u16) -> DeviceSetup {
    let mut setup = net(None);
    if let DeviceOptions::Net(options) = &mut setup.options {
        options.pairs = pairs;
    }
    setup
}

fn stream(mtu: Option<u16>, pairs: u16, segments_udp: bool) -> DeviceSetup {
    let mut setup = net(mtu);
    if let DeviceOptions::Net(options) = &mut setup.options {
        (options.stream, options.pairs, options.segments_udp) = (true, pairs, segments_udp);
    }
    setup
}

fn console(size: Option<(u16, u16)>, file_limit: Option<u64>) -> DeviceSetup {
    let size = size.map(|(columns, rows)| ConsoleSize { columns, rows });
    let options = DeviceOptions::Console(ConsoleOptions { size, file_limit, ports: Vec::new() });
    DeviceSetup { name: "d".into(), options, blamed: false, keep: false, rates: Rates::default() }
}

fn ports(ports: &[(&str, bool)]) -> DeviceSetup {
    let port = |(name, console): &(&str, bool)| ConsolePort { name: (*name).to_owned(), console: *console };
    let ports = ports.iter().map(port).collect();
    let options = DeviceOptions::Console(ConsoleOptions { size: None, file_limit: None, ports });
    DeviceSetup { options, ..rng() }
}

fn balloon(size: u64) -> DeviceSetup {
    let options = BalloonOptions { size, deflate_on_oom: true, free_page_reporting: false };
    let options = DeviceOptions::Balloon(options);
    DeviceSetup { name: "d".into(), options, blamed: false, keep: false, rates: Rates::default() }
}

fn file_system(tag: &str, queues: u16) -> DeviceSetup {
    let options = DeviceOptions::Fs(FsOptions { tag: tag.to_owned(), readonly: true, queues });
    DeviceSetup { name: "d".into(), options, blamed: false, keep: false, rates: Rates::default() }
}

fn vsock(cid: u32, name: &str) -> DeviceSetup {
    let options = DeviceOptions::Vsock(VsockOptions { cid, name: name.to_owned() });
    DeviceSetup { name: "d".into(), options, blamed: false, keep: false, rates: Rates::default() }
}

#[test]
fn launcher_to_core() {
    golden(&ToCore::Setup(setup()), 0x0101, "0100fc000000080203613d62010000");
    golden(&ToCore::Attach(attach()), 0x0102, "0104626c6b300202fb0001010103fbe803");
    let with_memory = AttachDevice { pmem: Some(pmem()), ..attach() };
    golden(
        &ToCore::Attach(with_memory),
        0x0102,
        "0104626c6b300202fb0001020103fbe803020ffd0000000005000000fc0000200001",
    );
    golden(&ToCore::Start, 0x0103, "00");
    golden(&ToCore::PowerButton, 0x0104, "00");
    golden(&ToCore::Pause, 0x0105, "00");
    golden(&ToCore::Resume, 0x0106, "00");
    golden(&ToCore::Query, 0x0107, "00");
    golden(&ToCore::Stop, 0x0108, "00");
    golden(&ToCore::Reconnect(Reconnect { slot: 3 }), 0x0109, "0300");
    golden(&ToCore::Abandon(Abandon { slot: 31 }), 0x010a, "1f00");
    golden(&ToCore::Replace(Replace { slot: 3 }), 0x010b, "0300");
}

#[test]
fn core_to_launcher() {
    let ready = Ready { landlock_abi: 7, lacking: vec!["cgroup".into()] };
    golden(&FromCore::Ready(ready), 0x0201, "0701066367726f757000");
    golden(&FromCore::Failed(Failure::new(FailureKind::Kvm, "no")), 0x0202, "05026e6f00");
    golden(&FromCore::Exited(Exit::PowerOff), 0x0203, "0000");
    golden(&FromCore::Exited(Exit::Reset), 0x0203, "0100");
    golden(&FromCore::Exited(Exit::crash("x")), 0x0203, "02017800");
    let counters = Counters { entries: vec![Counter { name: "serial".into(), value: 300 }] };
    golden(&FromCore::Counters(counters), 0x0204, "010673657269616cfb2c0100");
    golden(&FromCore::DeviceLost(DeviceLost::new(3, "gone")), 0x0205, "0304676f6e6500");
    let hung = DeviceLost { hung: true, ..DeviceLost::new(3, "gone") };
    golden(&FromCore::DeviceLost(hung), 0x0205, "0304676f6e6501010101");
    golden(&FromCore::Reconnected(Reconnected { slot: 3 }), 0x0206, "0300");
    golden(&FromCore::Refused(Refused::new(3, "no")), 0x0207, "03026e6f00");
    golden(&FromCore::Violation(violation()), 0x0208, VIOLATION);
}

#[test]
fn launcher_to_device_and_back() {
    golden(&ToDevice::Setup(blk(&[])), 0x0301, "01640001000173018001010100");
    let layers = blk(&[DiskFormat::Qcow2, DiskFormat::Raw]);
    golden(&ToDevice::Setup(layers.clone()), 0x0301, "016400010001730180020101000c03020100");
    assert_eq!((blk(&[]).options.more(), layers.options.more()), (0, 2));
    golden(&ToDevice::Setup(rng()), 0x0301, "01640100");
    golden(&ToDevice::Setup(net(None)), 0x0301, "016402525400abcd0100000100");
    golden(&ToDevice::Setup(net(Some(1500))), 0x0301, "016402525400abcd0100fbdc050100");
    golden(&ToDevice::Setup(pairs(2)), 0x0301, "016402525400abcd01000001010a0102");
    golden(&ToDevice::Setup(stream(Some(1500), 1, false)), 0x0301, "016402525400abcd0100fbdc0500010b0101");
    golden(&ToDevice::More(3), 0x0308, "0300");
    assert_eq!((ToDevice::More(3).fds(), pairs(16).options.more(), pairs(1).options.more()), (3, 15, 0));
    golden(&ToDevice::Setup(console(None, None)), 0x0301, "01640300000000");
    golden(&ToDevice::Setup(vsock(3, "")), 0x0301, "016407030000");
    golden(&ToDevice::Setup(vsock(300, "vm")), 0x0301, "016407fb2c0102766d00");
    golden(&ToDevice::Setup(console(Some((80, 24)), Some(300))), 0x0301, "0164035018fb2c0100");
    let several = ports(&[("", true), ("a", false)]);
    golden(&ToDevice::Setup(several.clone()), 0x0301, "016403000000010906020001016100");
    assert_eq!((ToDevice::More(3).fds(), several.options.more()), (3, 1));
    golden(&pmem_device(pmem()), 0x0301, "016404fd0000000005000000fc000020000100");
    golden(&ToDevice::Setup(balloon(300)), 0x0301, "016405fb2c01010000");
    golden(&ToDevice::Setup(file_system("t", 2)), 0x0301, "0164060174010200");
    let blamed = |setup| ToDevice::Setup(DeviceSetup { blamed: true, ..setup });
    golden(&blamed(blk(&[])), 0x0301, "01640001000173018002010100020101");
    golden(&blamed(rng()), 0x0301, "01640101020101");
    let with_keep = DeviceSetup { blamed: true, keep: true, ..rng() };
    golden(&ToDevice::Setup(with_keep), 0x0301, "01640102020101030101");
    let rates = Rates { bandwidth: Some(Rate { per_second: 300, burst: 2 }), operations: Some(Rate::of(20)) };
    let limited = DeviceSetup { rates, ..rng() };
    golden(&ToDevice::Setup(limited), 0x0301, "016401020404fb2c010205021402");
    golden(&ToDevice::Keep, 0x0304, "00");
    golden(&FromDevice::Keeps, 0x0404, "00");
    golden(&ToDevice::Set(Setting::Mem(300)), 0x0305, "04fb2c0100");
    golden(&ToDevice::Set(Setting::Balloon(300)), 0x0305, "00fb2c0100");
    golden(&ToDevice::Set(Setting::Disk(None)), 0x0305, "010000");
    golden(&ToDevice::Set(Setting::Disk(Some(1 << 33))), 0x0305, "0101fd000000000200000000");
    let size = Setting::Console(ConsoleSize { columns: 80, rows: 24 });
    golden(&ToDevice::Set(size), 0x0305, "02501800");
    golden(&ToDevice::Set(Setting::Link(true)), 0x0305, "030100");
    golden(&FromDevice::Set(SetOutcome::set()), 0x0406, "0000");
    golden(&FromDevice::Set(SetOutcome::refused("n\no")), 0x0406, "036e206f00");
    assert!(SetOutcome::refused("").refused.is_some_and(|why| !why.is_empty()));
    golden(&ToDevice::Statistics, 0x0306, "00");
    let told = Statistics::Told(vec![Statistic { tag: 4, value: 300 }]);
    golden(&FromDevice::Statistics(told), 0x0407, "000104fb2c0100");
    golden(&FromDevice::Statistics(Statistics::refused("n\no")), 0x0407, "01036e206f00");
    assert_eq!((ToDevice::Keep.fds(), FromDevice::Keeps.fds()), (1, 0));
    golden(&ToDevice::Query, 0x0302, "00");
    golden(&ToDevice::Stop, 0x0303, "00");
    golden(&FromDevice::Ready(Ready::default()), 0x0401, "000000");
    golden(&FromDevice::Failed(Failure::new(FailureKind::Resource, "no")), 0x0402, "08026e6f00");
    golden(&FromDevice::Counters(Counters::default()), 0x0403, "0000");
    golden(&FromDevice::Violation(violation()), 0x0405, VIOLATION);
}

/// What [`violation`] is on the wire: all numbers in their full length.
const VIOLATION: &str = concat!(
    "29000000",
    "0100000000000000",
    "ffffffffffffffff",
    "0000000000000000",
    "0300000000000000",
    "0400000000000000",
    "0807060504030201",
    "00"
);

fn violation() -> Violation {
    Violation { call: 41, arguments: [1, u64::MAX, 0, 3, 4, 0x0102_0304_0506_0708] }
}

#[test]
fn what_a_handler_puts_into_the_frame_of_a_violation_is_that_violation() {
    let filled = |frame: ViolationFrame| {
        let Violation { call, arguments } = violation();
        let arguments = arguments.map(u64::to_le_bytes).concat();
        let packet = [frame.before, call.to_le_bytes().to_vec(), arguments, frame.after].concat();
        let (header, body) = frame::Header::parse(&packet).unwrap();
        (header, body.to_vec())
    };
    let (header, body) = filled(ViolationFrame::of_device().unwrap());
    assert_eq!((header.minor, header.descriptors), (frame::MINOR, 0));
    assert_eq!(FromDevice::decode(header.kind, &body).unwrap(), FromDevice::Violation(violation()));
    let (header, body) = filled(ViolationFrame::of_core().unwrap());
    assert_eq!((header.minor, header.descriptors), (frame::MINOR, 0));
    assert_eq!(FromCore::decode(header.kind, &body).unwrap(), FromCore::Violation(violation()));
}

#[test]
fn a_violation_may_be_said_at_any_time() {
    for phase in [Phase::HandOver, Phase::Serving] {
        assert!(FromDevice::Violation(violation()).allowed(phase));
        assert!(FromCore::Violation(violation()).allowed(phase));
    }
}

#[test]
fn control_client_to_launcher_and_back() {
    golden(&ToLauncher::Devices, 0x0701, "00");
    let replace = |program| ToLauncher::Replace(ReplaceDevice { device: "blk0".into(), program });
    golden(&replace(false), 0x0702, "04626c6b300000");
    golden(&replace(true), 0x0702, "04626c6b300100");
    assert_eq!((replace(false).fds(), replace(true).fds()), (0, 1));
    let set = SetDevice { device: "blk0".into(), setting: Setting::Balloon(300) };
    golden(&ToLauncher::Set(set), 0x0703, "04626c6b3000fb2c0100");
    golden(&FromLauncher::Set, 0x0804, "00");
    let set = SetDevice { device: "blk0".into(), setting: Setting::Disk(Some(512)) };
    golden(&ToLauncher::Set(set), 0x0703, "04626c6b300101fb000200");
    let status = DeviceStatus {
        name: "blk0".into(),
        state: "serving".into(),
        pid: 300,
        deaths: 2,
        restarts: 1,
        longest_pause_ms: 9,
        balloon: None,
    };
    let devices = FromLauncher::Devices(vec![status.clone()]);
    golden(&devices, 0x0801, "0104626c6b300773657276696e67fb580202010900");
    let balloon = DeviceStatus { balloon: Some(BalloonAmount { target: 300, actual: 7 }), ..status.clone() };
    golden(
        &FromLauncher::Devices(vec![status, balloon]),
        0x0801,
        "0204626c6b300773657276696e67fb580202010904626c6b300773657276696e67fb58020201090101060101fb2c0107",
    );
    golden(&ToLauncher::Statistics(AskDevice { device: "blk0".into() }), 0x0704, "04626c6b3000");
    let told = vec![Statistic { tag: 300, value: 5 }];
    golden(&FromLauncher::Statistics(told), 0x0805, "01fb2c010500");
    golden(&FromLauncher::Replaced(Replaced { pid: 300, within_ms: 5 }), 0x0802, "fb58020500");
    golden(&FromLauncher::Failed(Failure::new(FailureKind::Device, "no")), 0x0803, "07026e6f00");
    golden(&ToLauncher::Processes, 0x0705, "00");
    let bytes = "0104626c6b300a6465766963652d626c6b0773657276696e67fb5802010700";
    golden(&FromLauncher::Processes(vec![process()]), 0x0806, bytes);
}

fn process() -> ProcessStatus {
    ProcessStatus {
        name: "blk0".into(),
        program: "device-blk".into(),
        state: "serving".into(),
        pid: 300,
        ready: true,
        landlock_abi: 7,
    }
}

/// What a program of one minor version less sends: the optional deadline is not there.
#[test]
fn an_older_peer_is_understood() {
    let body = [1, 4, b'b', b'l', b'k', b'0', 2, 2, 0xfb, 0, 1, 0];
    let ToCore::Attach(understood) = ToCore::decode(0x0102, &body).unwrap() else { panic!("not Attach") };
    assert_eq!(understood, AttachDevice { deadline_ms: limits::DEFAULT_DEADLINE_MS, ..attach() });
}

/// What a program of one minor version more sends: one more optional field, and bytes behind the fields.
#[test]
fn a_newer_peer_is_understood() {
    let mut body = ToCore::Attach(attach()).encode().unwrap();
    let count = body.len() - 6;
    assert_eq!(body[count], 1, "one optional field");
    body[count] = 2;
    body.extend_from_slice(&[0x63, 2, 0xaa, 0xbb]);
    body.extend_from_slice(b"what comes later");
    assert_eq!(ToCore::decode(0x0102, &body).unwrap(), ToCore::Attach(attach()));
    assert!(matches!(ToCore::decode(0x0199, &body), Err(Error::Kind { kind: 0x0199 })));
}

/// What a program of one minor version more sends: a type of device that is not known here.
#[test]
fn a_device_of_an_unknown_type_is_refused() {
    let body = [1, b'd', 0xfa, 0];
    assert!(matches!(ToDevice::decode(0x0301, &body), Err(Error::Body { .. })));
}

#[test]
fn every_truncation_of_a_body_is_refused() {
    for (kind, body) in [
        (0x0101, ToCore::Setup(setup()).encode().unwrap()),
        (0x0102, ToCore::Attach(attach()).encode().unwrap()),
    ] {
        for length in 0..body.len() {
            let refused = ToCore::decode(kind, &body[..length]);
            assert!(matches!(refused, Err(Error::Body { .. })), "{kind:#x} {length}: {refused:?}");
        }
    }
}

#[test]
fn values_beyond_their_limits_are_neither_sent_nor_received() {
    let bad: Vec<ToCore> = vec![
        ToCore::Setup(CoreSetup { cpus: 0, ..setup() }),
        ToCore::Setup(CoreSetup { cpus: 33, ..setup() }),
        ToCore::Setup(CoreSetup { memory: vec![], ..setup() }),
        ToCore::Setup(CoreSetup { command_line: "x".repeat(2048), ..setup() }),
        ToCore::Attach(AttachDevice { slot: 0, ..attach() }),
        ToCore::Reconnect(Reconnect { slot: 0 }),
        ToCore::Abandon(Abandon { slot: 32 }),
        ToCore::Replace(Replace { slot: 32 }),
        ToCore::Attach(AttachDevice { slot: 32, ..attach() }),
        ToCore::Attach(AttachDevice { name: "a b".into(), ..attach() }),
        ToCore::Attach(AttachDevice { name: String::new(), ..attach() }),
        ToCore::Attach(AttachDevice { queue_size: 100, ..attach() }),
        ToCore::Attach(AttachDevice { queues: 65, ..attach() }),
        ToCore::Attach(AttachDevice { deadline_ms: 0, ..attach() }),
    ];
    for message in bad {
        assert!(matches!(message.encode(), Err(Error::Limit { .. })), "{message:?}");
    }
    // 33 vCPUs as a peer would write them.
    let body = [1, 0, 0xfc, 0, 0, 0, 8, 33, 0, 0, 0, 0];
    assert!(matches!(ToCore::decode(0x0101, &body), Err(Error::Limit { value: 33, .. })));
}

#[test]
fn settings_and_networks_beyond_their_limits_are_refused() {
    for mtu in [0, 67, 65522] {
        assert!(matches!(ToDevice::Setup(net(Some(mtu))).encode(), Err(Error::Limit { .. })), "{mtu}");
    }
    for wrong in [
        stream(None, 1, false),
        stream(Some(67), 1, false),
        stream(Some(32747), 1, false),
        stream(Some(1500), 2, false),
        stream(Some(1500), 1, true),
    ] {
        assert!(matches!(ToDevice::Setup(wrong.clone()).encode(), Err(Error::Limit { .. })), "{wrong:?}");
    }
    assert!(ToDevice::Setup(stream(Some(32746), 1, false)).encode().is_ok());
    for backing in [&[DiskFormat::Raw, DiskFormat::Qcow2][..], &[DiskFormat::Qcow2; 9]] {
        assert!(matches!(ToDevice::Setup(blk(backing)).encode(), Err(Error::Limit { .. })), "{backing:?}");
    }
    assert!(matches!(ToDevice::Setup(balloon(u64::MAX)).encode(), Err(Error::Limit { .. })));
    for setting in [Setting::Balloon(u64::MAX), Setting::Disk(Some(511)), Setting::Disk(Some(u64::MAX))] {
        assert!(matches!(ToDevice::Set(setting).encode(), Err(Error::Limit { .. })));
    }
    for wrong in
        [ToDevice::More(0), ToDevice::More(17), ToDevice::Setup(pairs(0)), ToDevice::Setup(pairs(17))]
    {
        assert!(matches!(wrong.encode(), Err(Error::Limit { .. })), "{wrong:?}");
    }
    let wrong = Setting::Console(ConsoleSize { columns: 80, rows: 10000 });
    assert!(matches!(ToDevice::Set(wrong).encode(), Err(Error::Limit { .. })));
}

#[test]
fn devices_beyond_their_limits_are_refused() {
    for setup in [console(Some((0, 24)), None), console(Some((80, 10000)), None), console(None, Some(0))] {
        assert!(matches!(ToDevice::Setup(setup).encode(), Err(Error::Limit { .. })));
    }
    let long = "x".repeat(65);
    let wrong: [&[(&str, bool)]; 5] = [
        &[("", false)],
        &[("a", true), ("b", true)],
        &[("a/b", false)],
        &[(&long, false)],
        &[("a", false); 9],
    ];
    for ports in wrong.map(ports) {
        assert!(matches!(ToDevice::Setup(ports).encode(), Err(Error::Limit { .. })));
    }
    for (cid, name) in [(2, ""), (u32::MAX, ""), (3, "a/b"), (3, "a\0"), (3, &"x".repeat(96))] {
        let sent = ToDevice::Setup(vsock(cid, name)).encode();
        assert!(matches!(sent, Err(Error::Limit { .. })), "{cid} {name}");
    }
    for (guest_phys, size) in
        [(20 << 30, 0), (20 << 30, 4096), (0, 2 << 20), (4096, 2 << 20), (u64::MAX - (2 << 20) + 1, 2 << 20)]
    {
        let options = PmemOptions { region: MemoryRegion { guest_phys, size }, ..pmem() };
        let attach = ToCore::Attach(AttachDevice { pmem: Some(options), ..attach() });
        assert!(matches!(attach.encode(), Err(Error::Limit { .. })), "{guest_phys:#x} {size:#x}");
        assert!(matches!(pmem_device(options).encode(), Err(Error::Limit { .. })));
    }
    for (tag, queues) in [("", 1), (&"x".repeat(37), 1), ("a\0", 1), ("t", 0), ("t", 64)] {
        let refused = ToDevice::Setup(file_system(tag, queues)).encode();
        assert!(matches!(refused, Err(Error::Limit { .. })), "{tag:?} {queues}");
    }
}

#[test]
fn processes_are_as_many_as_fit_into_a_frame() {
    for processes in [
        vec![],
        vec![process(); limits::MAX_PROCESSES + 1],
        vec![ProcessStatus { program: "a b".into(), ..process() }],
        vec![ProcessStatus { state: "x".repeat(33), ..process() }],
    ] {
        assert!(matches!(FromLauncher::Processes(processes).encode(), Err(Error::Limit { .. })));
    }
    let longest = ProcessStatus {
        name: "x".repeat(limits::MAX_NAME),
        program: "x".repeat(limits::MAX_NAME),
        state: "x".repeat(limits::MAX_NAME),
        pid: i32::MIN,
        ..process()
    };
    let most = FromLauncher::Processes(vec![longest; limits::MAX_PROCESSES]).encode().unwrap();
    assert!(most.len() + frame::HEADER <= limits::MAX_FRAME, "{}", most.len());
}
