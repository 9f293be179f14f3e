//! A guest whose console is `hvc0`: its kernel speaks there, a shell answers there, and the program that serves it may die.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, ttyname};
use system_tests::{Machine, Result, warnings, within};

use system_tests::person::Person;

/// How often the program is killed.
const KILLS: usize = 5;
/// Lines that the guest writes meanwhile.
const LINES: usize = 400;

/// The rest of `text` after each of `parts`, in this order.
fn in_order(mut text: &str, parts: impl Iterator<Item = String>) {
    for part in parts {
        let rest = text.split_once(&part).map(|(_, rest)| rest);
        text = rest.unwrap_or_else(|| panic!("no {part} in what is left:\n{text}"));
    }
}

#[test]
fn a_stock_guest_boots_and_has_a_shell_on_hvc0() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("console");
    let listener = UnixListener::bind(&path).expect("a socket");
    let log = folder.path().join("second.log");
    let running = Machine::new("hvc")
        .command_line("console=hvc0")
        .option("device", &format!("console,connect={}", path.display()))
        .option("device", &format!("console,path={}", log.display()))
        .start()?;
    let mut person = Person::at(&listener).expect("vmm connects");
    assert!(running.wait_for("consoles")?.contains("hvc0"), "{}", running.console());
    // What is typed before the shell asks is thrown away by who starts it.
    person.sees(&running, "/ # ")?;
    // It is the kernel's console as well; what the shell repeats of the line has no number and no bracket before it.
    person.types("dmesg -n 8; echo \"<1>from the kernel $((40 + 2))\" > /dev/kmsg")?;
    person.sees(&running, "] from the kernel 42")?;
    person.types("echo answer $((6 * 7)) from $(tty)")?;
    person.sees(&running, "answer 42 from /dev/hvc0")?;
    person.types("echo to the second > /dev/hvc1; echo written $?")?;
    person.sees(&running, "written 0")?;
    // The driver may hand it on after the shell's write has returned.
    within("what was written to hvc1", || {
        let text = std::fs::read_to_string(&log).expect("its file");
        (text == "to the second\r\n").then_some(())
    })?;
    person.types("exit")?;
    running.wait_for("left")?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    warnings::none_of_ours(&ended)
}

#[test]
fn a_console_goes_on_over_the_deaths_of_its_program() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("console");
    let listener = UnixListener::bind(&path).expect("a socket");
    let running =
        Machine::new("hvc").option("device", &format!("console,connect={}", path.display())).start()?;
    let mut person = Person::at(&listener).expect("vmm connects");
    // What is typed before the shell asks is thrown away by who starts it.
    person.sees(&running, "/ # ")?;
    person.types("echo ready $((1 + 1))")?;
    person.sees(&running, "ready 2")?;
    person.types(&format!(
        "i=0; while [ $i -lt {LINES} ]; do echo \"<$i>\"; i=$((i + 1)); done; echo all $((2 + 2))"
    ))?;
    for kills in 1..=KILLS {
        // Spread over what is written, by what has been.
        person.sees(&running, &format!("<{}>", kills * LINES / (KILLS + 1)))?;
        let _ = kill(Pid::from_raw(running.process("device-console")?), Signal::SIGKILL);
        running.wait_for_log("that it serves again", |log| {
            (log.matches("serves again").count() >= kills).then_some(())
        })?;
    }
    person.sees(&running, "all 4")?;
    // Nothing that the guest wrote is missing; what was being written at a death may be there twice.
    in_order(&person.screen.text(), (0..LINES).map(|line| format!("<{line}>")));
    person.types("echo still $((40 + 2))")?;
    person.sees(&running, "still 42")?;
    person.types("exit")?;
    running.wait_for("left")?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    warnings::none_of_ours(&ended)
}

/// Makes the terminal as large.
fn resize(terminal: &Path, rows: &str, columns: &str) {
    let stty = Command::new("stty").arg("-F").arg(terminal).args(["rows", rows, "cols", columns]).status();
    assert!(stty.expect("stty runs").success());
}

#[test]
fn a_console_is_as_large_as_the_terminal_that_it_is_on() -> Result<()> {
    let pty = openpty(None, None).expect("a pseudo-terminal");
    let terminal = ttyname(&pty.slave).expect("its name");
    resize(&terminal, "24", "80");
    let running = Machine::new("hvc")
        .option("device", "console,stdio=on")
        .option("console", "file:/proc/self/fd/1")
        .on_terminal(&terminal)
        .start()?;
    let mut person = Person::on(pty.master).expect("a descriptor");
    person.sees(&running, "/ # ")?;
    resize(&terminal, "43", "132");
    // Whose terminal it is gets this from the kernel; `vmm` has it as standard input alone.
    running.signal(Signal::SIGWINCH)?;
    person.types("until [ \"$(stty size)\" = '43 132' ]; do sleep 1; done; echo as large $((1 + 1))")?;
    person.sees(&running, "as large 2")?;
    person.types("exit")?;
    running.wait_for("left")?;
    let ended = running.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    drop(pty.slave);
    warnings::none_of_ours(&ended)
}
