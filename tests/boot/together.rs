//! One guest that uses every kind of device at once.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use protocol::tap;
use system_tests::echo::{Echo, Listener};
use system_tests::network::{again_inside, ip, is_inside};
use system_tests::{Disk, Ended, Machine, Result, Running, progress, sockets, warnings, within};

use crate::balloon::{MEBIBYTE, SLACK, held, set};
use crate::person::Person;

/// What goes over the network in each direction in a run that has to be short, in MiB; `VMM_MEBIBYTES` says otherwise.
const MEBIBYTES: u64 = 64;
/// Sockets at once, each way.
const MANY: usize = 200;
/// After so many bytes that came back it is said how many there are.
const STEP: usize = 16 << 20;
/// Half of the guest's memory.
const HALF: u64 = 512 * MEBIBYTE;
/// The largest frame without segmentation left to others.
const FRAME: u64 = 1514;

/// Goes on until so many bytes have come back.
fn moved(echo: &Echo, bytes: u64) -> Result<()> {
    for step in (0..=bytes).step_by(STEP) {
        within("bytes that come back", || (echo.came_back() >= step).then_some(()))?;
        progress(&format!("{step} bytes came back"));
    }
    Ok(())
}

/// What whoever is logged in does with the machine meanwhile.
fn use_it(running: &Running, socket: &Path, person: &mut Person, echo: &Echo, bytes: u64) -> Result<()> {
    person.sees(running, "login: ")?;
    person.types("root");
    person.sees(running, "# ")?;
    person.types("echo answer $((6 * 7)) from $(tty) to $USER");
    person.sees(running, "answer 42 from /dev/hvc0 to root")?;
    moved(echo, bytes / 4)?;
    let before = held(running);
    assert!(before > HALF, "{before}");
    set(socket, "512M")?;
    within("half of the memory", || {
        (held(running) < before.saturating_sub(HALF).saturating_add(SLACK)).then_some(())
    })?;
    moved(echo, bytes / 2)?;
    set(socket, "0")?;
    person.types("until [ $(sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo) -ge 900000 ]; do sleep 1; done; head -c 629145600 /dev/zero > /tmp/again; rm /tmp/again; echo had it $((1 + 1)) times");
    person.sees(running, "had it 2 times")?;
    assert!(held(running) > HALF, "{}", held(running));
    moved(echo, bytes)?;
    person.types("exit");
    Ok(())
}

/// What each of the devices did.
fn judge(ended: &Ended, disk: &Disk, bytes: u64) -> Result<()> {
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    for (word, what) in [("mounted", "0"), ("pings", "5"), ("echo-ended", "0")] {
        assert_eq!(ended.said(word)?, what, "{}", ended.everything());
    }
    let said = ended.said("disk0")?;
    assert!(said.starts_with(&format!("digest={} ", disk.digest(0)?)), "{said}");
    let nothing = "failed=0 torn=0 misplaced=0 lost=0 repeated=0 reordered=0 invented=0";
    assert!(said.ends_with(nothing), "{}", ended.everything());
    assert!(ended.said("entropy")?.ends_with("failed=0 repeated=0"), "{}", ended.everything());
    let tree = ended.said("tree")?;
    assert!(tree.starts_with("operations=1500") && tree.ends_with("wrong=0"), "{}", ended.everything());
    assert_eq!(ended.said("reached")?, format!("connections={MANY} rounds=20 wrong=0"));
    assert_eq!(ended.everything().matches("@@ended ").count(), MANY, "{}", ended.everything());
    let (flushed, failed) = ended.said("flushed-and-failed")?.split_once(' ').expect("two numbers");
    assert!(flushed.parse::<u64>().is_ok_and(|it| it > 20) && failed == "0", "{flushed} {failed}");
    for way in ["rx", "tx"] {
        let count = |what: &str| -> Result<u64> {
            Ok(ended.said(&format!("{way}_{what}"))?.parse().expect("a number"))
        };
        assert!(count("bytes")? > bytes, "{}", ended.everything());
        assert_eq!(count("errors")?, 0, "{}", ended.everything());
        assert!(count("bytes")? > count("packets")?.saturating_mul(FRAME), "{way}: {}", ended.everything());
    }
    Ok(())
}

#[test]
fn a_stock_guest_uses_all_kinds_of_devices_at_once() -> Result<()> {
    if !is_inside() {
        return again_inside("together::a_stock_guest_uses_all_kinds_of_devices_at_once");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let (shared, control, console) = (path("shared"), path("control"), path("console"));
    std::fs::create_dir(&shared).expect("a folder");
    // Where the host's file system maps no owners (tmpfs before Linux 6.3), root's programs are strangers.
    for folder in [folder.path(), &shared] {
        std::fs::set_permissions(folder, PermissionsExt::from_mode(0o777)).expect("its owner");
    }
    let mebibytes = std::env::var("VMM_MEBIBYTES").map_or(MEBIBYTES, |it| it.parse().expect("a number"));
    let bytes = mebibytes * MEBIBYTE;
    let socket = path("vm");
    let served = sockets::echo(sockets::listen(&socket, 5000)?, MANY);
    let persons = UnixListener::bind(&console).expect("a socket");
    let echoes = Listener::new()?;
    let (disk, persistent) = (Disk::empty(MEBIBYTE)?, Disk::empty(4 * MEBIBYTE)?);
    let running = Machine::new("together")
        .option("cpus", "2")
        .option("memory", "1G")
        .option("control-socket", control.to_str().expect("text"))
        .disk(disk.path(), ",queues=2")
        .option("device", "net,tap=made0")
        .option("device", &format!("console,connect={}", console.display()))
        .option("device", "rng")
        .option("device", "balloon,deflate-on-oom=off")
        .option("device", &format!("fs,path={},tag=shared", shared.display()))
        .option("device", &format!("pmem,path={}", persistent.path().display()))
        .option("device", &format!("vsock,cid=42,path={}", socket.display()))
        .start()?;
    within("the interface that vmm makes", || tap::is_there("made0").then_some(()))?;
    ip("address add 10.9.0.1/24 dev made0")?;
    let mut person = Person::at(&persons).expect("vmm connects");
    running.wait_for("all-at-work")?;
    let echo = echoes.accept()?;
    let sent = std::thread::scope(|scope| {
        let stream = scope.spawn(|| echo.compare(|sent| sent >= bytes));
        let used = sockets::converse(&socket, MANY)
            .and_then(|()| use_it(&running, &control, &mut person, &echo, bytes));
        let sent = stream.join().expect("no panic");
        used.and(sent)
    });
    let sent =
        sent.inspect_err(|_| println!("{}\n{}\n{}", running.console(), running.log(), person.screen.text()))?;
    let ended = running.wait()?;
    judge(&ended, &disk, bytes)?;
    assert!(served.join().expect("an end").expect("a number") > 0);
    println!("measured: {sent} bytes there and back; {}; {}", ended.said("entropy")?, ended.said("disk0")?);
    warnings::none_of_ours(&ended)
}
