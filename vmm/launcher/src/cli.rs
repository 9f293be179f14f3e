//! The command line: the settings of [`Config`], and what is not a setting (`--config`, `--dry-run`).
//!
//! Invariant: whatever is wrong with the arguments is said in one line; clap's own layout of several lines is
//! folded before it reaches a person's terminal or log.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;
use clap::error::ErrorKind;

use crate::config::Config;
use crate::ctl::ControlLine;
use crate::doctor::DoctorLine;
use crate::error::Error;
use crate::exit_code;
use crate::inspect::InspectLine;
use crate::policy::PolicyLine;

/// What is missing after `vmm ctl`, or after a machine.
const CONTROL: &str = "say which machine and what to do: vmm ctl VM devices, vmm ctl VM replace-device ID, vmm ctl VM resize-disk ID, or vmm ctl VM balloon ID SIZE; see vmm ctl --help";

/// What is missing after `vmm policy`.
const POLICY: &str = "say what of which program: vmm policy show PROGRAM, or vmm policy explain PROGRAM CALL; see vmm policy --help";

const EXAMPLES: &str = "\
Examples:
  A kernel and nothing else; it will say that it finds no root file system:
    vmm --kernel vmlinuz --cmdline 'console=ttyS0 panic=-1'
  A distribution's kernel and initrd, and a raw disk image:
    vmm --kernel vmlinuz --initrd initrd.img --cmdline 'console=ttyS0 root=/dev/vda' \\
        --cpus 2 --memory 512M --device blk,path=disk.raw,serial=root,queues=2
  A disk in a qcow2 image, which is one because you say so:
    vmm --kernel vmlinuz --device blk,path=disk.qcow2,format=qcow2
  The same where it holds what is not in another, which is only read:
    vmm --kernel vmlinuz --device blk,path=disk.qcow2,format=qcow2,backing=base.raw,backing-format=raw
  A back end that somebody else started, and what would be done with it:
    vmm --kernel vmlinuz --device blk,socket=/run/my.sock --dry-run
  A machine whose devices' programs can be replaced while it runs, and the replacement of one:
    vmm --kernel vmlinuz --device blk,path=disk.raw --control-socket vm.sock
    vmm ctl vm.sock replace-device blk0 --program device-blk.new
  A disk that is made larger under its guest:
    vmm ctl vm.sock resize-disk blk0 20G
  A guest that gives memory back, and half of what it has from now on:
    vmm --kernel vmlinuz --memory 1G --device balloon --control-socket vm.sock
    vmm ctl vm.sock balloon balloon0 512M
  How each process of a machine is confined, as the kernel shows it:
    vmm inspect vm.sock
  What this host lacks, what that costs, and what to do about it:
    vmm doctor
  What a program may call, or why it may not:
    vmm policy explain device-blk ioctl
  The same settings in a file (TOML; each option by its long name, a [[device]] table per device):
    vmm --config guest.toml

Devices:
  blk,path=FILE      a raw image or block device, served by device-blk
      format=raw|qcow2 (raw: never guessed; a qcow2 image is served by device-blk-qcow2, without direct=on)
      backing=FILE (the image that a qcow2 image is backed by; backing-2=FILE for that one's, to backing-8=FILE)
      backing-format=raw|qcow2 (qcow2: of the last of these)
      readonly=on|off (off)   direct=on|off (off: through the host's page cache)
      discard=on|off (on)     lock=on|off (on: refuse an image that another program uses)
      serial=TEXT             queues=N (1)            queue-size=N (256)
      on-failure=restart|fail|stop (restart: a program that dies is replaced, and the guest goes on)
      give-up=fail|stop (stop: when one program after the other dies)
      spare=on|off (off: on starts a second process ahead, which takes over at once)
      bandwidth=SIZE          bytes a second at most  bandwidth-burst=SIZE (a tenth: saved while nothing is done)
      operations=N            requests a second at most  operations-burst=N (a tenth)
  net,tap=NAME       a virtio-net on a tap interface, served by device-net (or net,fd=N: a tap that is open)
                     or net,stream=PATH: a Unix socket to connect to, for frames with their lengths, as passt has it
                     or net,user=on: the network of your own, by passt, which vmm starts (passt=/usr/bin/passt)
      mac=ADDRESS (the same each time)                mtu=N
      any-source=on|off (off)                         queue-size=N (256)
      on-failure=restart|fail|stop (restart)          give-up=fail|stop (stop)
      spare=on|off (off)      bandwidth= operations= and their bursts as above
  rng                a virtio-rng that gives the guest entropy of the host, served by device-rng
      path=FILE (/dev/urandom)                        queue-size=N (256)
      on-failure=restart|fail|stop (restart)          give-up=fail|stop (stop)
      spare=on|off (off)      bandwidth= operations= and their bursts as above
  console            a virtio-console (hvc0 in Linux), served by device-console; say where, once:
      path=FILE (a file, a pipe or a terminal)        pty=on (a pseudoterminal that is made)
      connect=PATH, listen=PATH (a Unix socket)       stdio=on (this terminal; the serial port then goes nowhere)
      size=COLUMNSxROWS       limit=SIZE|off (64M: how large a file may become)
      queue-size=N (256)      on-failure=restart|fail|stop (restart)
      give-up=fail|stop (stop)                        spare=on|off (off)      bandwidth= operations= and their bursts
  pmem,path=FILE     a file or block device as persistent memory of the guest (/dev/pmem0 in Linux), flushed by device-pmem
      readonly=on|off (off)   lock=on|off (on)        size=SIZE (all of it; a multiple of 2M)
      queue-size=N (256)      on-failure=restart|fail|stop (restart)
      give-up=fail|stop (stop)                        spare=on|off (off)      bandwidth= operations= and their bursts
  mem,size=SIZE      as much memory as the guest can plug in and out (virtio-mem), served by device-mem; vmm ctl sets how much
      requested=SIZE (0: how much at first)           block=SIZE (2M: how much at once)
      queue-size=N (256)      on-failure=restart|fail|stop (restart)
      give-up=fail|stop (stop)                        spare=on|off (off)
  balloon            a virtio-balloon, served by device-balloon: the guest gives memory back; vmm ctl sets how much
      size=SIZE (0)           deflate-on-oom=on|off (on)
      free-page-reporting=on|off (off)                queue-size=N (256)
      on-failure=restart|fail|stop (restart)          give-up=fail|stop (stop)
      spare=on|off (off)
  fs,path=DIRECTORY,tag=NAME                          a virtio-fs, served by device-fs: mount -t virtiofs NAME …
      readonly=on|off (off)   queues=N (1)            queue-size=N (256)
      on-failure=restart|fail|stop (restart)          give-up=fail|stop (stop)
      spare=on|off (off)      bandwidth= operations= and their bursts
  vsock,cid=N,path=SOCKET                             a virtio-vsock, served by device-vsock
      queue-size=N (256)      on-failure=restart|fail|stop (restart)
      give-up=fail|stop (stop)                        spare=on|off (off)
  TYPE,socket=PATH   any virtio device, served by the vhost-user back end that listens there
      queues=N                queue-size=N (256)
      on-failure=restart|fail|stop (restart: connect again as soon as somebody listens again)
      patience=SECONDS (for ever)                     give-up=fail|stop (stop: when it is over)
  A comma within a value is written twice.

Signals:
  TERM, INT, HUP     press the guest's power button; kill after --shutdown-timeout, or at a second signal
  QUIT               kill at once
  USR1               print the core's counters";

/// Runs a virtual machine whose devices are programs of their own, each confined to what it needs.
#[derive(Debug, Parser)]
#[command(name = "vmm", version, after_help = after_help(), max_term_width = 110)]
pub struct CommandLine {
    /// Read settings from a TOML file; what the command line says as well goes before it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Check all input and print what would be opened, spawned and granted, then end.
    #[arg(long)]
    pub dry_run: bool,

    /// Refuse no system call, and list each that a policy would have refused: for whoever writes or packages policies.
    /// Not for guests that are not trusted.
    #[arg(long, conflicts_with = "dry_run")]
    pub sandbox_log: bool,

    /// What may stand in the file too.
    #[command(flatten)]
    pub settings: Config,
}

/// What the arguments ask for.
#[derive(Debug)]
pub enum Request {
    /// Run (or dry-run) a machine.
    Run(Box<CommandLine>),
    /// Control a machine that runs.
    Control(ControlLine),
    /// Say how the processes of a machine are confined.
    Inspect(InspectLine),
    /// Say what this host lacks.
    Doctor(DoctorLine),
    /// Say what the policy of a program allows.
    Policy(PolicyLine),
    /// Print a text (`--help`, `--version`) and end well.
    Print(String),
}

/// Reads the arguments, the program's name first.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, Error> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // A machine has options only, so that these words can be nothing else.
    let rest = arguments.iter().skip(1);
    let (command, parsed) = match arguments.get(1).and_then(|word| word.to_str()) {
        Some("ctl") => ("vmm ctl", ControlLine::try_parse_from(rest).map(Request::Control)),
        Some("inspect") => ("vmm inspect", InspectLine::try_parse_from(rest).map(Request::Inspect)),
        Some("doctor") => ("vmm doctor", DoctorLine::try_parse_from(rest).map(Request::Doctor)),
        Some("policy") => ("vmm policy", PolicyLine::try_parse_from(rest).map(Request::Policy)),
        _ => ("vmm", CommandLine::try_parse_from(arguments).map(|line| Request::Run(Box::new(line)))),
    };
    match parsed {
        Ok(request) => Ok(request),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                Ok(Request::Print(error.render().to_string()))
            }
            ErrorKind::MissingSubcommand => {
                let missing = if command == "vmm policy" { POLICY } else { CONTROL };
                Err(Error::Usage(missing.to_owned()))
            }
            _ => Err(Error::Usage(one_line(command, &error.render().to_string()))),
        },
    }
}

fn after_help() -> String {
    format!("{EXAMPLES}\n\nExit codes:\n{}", exit_code::table())
}

/// Folds clap's message (what is wrong, a tip or a list, usage) into one line, without the usage.
fn one_line(command: &str, rendered: &str) -> String {
    let told = rendered.lines().map(str::trim).filter(|line| !line.is_empty());
    let told: Vec<&str> =
        told.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more")).collect();
    let told = told.join("; ").replace(":; ", ": ");
    format!("{}; see {command} --help", told.strip_prefix("error: ").unwrap_or(&told))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(arguments: &[&str]) -> Result<Request, Error> {
        parse(std::iter::once("vmm").chain(arguments.iter().copied()).map(OsString::from))
    }

    #[test]
    fn clap_finds_no_contradiction_in_the_definition() {
        use clap::CommandFactory;
        CommandLine::command().debug_assert();
    }

    #[test]
    fn an_unknown_option_is_one_line_that_names_the_nearest() {
        let Err(Error::Usage(text)) = line(&["--memroy", "1G"]) else { panic!("accepted") };
        assert!(text.contains("'--memroy'") && text.contains("'--memory'"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.contains("Usage"), "{text}");
    }

    #[test]
    fn a_missing_value_and_a_bad_choice_are_one_line() {
        for arguments in [&["--kernel"][..], &["--sandbox=none"], &["--cpus", "two"], &["stray"]] {
            let Err(Error::Usage(text)) = line(arguments) else { panic!("accepted {arguments:?}") };
            assert_eq!(text.lines().count(), 1, "{text}");
        }
        let Err(Error::Usage(text)) = line(&["--sandbox=none"]) else { panic!("accepted") };
        assert!(text.contains("required") && text.contains("available"), "{text}");
    }

    #[test]
    fn only_the_command_line_turns_refusals_off() {
        let Ok(Request::Run(run)) = line(&["--kernel", "vmlinuz", "--sandbox-log"]) else {
            panic!("refused")
        };
        assert!(run.sandbox_log);
        let Ok(Request::Run(run)) = line(&["--kernel", "vmlinuz"]) else { panic!("refused") };
        assert!(!run.sandbox_log);
        for arguments in [&["--sandbox-log=on"][..], &["--sandbox-log", "--dry-run"]] {
            assert!(matches!(line(arguments), Err(Error::Usage(_))), "{arguments:?}");
        }
        let file = std::path::Path::new("guest.toml");
        assert!(Config::from_toml("sandbox-log = true", file).is_err());
    }

    #[test]
    fn help_holds_the_exit_codes_and_is_no_error() {
        let Ok(Request::Print(text)) = line(&["--help"]) else { panic!("no help") };
        assert!(text.contains("Exit codes:") && text.contains("the guest asked for a reset"), "{text}");
    }
}
