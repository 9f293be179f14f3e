//! The machine to run: settings with their defaults, each in its range. Nothing is opened yet.

use std::path::PathBuf;
use std::time::Duration;

use protocol::limits;

use crate::config::{Config, Console, HugePages, Sandbox, Speculation};
use crate::device::{self, BackEnd, Device};
use crate::error::Error;
use crate::size::Size;

const DEFAULT_MEMORY: Size = Size(512 << 20);
const DEFAULT_SHUTDOWN_TIMEOUT: u64 = 30;
const DEFAULT_KVM: &str = "/dev/kvm";

/// A machine whose settings make sense by themselves.
#[derive(Debug)]
pub struct Machine {
    /// Path of the kernel.
    pub kernel: PathBuf,
    /// Path of the initrd.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub command_line: String,
    /// vCPUs, 1 to 32.
    pub cpus: u8,
    /// Guest memory, a whole number of (huge) pages.
    pub memory: Size,
    /// What backs it.
    pub huge_pages: HugePages,
    /// At most 31.
    pub devices: Vec<Device>,
    /// Where the serial port goes.
    pub console: Console,
    /// Path of the file for the events of devices.
    pub events: Option<PathBuf>,
    /// Path of the control socket.
    pub control_socket: Option<PathBuf>,
    /// What to do without a layer.
    pub sandbox: Sandbox,
    /// How the processor may speculate in its processes.
    pub speculation: Speculation,
    /// A directory for control groups.
    pub cgroup: Option<PathBuf>,
    /// From the power button to the end.
    pub shutdown_timeout: Duration,
    /// Path of the KVM node.
    pub kvm: PathBuf,
}

impl Machine {
    /// Checks each setting and fills in what was not said.
    pub fn new(config: Config) -> Result<Machine, Error> {
        let huge_pages = config.hugepages.unwrap_or(HugePages::Off);
        let devices = device::devices(&config.device)?;
        refuse_balloon_of_huge_pages(&devices, huge_pages)?;
        let timeout = config.shutdown_timeout.unwrap_or(DEFAULT_SHUTDOWN_TIMEOUT);
        Ok(Machine {
            kernel: config.kernel.ok_or(Error::NoKernel)?,
            initrd: config.initrd,
            command_line: command_line(config.cmdline.unwrap_or_default())?,
            cpus: cpus(config.cpus.unwrap_or(1))?,
            memory: memory(config.memory.unwrap_or(DEFAULT_MEMORY), huge_pages)?,
            huge_pages,
            console: console(config.console, &devices)?,
            devices,
            events: config.events,
            control_socket: config.control_socket,
            sandbox: config.sandbox.unwrap_or(Sandbox::Required),
            speculation: config.speculation.unwrap_or(Speculation::Host),
            cgroup: config.cgroup,
            shutdown_timeout: Duration::from_secs(timeout),
            kvm: config.kvm.unwrap_or_else(|| PathBuf::from(DEFAULT_KVM)),
        })
    }

    /// What there can be of guest memory, with what is to be plugged in.
    pub fn most_memory(&self) -> u64 {
        let pluggable = self.devices.iter().filter_map(|device| match &device.back_end {
            BackEnd::Mem(options) => Some(options.region.size),
            _ => None,
        });
        pluggable.fold(self.memory.0, u64::saturating_add)
    }

    /// Whether the terminal on standard input is the guest's.
    pub fn has_terminal(&self) -> bool {
        self.console == Console::Stdio || self.devices.iter().any(Device::is_on_stdio)
    }
}

/// The serial port has the terminal unless a device has it.
fn console(wanted: Option<Console>, devices: &[Device]) -> Result<Console, Error> {
    let mut on_terminal = devices.iter().filter(|device| device.is_on_stdio());
    let (first, second) = (on_terminal.next(), on_terminal.next());
    let taken = |device: &Device, by: &str| {
        let text = format!("stdio=on: the terminal is {by}'s; there is one");
        Error::Device { name: device.name.clone(), text }
    };
    match (wanted, first, second) {
        (_, Some(first), Some(second)) => Err(taken(second, &first.name)),
        (Some(Console::Stdio), Some(device), None) => Err(taken(device, "--console=stdio")),
        (Some(console), ..) => Ok(console),
        (None, Some(_), None) => Ok(Console::None),
        (None, None, _) => Ok(Console::Stdio),
    }
}

fn cpus(wanted: u64) -> Result<u8, Error> {
    let most = limits::MAX_CPUS;
    match u8::try_from(wanted) {
        Ok(cpus) if (1..=most).contains(&cpus) => Ok(cpus),
        _ => Err(Error::Cpus { wanted, most }),
    }
}

fn memory(wanted: Size, huge_pages: HugePages) -> Result<Size, Error> {
    let (least, most) = (Size(limits::MIN_MEMORY), Size(limits::MAX_MEMORY));
    if !(least..=most).contains(&wanted) {
        return Err(Error::Memory { wanted, least, most });
    }
    // The host's default is 2 MiB but where its command line says otherwise; then ftruncate refuses the rest.
    let page = Size(match huge_pages {
        HugePages::Off => 4 << 10,
        HugePages::Default | HugePages::Mib2 => 2 << 20,
        HugePages::Gib1 => 1 << 30,
    });
    if wanted.0.is_multiple_of(page.0) { Ok(wanted) } else { Err(Error::MemoryPages { wanted, page }) }
}

/// The host takes back huge pages as a whole only, and a balloon gives small ones; and those that it has reserved for memory
/// that is not plugged nobody else could use.
fn refuse_balloon_of_huge_pages(devices: &[Device], huge_pages: HugePages) -> Result<(), Error> {
    let mut devices = devices.iter();
    match devices.find(|device| matches!(device.back_end, BackEnd::Balloon(_) | BackEnd::Mem(_))) {
        Some(device) if huge_pages != HugePages::Off => Err(Error::Device {
            name: device.name.clone(),
            text: "guest memory of huge pages (--hugepages) cannot be given back page by page: leave out the one or the \
                   other"
                .to_owned(),
        }),
        _ => Ok(()),
    }
}

fn command_line(text: String) -> Result<String, Error> {
    let (length, most) = (text.len(), limits::MAX_COMMAND_LINE);
    if length > most {
        return Err(Error::CommandLineLength { length, most });
    }
    match text.bytes().position(|byte| byte == 0) {
        Some(offset) => Err(Error::CommandLineZero { offset }),
        None => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(change: impl FnOnce(&mut Config)) -> Result<Machine, Error> {
        let mut config = Config { kernel: Some(PathBuf::from("vmlinuz")), ..Config::default() };
        change(&mut config);
        Machine::new(config)
    }

    #[test]
    fn the_defaults_make_a_machine() {
        let machine = machine(|_| ()).unwrap();
        assert_eq!((machine.cpus, machine.memory, machine.huge_pages), (1, Size(512 << 20), HugePages::Off));
        assert_eq!((machine.console, machine.sandbox), (Console::Stdio, Sandbox::Required));
    }

    #[test]
    fn memory_to_be_plugged_in_is_small_pages_beside_the_other() {
        let of = |words: &[&str], huge_pages| {
            machine(|config| {
                config.device = words.iter().map(|word| word.parse().unwrap()).collect();
                config.hugepages = Some(huge_pages);
            })
        };
        let most = |words| of(words, HugePages::Off).unwrap().most_memory();
        assert_eq!(most(&["rng"]), 512 << 20);
        assert_eq!(most(&["mem,size=1G", "rng", "mem,size=2M"]), (512 << 20) + (1 << 30) + (2 << 20));
        let said = of(&["rng", "mem,size=1G"], HugePages::Mib2).unwrap_err().to_string();
        assert!(said.contains("mem0") && said.contains("--hugepages"), "{said}");
    }

    #[test]
    fn there_is_one_terminal() {
        let console = |console: Option<Console>, words: &[&str]| {
            machine(|config| {
                config.console = console;
                config.device = words.iter().map(|word| word.parse().unwrap()).collect();
            })
            .map(|machine| (machine.has_terminal(), machine.console))
        };
        let (stdio, pty) = ("console,stdio=on", "console,pty=on");
        assert_eq!(console(None, &[pty]).unwrap(), (true, Console::Stdio));
        assert_eq!(console(None, &[stdio, pty]).unwrap(), (true, Console::None));
        assert_eq!(console(Some(Console::None), &[pty]).unwrap(), (false, Console::None));
        let said = console(Some(Console::Stdio), &[stdio]).unwrap_err().to_string();
        assert!(said.contains("--console=stdio"), "{said}");
        let said = console(None, &[stdio, stdio]).unwrap_err().to_string();
        assert!(said.contains("console1") && said.contains("console0's"), "{said}");
    }

    #[test]
    fn counts_and_sizes_have_their_limits() {
        for cpus in [1, 32] {
            assert!(machine(|config| config.cpus = Some(cpus)).is_ok(), "{cpus}");
        }
        for cpus in [0, 33, 257, u64::MAX] {
            assert!(matches!(machine(|config| config.cpus = Some(cpus)), Err(Error::Cpus { .. })), "{cpus}");
        }
        for memory in [128 << 20, 64 << 30, limits::MAX_MEMORY] {
            assert!(machine(|config| config.memory = Some(Size(memory))).is_ok(), "{memory}");
        }
        for memory in [0, (128 << 20) - 4096, limits::MAX_MEMORY + 4096, u64::MAX] {
            let refused = machine(|config| config.memory = Some(Size(memory)));
            assert!(matches!(refused, Err(Error::Memory { .. })), "{memory}");
        }
        let odd = machine(|config| config.memory = Some(Size((128 << 20) + 1024)));
        assert!(matches!(odd, Err(Error::MemoryPages { .. })));
        let huge = machine(|config| {
            (config.memory, config.hugepages) = (Some(Size(1536 << 20)), Some(HugePages::Gib1))
        });
        assert!(matches!(huge, Err(Error::MemoryPages { .. })));
    }

    #[test]
    fn the_command_line_fits_and_holds_no_zero() {
        assert!(machine(|config| config.cmdline = Some("x".repeat(2047))).is_ok());
        assert!(machine(|config| config.cmdline = Some("x".repeat(2048))).is_err());
        assert!(machine(|config| config.cmdline = Some("a\0b".to_owned())).is_err());
        assert!(matches!(Machine::new(Config::default()), Err(Error::NoKernel)));
    }
}
