//! Taps and streams that cannot be had; taps in a network namespace of each test's own.

use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::Command;

use protocol::tap;
use system_tests::network::{again_inside, ip, is_inside};
use system_tests::{Disk, Result, program};

use crate::refusal::{RESOURCE, USAGE, refused, refused_by, says};

/// A kernel that can be opened.
fn kernel() -> Result<(Disk, String)> {
    let text = Disk::with(b"text", 4)?;
    let option = format!("--kernel={}", text.path().display());
    Ok((text, option))
}

fn net(options: &str) -> String {
    format!("--device=net,{options}")
}

#[test]
fn a_tap_that_is_busy_or_none() -> Result<()> {
    if !is_inside() {
        return again_inside("network::a_tap_that_is_busy_or_none");
    }
    let (_text, kernel) = kernel()?;
    ip("tuntap add tap0 mode tap")?;
    let holder = tap::attach("tap0", 1).expect("nobody else has it");
    let refused = |options: &str| refused(RESOURCE, &[kernel.clone(), net(options)]);
    says(&refused("tap=tap0")?, &["tap0", "another program uses it"]);
    says(&refused("tap=lo")?, &["\"lo\"", "it is no tap"]);
    says(&refused("fd=200")?, &["descriptor \"200\"", "no descriptor of this number", "inherited"]);
    drop(holder);
    // It can be had now, and is left alone by a look: what is missed next is KVM, or the kernel in that file.
    let look = [kernel.as_str(), &net("tap=tap0"), &net("tap=tap1,mac=02:00:00:00:00:01"), "--dry-run"];
    let ended = Command::new(program("vmm")?).args(look).output().expect("vmm runs");
    let plan = String::from_utf8(ended.stdout).expect("text");
    assert!(ended.status.success(), "{plan}{}", String::from_utf8_lossy(&ended.stderr));
    says(&plan, &["attach to tap tap0: net0, ", "make   tap tap1", "net1, 02:00:00:00:00:01", "device-net"]);
    assert!(tap::is_there("tap0") && !tap::is_there("tap1"));
    Ok(())
}

#[test]
fn a_descriptor_that_is_no_tap() -> Result<()> {
    let (_text, kernel) = kernel()?;
    for (file, why) in
        [("/dev/null", "no tap with an interface"), ("/dev/net/tun", "no tap with an interface")]
    {
        let mut command = Command::new("sh");
        let script = format!("exec \"$0\" \"$@\" 7<>{file}");
        command.args(["-c", &script]).arg(program("vmm")?).args([&kernel, &net("fd=7")]);
        says(&refused_by(RESOURCE, command)?, &["descriptor \"7\"", why]);
    }
    Ok(())
}

#[test]
fn a_tap_that_an_ordinary_user_would_have_to_make() -> Result<()> {
    let (_text, kernel) = kernel()?;
    // Nobody of the namespace's: it has no user 0, and exec leaves no capabilities to others.
    let mut command = Command::new("unshare");
    command.args(["--user", "--net"]).arg(program("vmm")?).args([&kernel, &net("tap=tap0")]);
    says(&refused_by(RESOURCE, command)?, &["tap0", "no such interface", "CAP_NET_ADMIN", "ip tuntap add"]);
    Ok(())
}

#[test]
fn a_host_without_taps() -> Result<()> {
    let (_text, kernel) = kernel()?;
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs none /dev/net && exec \"$0\" \"$@\"";
    command.args(["--user", "--map-root-user", "--mount", "--net", "sh", "-c", script]);
    command.arg(program("vmm")?).args([&kernel, &net("tap=tap0")]);
    says(&refused_by(RESOURCE, command)?, &["tap0", "/dev/net/tun", "No such file", "module tun"]);
    Ok(())
}

#[test]
fn two_devices_on_one_tap() -> Result<()> {
    if !is_inside() {
        return again_inside("network::two_devices_on_one_tap");
    }
    let (_text, kernel) = kernel()?;
    for (one, what) in [("tap=tap0", "tap \"tap0\""), ("fd=7", "descriptor 7")] {
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 7<>/dev/net/tun"]).arg(program("vmm")?);
        // The first is had before the second is looked at; the descriptor is none that can be.
        command.args([&kernel, &net(one), &net(&format!("{one},mac=02:00:00:00:00:02"))]);
        if one == "fd=7" {
            refused_by(RESOURCE, command)?;
        } else {
            says(&refused_by(USAGE, command)?, &[what, "net0", "net1"]);
        }
    }
    assert!(!tap::is_there("tap0"), "it went with the launcher that made it");
    Ok(())
}

#[test]
fn a_stream_to_nobody() -> Result<()> {
    let (text, kernel) = kernel()?;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("stream.sock");
    let refused = |options: &str| refused(RESOURCE, &[kernel.clone(), net(options)]);
    let stream = format!("stream={}", path.display());
    says(&refused(&stream)?, &["connect to stream", "stream.sock", "No such file"]);
    says(&refused(&format!("stream={}", text.path().display()))?, &["a regular file, not a socket"]);
    says(&refused(&format!("stream={}", folder.path().display()))?, &["a directory, not a socket"]);
    let listener = UnixListener::bind(&path).expect("a socket");
    let look = [kernel.as_str(), &net(&stream), "--dry-run"];
    let ended = Command::new(program("vmm")?).args(look).output().expect("vmm runs");
    let plan = String::from_utf8(ended.stdout).expect("text");
    assert!(ended.status.success(), "{plan}{}", String::from_utf8_lossy(&ended.stderr));
    says(&plan, &["connect to stream", "stream.sock: net0, ", "by message: vhost-user socket, stream"]);
    drop(listener);
    says(&refused(&stream)?, &["nobody listens there", "passt --socket"]);
    // Reached by a shorter name than it has for a connection.
    let long = folder.path().join("a".repeat(100));
    std::fs::create_dir(&long).expect("a folder");
    std::os::unix::fs::symlink(&path, long.join("stream.sock")).expect("a link");
    says(&refused(&format!("stream={}/stream.sock", long.display()))?, &["File name too long"]);
    std::fs::remove_file(&path).expect("its name");
    let _datagrams = UnixDatagram::bind(&path).expect("a socket");
    says(&refused(&stream)?, &["it is not a stream socket"]);
    Ok(())
}

#[test]
fn a_users_network_without_its_program() -> Result<()> {
    let (text, kernel) = kernel()?;
    let refused = |passt: &str| refused(RESOURCE, &[kernel.clone(), net(&format!("user=on,passt={passt}"))]);
    says(
        &refused("/nowhere/passt")?,
        &["start \"/nowhere/passt\"", "not there", "install the package passt"],
    );
    says(&refused("/dev")?, &["start \"/dev\"", "no file"]);
    // It can be opened, and not executed.
    says(&refused(&text.path().display().to_string())?, &["passt", "exec"]);
    let program = program("vmm")?;
    let look = [kernel.as_str(), &net(&format!("user=on,passt={}", program.display())), "--dry-run"];
    let ended = Command::new(&program).args(look).output().expect("vmm runs");
    let plan = String::from_utf8(ended.stdout).expect("text");
    assert!(ended.status.success(), "{plan}{}", String::from_utf8_lossy(&ended.stderr));
    says(&plan, &["which confines itself: net0, ", "by message: vhost-user socket, stream"]);
    Ok(())
}
