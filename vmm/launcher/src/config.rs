//! The settings of a machine: one [`Config`], filled by the command line and by the `--config` file alike.
//!
//! Invariants: every option has one name, one type and one meaning in both; a file with an unknown option is
//! refused. What the settings mean together is checked in [`crate::machine`], once, wherever they came from.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

use crate::device_option::DeviceOption;
use crate::error::Error;
use crate::nearest;
use crate::size::Size;

/// What a user may say about a machine; what he leaves out is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The guest's kernel: a bzImage, or an ELF vmlinux with a PVH entry.
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,

    /// The initial RAM disk.
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,

    /// The kernel's command line.
    #[arg(long, value_name = "TEXT")]
    pub cmdline: Option<String>,

    /// Number of vCPUs, 1 to 32 [default: 1].
    #[arg(long, value_name = "N")]
    pub cpus: Option<u64>,

    /// Guest memory, 128M to 384G [default: 512M].
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Size>,

    /// Back guest memory by huge pages of the host: off, on (its default size), 2M or 1G [default: off].
    #[arg(long, value_enum, value_name = "WHICH")]
    pub hugepages: Option<HugePages>,

    /// A virtio device; once per device, in the order of their PCI device numbers.
    #[arg(long, value_name = "TYPE,key=value,…")]
    #[serde(default)]
    pub device: Vec<DeviceOption>,

    /// Where the serial port goes: stdio, none or file:PATH [default: stdio].
    #[arg(long, value_name = "WHERE")]
    pub console: Option<Console>,

    /// A file, pipe or /dev/fd/N that gets one JSON object per line for each event of a device: death, restart, pause.
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,

    /// Where to listen for `vmm ctl`; the machine has no other way to be controlled but signals.
    #[arg(long, value_name = "PATH")]
    pub control_socket: Option<PathBuf>,

    /// With a layer of the sandbox missing: refuse to run, or say so and run with the others [default: required].
    #[arg(long, value_enum, value_name = "WHICH")]
    pub sandbox: Option<Sandbox>,

    /// The processor's speculation in every process of the machine: as the host has it, or restricted as far as a process
    /// can have it, which costs speed [default: host].
    #[arg(long, value_enum, value_name = "WHICH")]
    pub speculation: Option<Speculation>,

    /// A cgroup v2 directory that is delegated to us and has no processes: each program gets a group with limits in it.
    #[arg(long, value_name = "DIRECTORY")]
    pub cgroup: Option<PathBuf>,

    /// Time between the power button and the end of a guest that ignores it [default: 30].
    #[arg(long, value_name = "SECONDS")]
    pub shutdown_timeout: Option<u64>,

    /// The host's KVM [default: /dev/kvm].
    #[arg(long, value_name = "NODE")]
    pub kvm: Option<PathBuf>,
}

/// The names of the settings, as in a file.
const NAMES: [&str; 15] = [
    "kernel",
    "initrd",
    "cmdline",
    "cpus",
    "memory",
    "hugepages",
    "device",
    "console",
    "events",
    "control-socket",
    "sandbox",
    "speculation",
    "cgroup",
    "shutdown-timeout",
    "kvm",
];

/// Huge pages of the host for guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
pub enum HugePages {
    /// Ordinary pages.
    #[value(name = "off")]
    #[serde(rename = "off")]
    Off,
    /// The host's default size.
    #[value(name = "on")]
    #[serde(rename = "on")]
    Default,
    /// 2 MiB.
    #[value(name = "2M")]
    #[serde(rename = "2M")]
    Mib2,
    /// 1 GiB.
    #[value(name = "1G")]
    #[serde(rename = "1G")]
    Gib1,
}

/// What to do when the host lacks a layer of confinement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sandbox {
    /// Refuse.
    Required,
    /// Say what is missing and go on with what there is.
    Available,
}

/// How the processor speculates in the processes of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Speculation {
    /// As the host has it.
    Host,
    /// Neither past stores nor along indirect branches.
    Restricted,
}

/// Where the guest's serial port goes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Console {
    /// Standard input and output; a terminal goes into raw mode.
    Stdio,
    /// Nowhere.
    None,
    /// Output is appended to this file.
    File(PathBuf),
}

impl FromStr for Console {
    type Err = String;

    fn from_str(text: &str) -> Result<Console, String> {
        match (text, text.strip_prefix("file:")) {
            ("stdio", _) => Ok(Console::Stdio),
            ("none", _) => Ok(Console::None),
            (_, Some(path)) if !path.is_empty() => Ok(Console::File(PathBuf::from(path))),
            _ => {
                let hint = nearest::hint(text, ["stdio", "none", "file:"]);
                Err(format!("unknown console '{text}'{hint}: write stdio, none or file:PATH"))
            }
        }
    }
}

impl TryFrom<String> for Console {
    type Error = String;

    fn try_from(text: String) -> Result<Console, String> {
        text.parse()
    }
}

impl Config {
    /// Reads the text of a settings file; `path` is for messages.
    pub fn from_toml(text: &str, path: &Path) -> Result<Config, Error> {
        let wrong = |error: &toml::de::Error| Error::ConfigFile {
            path: path.to_owned(),
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            // toml puts what it found and what it expected on lines of their own.
            text: error.message().lines().collect::<Vec<_>>().join("; "),
        };
        let table: toml::Table = text.parse().map_err(|error| wrong(&error))?;
        if let Some(name) = table.keys().find(|name| !NAMES.contains(&name.as_str())) {
            let hint = nearest::hint(name, NAMES);
            return Err(Error::ConfigName { path: path.to_owned(), name: name.clone(), hint });
        }
        toml::from_str(text).map_err(|error| wrong(&error))
    }

    /// These settings, and where one is missing that of `file`. Devices of the file come first.
    #[must_use]
    pub fn or(self, file: Config) -> Config {
        let mut device = file.device;
        device.extend(self.device);
        Config {
            kernel: self.kernel.or(file.kernel),
            initrd: self.initrd.or(file.initrd),
            cmdline: self.cmdline.or(file.cmdline),
            cpus: self.cpus.or(file.cpus),
            memory: self.memory.or(file.memory),
            hugepages: self.hugepages.or(file.hugepages),
            device,
            console: self.console.or(file.console),
            events: self.events.or(file.events),
            control_socket: self.control_socket.or(file.control_socket),
            sandbox: self.sandbox.or(file.sandbox),
            speculation: self.speculation.or(file.speculation),
            cgroup: self.cgroup.or(file.cgroup),
            shutdown_timeout: self.shutdown_timeout.or(file.shutdown_timeout),
            kvm: self.kvm.or(file.kvm),
        }
    }
}

/// The number of the line that holds this byte, from 1.
fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count().saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::CommandLine;
    use clap::{CommandFactory, Parser};

    /// Every setting, both ways.
    const FILE: &str = r#"
kernel = "vmlinuz"
initrd = "initrd.img"
cmdline = "console=ttyS0 root=/dev/vda"
cpus = 2
memory = "512M"
hugepages = "2M"
console = "file:console.log"
events = "events.jsonl"
control-socket = "vm.sock"
sandbox = "available"
speculation = "restricted"
cgroup = "/sys/fs/cgroup/machines"
shutdown-timeout = 7
kvm = "/dev/kvm"
[[device]]
type = "blk"
path = "disk.raw"
readonly = false
queues = 2
[[device]]
type = "blk"
socket = "/run/my.sock"
"#;
    const LINE: [&str; 32] = [
        "vmm",
        "--kernel",
        "vmlinuz",
        "--initrd",
        "initrd.img",
        "--cmdline",
        "console=ttyS0 root=/dev/vda",
        "--cpus",
        "2",
        "--memory",
        "512M",
        "--hugepages",
        "2M",
        "--console",
        "file:console.log",
        "--events",
        "events.jsonl",
        "--control-socket",
        "vm.sock",
        "--sandbox=available",
        "--speculation=restricted",
        "--cgroup",
        "/sys/fs/cgroup/machines",
        "--shutdown-timeout",
        "7",
        "--kvm",
        "/dev/kvm",
        "--device",
        "blk,path=disk.raw,readonly=off,queues=2",
        "--device",
        "blk,socket=/run/my.sock",
        "--dry-run",
    ];

    fn file(text: &str) -> Result<Config, Error> {
        Config::from_toml(text, Path::new("guest.toml"))
    }

    #[test]
    fn file_and_command_line_say_the_same() {
        let line = CommandLine::try_parse_from(LINE).unwrap();
        assert_eq!(file(FILE).unwrap(), line.settings);
        assert!(line.dry_run);
    }

    #[test]
    fn each_setting_of_the_command_line_is_one_of_the_file() {
        let command = CommandLine::command();
        let line = command.get_arguments().filter_map(|argument| argument.get_long());
        let mut line: Vec<&str> = line
            .filter(|name| !["config", "dry-run", "help", "sandbox-log", "version"].contains(name))
            .collect();
        let mut names = NAMES.to_vec();
        line.sort_unstable();
        names.sort_unstable();
        assert_eq!(line, names);
    }

    #[test]
    fn the_command_line_goes_first_and_devices_add_up() {
        let line = CommandLine::try_parse_from(["vmm", "--cpus", "4", "--device", "rng,socket=/r"]).unwrap();
        let both = line.settings.or(file(FILE).unwrap());
        assert_eq!(both.cpus, Some(4));
        assert_eq!(both.memory, Some(Size(512 << 20)));
        let kinds: Vec<&str> = both.device.iter().map(|device| device.kind.as_str()).collect();
        assert_eq!(kinds, ["blk", "blk", "rng"]);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_nearest() {
        let text = file("cpus = 1\nmemroy = '1G'").unwrap_err().to_string();
        assert!(
            text.contains("'memroy'") && text.contains("'memory'") && text.contains("guest.toml"),
            "{text}"
        );
    }

    #[test]
    fn a_wrong_value_is_one_line_with_its_place() {
        for text in [
            "cpus = 1\nmemory = '1 apple'",
            "cpus = 1\nmemory = 512",
            "cpus = 1\nmemory == 1",
            "\nsandbox = 'no'",
        ] {
            let said = file(text).unwrap_err().to_string();
            assert!(said.contains("line 2"), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }

    #[test]
    fn consoles_are_three() {
        assert_eq!("file:/a:b".parse(), Ok(Console::File(PathBuf::from("/a:b"))));
        assert!("file:".parse::<Console>().is_err());
        assert!("stdoi".parse::<Console>().unwrap_err().contains("did you mean 'stdio'"));
    }
}
