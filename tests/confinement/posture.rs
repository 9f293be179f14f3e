//! Each live process compared with its written expectation while a guest runs.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::tap;
use sandbox_policies::posture::{self, Credentials, Posture};
use system_tests::network::{again_inside, is_inside};
use system_tests::{Result, Running, within};

use crate::driver::DONE;
use crate::expectations::{
    CORE, DEVICE_BALLOON, DEVICE_BLK, DEVICE_BLK_QCOW2, DEVICE_CONSOLE, DEVICE_CONSOLE_OF_TWO_PORTS,
    DEVICE_FS, DEVICE_MEM, DEVICE_NET, DEVICE_NET_ON_A_STREAM, DEVICE_PMEM, DEVICE_RNG, DEVICE_VSOCK,
    DIRECTORY_MOUNT, Expectation, IDS, KERNEL_THREAD, LAUNCHER, MOUNT, NAMESPACES, SPAWNER,
    SPAWNER_CAPABILITIES, UMASK,
};
use crate::guest::Guest;
use crate::house::{House, ORDINARY, Who};
use crate::image_file::Shape;
use crate::moments::{Step, Victim, confinement, program_among, spawner};

/// What is compared: what it is, what was found, what was wanted.
#[derive(Default)]
struct Comparison(Vec<String>);

impl Comparison {
    fn same<T: PartialEq + Debug>(&mut self, what: &str, found: T, wanted: T) {
        if found != wanted {
            self.0.push(format!("{what}: found {found:?}, wanted {wanted:?}"));
        }
    }
}

/// Who a process of the machine must be.
#[derive(Clone)]
struct Identity {
    user: u32,
    group: u32,
    groups: Vec<u32>,
    /// Its capability sets: inheritable, permitted, effective, bounding, ambient.
    capabilities: [u64; 5],
}

#[test]
fn each_process_is_confined_as_written() -> Result<()> {
    compare_all(Who::Caller)
}

#[test]
fn each_process_of_an_ordinary_users_machine_is_confined_as_written() -> Result<()> {
    compare_all(Who::OrdinaryUser)
}

fn compare_all(who: Who) -> Result<()> {
    let house = House::new(who)?;
    let running = house.start(Guest::Drives, None)?;
    running.wait_for(DONE)?;
    let reported =
        running.wait_for_log("the line on confinement", |log| confinement(log).map(str::to_owned))?;
    let programs = [(Victim::Launcher, &LAUNCHER, None), (Victim::Core, &CORE, Some(0))];
    let programs = programs.into_iter().chain([(Victim::Device, &DEVICE_BLK, Some(1))]);
    let mut different = Vec::new();
    for (program, expectation, index) in programs {
        let pid = program.at(Step::Confined, &running)?;
        let posture = posture::read(pid).expect("a live process");
        println!("{posture}");
        let identity = identity(&house, &running, index);
        let found = compare(&posture, expectation, &identity, &house);
        different.extend(found.0.into_iter().map(|line| format!("{program:?}: {line}")));
    }
    let spawner = posture::read(spawner(&running)).expect("a live process");
    let found = compare(&spawner, &SPAWNER, &of_spawner(&house, &running), &house);
    different.extend(found.0.into_iter().map(|line| format!("spawner: {line}")));
    assert!(different.is_empty(), "{}", different.join("\n"));
    for word in ["vmm-core", "device-blk", "landlock ABI", "seccomp"] {
        assert!(reported.contains(word), "{reported}");
    }
    drop(running);
    house.check_left()
}

#[test]
fn the_process_of_a_generator_is_confined_as_written() -> Result<()> {
    compare_beside("rng", "device-rng", &DEVICE_RNG)
}

#[test]
fn the_process_of_a_qcow2_image_is_confined_as_written() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).expect("a mode for what is ours");
    let image = folder.path().join("disk.qcow2");
    let shape = Shape { cluster_bits: 16, refcount_order: 4, size: 1 << 20 };
    std::fs::write(&image, shape.empty()).expect("an image");
    std::fs::set_permissions(&image, Permissions::from_mode(0o666)).expect("a mode for what is ours");
    let path: &'static str = image.display().to_string().leak();
    let others = [DEVICE_BLK_QCOW2.others, &[(path, 1)]].concat();
    let expectation = Expectation { others: others.leak(), ..DEVICE_BLK_QCOW2 };
    let device = format!("blk,path={},format=qcow2", image.display());
    compare_beside(&device, "device-blk-qcow2", &expectation)
}

#[test]
fn the_process_of_a_balloon_is_confined_as_written() -> Result<()> {
    compare_beside("balloon", "device-balloon", &DEVICE_BALLOON)
}

#[test]
fn the_process_of_memory_to_be_plugged_in_is_confined_as_written() -> Result<()> {
    compare_beside("mem,size=64M", "device-mem", &DEVICE_MEM)
}

#[test]
fn the_process_of_a_console_is_confined_as_written() -> Result<()> {
    compare_beside("console,pty=on", "device-console", &DEVICE_CONSOLE)
}

#[test]
fn the_process_of_a_console_of_two_ports_is_confined_as_written() -> Result<()> {
    compare_beside("console,pty=on,port.agent=pty", "device-console", &DEVICE_CONSOLE_OF_TWO_PORTS)
}

/// And the core maps the file, with the guest's rights, and does not have it open.
#[test]
fn the_process_of_persistent_memory_is_confined_as_written_and_the_core_has_a_mapping_alone() -> Result<()> {
    for (options, rights) in [("", "rw-s"), (",readonly=on", "r--s")] {
        let house = House::new(Who::OrdinaryUser)?;
        let device = format!("pmem,path={}{options}", house.memory().display());
        let running = house.start_beside(Guest::Halts, None, "", &[&device])?;
        running.wait_for_log("the line on confinement", |log| confinement(log).map(drop))?;
        compare_with_successor(&house, &running, "device-pmem", &DEVICE_PMEM)?;
        if nix::unistd::geteuid().is_root() {
            let core = program_among(running.pid(), "vmm-core").expect("a live process of it");
            let path = house.memory().display().to_string();
            let open = posture::read(core).expect("a live process").descriptors.expect("readable by root");
            assert!(open.iter().all(|(_, kind)| *kind != path), "{open:?}");
            let maps = std::fs::read_to_string(format!("/proc/{core}/maps")).expect("readable by root");
            let ours: Vec<&str> = maps.lines().filter(|line| line.ends_with(&path)).collect();
            assert!(matches!(&ours[..], [line] if line.contains(rights)), "{ours:?}");
        }
        drop(running);
        house.check_left()?;
    }
    Ok(())
}

#[test]
fn the_process_of_a_directory_is_confined_as_written() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::chown(folder.path(), Some(ORDINARY), Some(ORDINARY)).ok();
    compare_beside(&format!("fs,path={},tag=t", folder.path().display()), "device-fs", &DEVICE_FS)
}

#[test]
fn the_process_of_a_vsock_is_confined_as_written() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::chown(folder.path(), Some(ORDINARY), Some(ORDINARY)).ok();
    let path = folder.path().join("vm");
    let device = format!("vsock,cid=42,path={}", path.display());
    compare_beside(&device, "device-vsock", &DEVICE_VSOCK)
}

/// Root's spawner has kept the capabilities to make this device again and to take its name away at the end, and no others.
#[test]
fn in_the_folder_of_another_user_the_socket_of_roots_vsock_is_served_again_and_removed() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("not root: nobody else may make a socket in the folder of another");
        return Ok(());
    }
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).expect("ours");
    std::os::unix::fs::chown(folder.path(), Some(ORDINARY), Some(ORDINARY)).expect("we are root");
    let house = House::new(Who::Caller)?;
    let path = folder.path().join("vm");
    let device = format!("vsock,cid=42,path={}", path.display());
    let running = house.start_beside(Guest::Halts, None, "", &[&device])?;
    running.wait_for_log("the line on confinement", |log| confinement(log).map(drop))?;
    let spawner = posture::read(spawner(&running)).expect("a live process");
    let bounding = spawner.threads[0].capabilities[3];
    // And CAP_DAC_OVERRIDE for the folder, CAP_SYS_ADMIN for the mount.
    let kept = (SPAWNER_CAPABILITIES | 1 << 1 | 1 << 21) & bounding;
    assert_eq!(spawner.threads[0].capabilities, [0, kept, kept, bounding, 0]);
    compare_with_successor(&house, &running, "device-vsock", &DEVICE_VSOCK)?;
    assert!(path.exists());
    // Not dropped: with a launcher that is killed the spawner dies at once.
    running.signal(Signal::SIGQUIT)?;
    running.wait()?;
    assert!(!path.exists());
    house.check_left()
}

/// The process of a second device, which its guest does not drive, and its successor's.
fn compare_beside(device: &str, program: &str, expectation: &Expectation) -> Result<()> {
    let house = House::new(Who::OrdinaryUser)?;
    let running = house.start_beside(Guest::Halts, None, "", &[device])?;
    running.wait_for_log("the line on confinement", |log| confinement(log).map(drop))?;
    compare_with_successor(&house, &running, program, expectation)?;
    drop(running);
    house.check_left()
}

/// Compares the process that runs `program`, kills it, and compares the one that the spawner starts in its place.
fn compare_with_successor(
    house: &House,
    running: &Running,
    program: &str,
    expectation: &Expectation,
) -> Result<()> {
    let find = || program_among(running.pid(), program);
    let identity = identity(house, running, Some(2));
    let check = |pid: i32, expected: &Expectation| {
        let posture = posture::read(pid).expect("a live process");
        let different = compare(&posture, expected, &identity, house).0;
        assert!(different.is_empty(), "{}", different.join("\n"));
    };
    let first = find().expect("a live process of it");
    check(first, expectation);
    kill(Pid::from_raw(first), Signal::SIGKILL).expect("it lives");
    running.wait_for_log("a successor", |log| log.contains(" serves again").then_some(()))?;
    // And the spawner's filter.
    check(find().expect("its successor"), &Expectation { filters: expectation.filters + 1, ..*expectation });
    Ok(())
}

#[test]
fn the_process_of_a_network_and_its_successor_are_confined_as_written() -> Result<()> {
    // Also outside: nothing else of ours may run meanwhile.
    let house = House::new(Who::Caller)?;
    if !is_inside() {
        return again_inside("posture::the_process_of_a_network_and_its_successor_are_confined_as_written");
    }
    let running = house.start_beside(Guest::Halts, None, "", &["net,tap=made0,mtu=1400"])?;
    running.wait_for_log("the line on confinement", |log| confinement(log).map(drop))?;
    assert!(tap::is_there("made0"));
    compare_with_successor(&house, &running, "device-net", &DEVICE_NET)?;
    // Only the device and the spawner have the tap: the launcher, which opened it, does not keep it.
    let launcher = posture::read(running.pid()).expect("a live process");
    let kept = launcher.descriptors.expect("readable by root");
    assert!(kept.iter().all(|(_, kind)| kind != "/dev/net/tun"), "{kept:?}");
    drop(running);
    house.check_left()?;
    within("the end of the interface", || (!tap::is_there("made0")).then_some(()))
}

#[test]
fn the_process_of_a_network_on_a_stream_is_confined_as_written() -> Result<()> {
    let house = House::new(Who::Caller)?;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("stream");
    let listener = UnixListener::bind(&path).expect("a socket");
    let device = format!("net,stream={}", path.display());
    let running = house.start_beside(Guest::Halts, None, "", &[&device])?;
    running.wait_for_log("the line on confinement", |log| confinement(log).map(drop))?;
    let identity = identity(&house, &running, Some(2));
    let find = || program_among(running.pid(), "device-net");
    let check = |expected: &Expectation| {
        let posture = posture::read(find().expect("a live device-net")).expect("a live process");
        let different = compare(&posture, expected, &identity, &house).0;
        assert!(different.is_empty(), "{}", different.join("\n"));
    };
    check(&DEVICE_NET_ON_A_STREAM);
    kill(Pid::from_raw(find().expect("it lives")), Signal::SIGKILL).expect("it lives");
    running.wait_for_log("a successor", |log| log.contains("vmm: device net0 serves again").then_some(()))?;
    check(&Expectation { filters: DEVICE_NET.filters + 1, ..DEVICE_NET_ON_A_STREAM });
    // Its peer has met one connection, which is the successor's now.
    let (_peer, _) = listener.accept().expect("a connection");
    listener.set_nonblocking(true).expect("a socket");
    assert!(listener.accept().is_err(), "and no other");
    drop(running);
    house.check_left()
}

/// Of the launcher, or of its program number `index`.
fn identity(house: &House, running: &Running, index: Option<u32>) -> Identity {
    let own = own();
    let given = &own.threads[0];
    let changed = house.user() != given.uids[1];
    let groups = if changed { Vec::new() } else { given.groups.clone() };
    let (user, group) = if changed { (house.user(), house.user()) } else { (given.uids[1], given.gids[1]) };
    // Only root can shrink its bounding set; without a new privilege to be had it bounds nothing.
    let bounding = if user == 0 { 0 } else { given.capabilities[3] };
    match index {
        None => Identity { user, group, groups, capabilities: [0, 0, 0, bounding, 0] },
        Some(index) if user == 0 && has_all_ids() => {
            let (first, each) = IDS;
            let launcher = u32::try_from(running.pid()).expect("a process id");
            let id = first | ((launcher & 0xFFFF) * each + index);
            Identity { user: id, group: id, groups: Vec::new(), capabilities: [0; 5] }
        }
        Some(_) if user == 0 => Identity { user, group, groups: Vec::new(), capabilities: [0; 5] },
        Some(_) => Identity { user, group, groups, capabilities: [0; 5] },
    }
}

/// Of the spawner: its launcher's rights, less what its work does not take, and the bounding set that it was started with.
fn of_spawner(house: &House, running: &Running) -> Identity {
    let launcher = identity(house, running, None);
    let bounding = own().threads[0].capabilities[3];
    let kept = if launcher.user == 0 { SPAWNER_CAPABILITIES & bounding } else { 0 };
    Identity { capabilities: [0, kept, kept, bounding, 0], ..launcher }
}

/// Whether we are in the host's own user namespace, or one as wide.
fn has_all_ids() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").expect("our own id map");
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn own() -> Posture {
    posture::read(i32::try_from(std::process::id()).expect("a process id")).expect("ourselves")
}

fn compare(posture: &Posture, expected: &Expectation, identity: &Identity, house: &House) -> Comparison {
    let mut all = Comparison::default();
    let names = posture.threads.iter().map(|thread| thread.name.as_str());
    let mut names: Vec<&str> = names.filter(|name| *name != KERNEL_THREAD).collect();
    names.sort_unstable();
    all.same("threads", names.as_slice(), expected.threads);
    for thread in &posture.threads {
        compare_thread(&mut all, thread, expected, identity);
    }
    let own = own();
    for (name, limit) in expected.limits {
        let limit = own.limits.get(*name).and_then(|(_, hard)| *hard).map_or(*limit, |hard| hard.min(*limit));
        let found = posture.limits.get(*name).copied();
        all.same(&format!("limit {name}"), found, Some((Some(limit), Some(limit))));
    }
    // To anybody but root a process that is not dumpable shows none of these.
    if own.threads[0].uids[1] == 0 {
        compare_for_root(&mut all, posture, expected, house);
    }
    all
}

fn compare_thread(all: &mut Comparison, thread: &Credentials, expected: &Expectation, identity: &Identity) {
    let mut same = |what: &str, equal: bool| all.same(&format!("{what} of {thread:?}"), equal, true);
    same("user", thread.uids == [identity.user; 4]);
    same("group", thread.gids == [identity.group; 4]);
    same("supplementary groups", thread.groups == identity.groups);
    same("capabilities", thread.capabilities == identity.capabilities);
    same("no_new_privs", thread.no_new_privs);
    let ([blocked, ignored, handled], [to_block, to_ignore, to_handle]) = (thread.signals, expected.signals);
    // What the launcher ignores besides is what its user does, as by nohup(1).
    let ignored = if expected.apart { ignored } else { ignored & to_ignore };
    let known = (blocked, ignored, handled) == (to_block, to_ignore, to_handle);
    same("signals", thread.name == KERNEL_THREAD || known);
    same("seccomp", (thread.seccomp, thread.filters) == (2, expected.filters));
    if expected.apart {
        same("umask", thread.umask == UMASK);
        same("pid namespace", thread.ns_pids.len() == 2);
    }
}

fn compare_for_root(all: &mut Comparison, posture: &Posture, expected: &Expectation, house: &House) {
    let namespaces = posture.namespaces.as_ref().expect("readable by root");
    let different = namespaces.iter().filter(|(_, own)| **own).map(|(kind, _)| kind.as_str());
    let different: Vec<&str> = different.collect();
    all.same("namespaces", different.as_slice(), if expected.apart { &NAMESPACES } else { &[] });
    if expected.apart {
        let mounts = posture.mounts.iter().flatten().map(|mount| mount.trim_end_matches(",relatime"));
        let mounts: Vec<&str> = mounts.collect();
        if expected.directory {
            let words: Vec<&str> = mounts.iter().flat_map(|mount| mount.split([' ', ','])).collect();
            let missing: Vec<_> = DIRECTORY_MOUNT.iter().filter(|word| !words.contains(word)).collect();
            all.same("mounts, and missing options", (mounts.len(), missing), (1, Vec::new()));
        } else {
            all.same("mounts", mounts, vec![MOUNT]);
        }
        all.same("root entries", posture.root_entries, Some(expected.root_entries));
        all.same("environment", posture.environment, Some(0));
        all.same("working directory", posture.working_directory.as_deref(), Some("/"));
    }
    let descriptors = posture.descriptors.as_ref().expect("readable by root");
    let (mut placed, mut others) = (Vec::new(), BTreeMap::new());
    for (number, kind) in descriptors {
        if expected.placed.iter().any(|(fixed, _)| fixed == number) {
            placed.push((*number, kind.as_str()));
        } else if expected.apart || !is_inherited(*number) {
            let ours = [("DISK", house.disk()), ("MEMORY", house.memory())];
            let known =
                ours.iter().find(|(_, path)| *kind == path.display().to_string()).map(|(name, _)| *name);
            let known = known.or_else(|| kind.ends_with("/device-blk").then_some("PROGRAM"));
            *others.entry(known.unwrap_or(kind)).or_insert(0) += 1;
        }
    }
    all.same("placed descriptors", placed.as_slice(), expected.placed);
    all.same("other descriptors", others, expected.others.iter().copied().collect());
}

/// Whether this is a descriptor that whoever started the test left open for everything that it starts: the
/// launcher has it, too, and leaves it alone.
fn is_inherited(number: i32) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")) else { return false };
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).expect("as proc(5) says");
    let flags = i32::from_str_radix(flags.trim(), 8).expect("an octal number");
    !OFlag::from_bits_retain(flags).contains(OFlag::O_CLOEXEC)
}
