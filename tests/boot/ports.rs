//! A guest with a port that has a name, beside its console, and a console whose size changes, over the deaths of the program.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::control::told;
use system_tests::{Machine, Result, warnings};

/// How often the program is killed.
const KILLS: usize = 3;
/// For a guest under emulation to answer.
const PATIENCE: Duration = Duration::from_secs(300);

/// Connects to the port, says `line` and hears the guest say it.
fn ask(path: &Path, line: &str) {
    let mut client = UnixStream::connect(path).expect("the program listens");
    client.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    client.write_all(format!("{line}\n").as_bytes()).expect("it is taken");
    let mut heard = String::new();
    BufReader::new(client).read_line(&mut heard).expect("the guest answers");
    assert_eq!(heard.trim_end(), format!("heard {line}"));
}

#[test]
fn a_named_port_and_the_size_of_a_console_outlive_their_program() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let (port, log) = (folder.path().join("agent"), folder.path().join("log"));
    let socket = folder.path().join("control");
    let device = format!("console,path={},port.agent=listen:{}", log.display(), port.display());
    let running = Machine::new("ports")
        .option("control-socket", socket.to_str().expect("text"))
        .option("device", &device)
        .start()?;
    running.wait_for("open")?;
    ask(&port, "first");
    told(&socket, &["resize-console", "console0", "132x43"])?;
    for kills in 1..=KILLS {
        kill(Pid::from_raw(running.process("device-console")?), Signal::SIGKILL).expect("it lives");
        running.wait_for_log("that it serves again", |log| {
            (log.matches("console0 serves again").count() >= kills).then_some(())
        })?;
        // The driver was told of the port once, and has it open still.
        ask(&port, &format!("after {kills}"));
    }
    ask(&port, "end");
    // Rows and columns in the specification's order; some kernels take one for the other.
    let size = running.wait_for("size")?;
    assert!(["43 132", "132 43"].contains(&size.as_str()), "{size}");
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    warnings::none_of_ours(&ended)
}
