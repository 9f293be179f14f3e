//! One guest with every device of ours, all of them used at once.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use protocol::tap;
use system_tests::control::{held, told};
use system_tests::echo::Listener;
use system_tests::network::{again_inside, ip, is_inside};
use system_tests::sockets::{converse, echo, listen};
use system_tests::{Disk, Ended, Machine, Result, Running, warnings, within};

use crate::balloon::{MEBIBYTE, SLACK};
use system_tests::person::Person;

/// Through the guest's network and back, in a run that has to be short, in MiB; as many as `VMM_MEBIBYTES` says in another.
const MOVED: u64 = 16;
/// Connections over the vsock, each way.
const CONNECTIONS: usize = 200;
/// What the guest has, and is asked to give back.
const MEMORY: &str = "320M";
const HALF: u64 = 160 * MEBIBYTE;
/// What the guest has never used of its memory when it is asked, and so the host never gave: its kernel and programs have the
/// rest of what its job does not write to.
const UNTOUCHED: u64 = 80 * MEBIBYTE;

/// What somebody does who sits at the guest's console.
fn logs_in(person: &mut Person, running: &Running) -> Result<()> {
    person.sees(running, "login: ")?;
    person.types("root")?;
    person.sees(running, "Password: ")?;
    person.types("let me in")?;
    person.sees(running, "# ")?;
    person.types("echo answer $((6 * 7)) to $(id -un) from $(tty)")?;
    person.sees(running, "answer 42 to root from /dev/hvc0")
}

/// The guest sees that its cable is pulled and put back, and uses it again.
fn has_its_cable_pulled(running: &Running, control: &Path) -> Result<()> {
    running.wait_for("cable")?;
    told(control, &["link", "net0", "down"])?;
    running.wait_for("pulled")?;
    told(control, &["link", "net0", "up"])?;
    assert_eq!(running.wait_for("back")?, "2");
    Ok(())
}

/// The host's memory follows the guest's to a half and back.
fn gives_half_and_has_it_again(running: &mut Running, control: &Path) -> Result<()> {
    running.wait_for("used")?;
    let before = held(running)?;
    assert!(before > HALF, "{before}");
    let least = before.saturating_sub(HALF).saturating_add(UNTOUCHED);
    told(control, &["balloon", "balloon0", "160M"])?;
    within("half of the memory", || held(running).is_ok_and(|held| held < least).then_some(()))?;
    within("all that was asked for", || {
        told(control, &["devices"]).is_ok_and(|devices| devices.contains("160M of 160M")).then_some(())
    })?;
    running.type_line("given")?;
    let given: u64 = running.wait_for("given")?.parse().expect("a number of MiB");
    assert!(given.saturating_mul(MEBIBYTE) >= HALF.saturating_sub(SLACK), "{given}");
    told(control, &["balloon", "balloon0", "0"])?;
    running.type_line("again")?;
    running.wait_for("used-again")?;
    let again = held(running)?;
    assert!(again > HALF, "{again}");
    running.type_line("end")
}

/// What the guest said of its devices.
fn judge(ended: &Ended, moved: u64) -> Result<()> {
    let said = |word: &str| ended.said(word);
    assert_eq!((said("mounted")?, said("echo-ended")?), ("0", "0"), "{}", ended.everything());
    assert_eq!((said("storms")?, said("pings")?), ("0 0", "5"), "{}", ended.everything());
    let done = said("tree")?;
    assert!(done.starts_with("operations=500") && done.ends_with("wrong=0"), "{}", ended.everything());
    assert_eq!(said("reached")?, format!("connections={CONNECTIONS} rounds=20 wrong=0"));
    assert_eq!(said("read")?, format!("{} wrong=0", said("filled")?));
    let (generator, packed) = said("random")?.split_once(' ').expect("two words");
    // What is random does not get shorter: gzip's header and trailer come on top.
    assert!(
        generator == "virtio_rng.0" && packed.parse::<u64>().is_ok_and(|packed| packed > 16384),
        "{packed}"
    );
    for way in ["rx", "tx"] {
        let count = |what: &str| {
            said(&format!("{way}_{what}"))?
                .parse()
                .map_err(|_| system_tests::Error::Unexpected(format!("{way}_{what} is no number")))
        };
        let (bytes, packets, errors): (u64, u64, u64) =
            (count("bytes")?, count("packets")?, count("errors")?);
        assert!(bytes > moved && errors == 0, "{}", ended.everything());
        // Larger than what a cable takes: segmentation is left to the host.
        assert!(bytes.checked_div(packets).is_some_and(|mean| mean > 1514), "{way}: {}", ended.everything());
    }
    Ok(())
}

#[test]
fn a_stock_guest_uses_every_device_at_once() -> Result<()> {
    if !is_inside() {
        return again_inside("together::a_stock_guest_uses_every_device_at_once");
    }
    let mebibytes = std::env::var("VMM_MEBIBYTES").map_or(MOVED, |text| text.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    std::fs::create_dir(place("shared")).expect("a folder");
    // Where the host's file system maps no owners (tmpfs before Linux 6.3), root's programs are strangers.
    for open in [folder.path(), &place("shared")] {
        std::fs::set_permissions(open, PermissionsExt::from_mode(0o777)).expect("its owner");
    }
    let (written, persistent) = (Disk::empty(16 << 20)?, Disk::empty(16 << 20)?);
    let console = UnixListener::bind(place("console")).expect("a socket");
    let network = Listener::new()?;
    let served = echo(listen(&place("vm"), 5000)?, CONNECTIONS);
    let mut running = Machine::new("together")
        .option("cpus", "2")
        .option("memory", MEMORY)
        .option("control-socket", place("control").to_str().expect("text"))
        .disk(written.path(), "")
        .option("device", "net,tap=made0")
        .option("device", &format!("console,connect={}", place("console").display()))
        .option("device", "rng")
        .option("device", &format!("vsock,cid=42,path={}", place("vm").display()))
        .option("device", &format!("fs,path={},tag=shared", place("shared").display()))
        .option("device", "balloon,deflate-on-oom=off")
        .option("device", &format!("pmem,path={}", persistent.path().display()))
        .start()?;
    let mut person = Person::at(&console).expect("vmm connects");
    within("the interface that vmm makes", || tap::is_there("made0").then_some(()))?;
    ip("address add 10.9.0.1/24 dev made0")?;
    logs_in(&mut person, &running)?;
    running.wait_for("echoing")?;
    let moved = std::thread::scope(|scope| {
        let stream = scope.spawn(|| network.accept()?.compare(|sent| sent >= mebibytes * MEBIBYTE));
        let conversed = converse(&place("vm"), CONNECTIONS);
        let moved = stream.join().expect("no panic");
        conversed.and(moved)
    });
    let moved = moved.inspect_err(|_| println!("{}\n{}", running.console(), running.log()))?;
    assert!(served.join().expect("an end").expect("a number") > 0);
    has_its_cable_pulled(&running, &place("control"))?;
    gives_half_and_has_it_again(&mut running, &place("control"))?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    judge(&ended, moved)?;
    assert_eq!(written.digest(0)?, ended.said("filled")?);
    let content = persistent.content()?;
    for place in (0..2).flat_map(|writer| (1..=50).map(move |round| (writer, round))) {
        let block = &content[(place.0 * 50 + place.1) * 4096..];
        assert!(block.starts_with(format!("writer {} round {}\0", place.0, place.1).as_bytes()), "{place:?}");
    }
    println!("measured: {moved} bytes sent through the guest and come back");
    warnings::none_of_ours(&ended)
}
