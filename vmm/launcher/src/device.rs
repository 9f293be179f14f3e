//! What a device's words mean: the typed device behind a [`DeviceOption`].
//!
//! Two kinds exist: those that a program of ours serves (`blk` with `path=`, `net` with `tap=` or `fd=`, `rng`,
//! `console`, `pmem`, `mem`, `balloon`, `fs` and `vsock` with `path=`), and those of every virtio type that somebody else's
//! vhost-user back end serves (`socket=`). An option that the kind does not know is an error that names the nearest; nothing
//! is guessed from the contents of a file.

mod balloon;
mod blk;
pub mod console;
mod fs;
mod mem;
mod net;
pub mod pmem;
mod rates;
mod vsock;

use std::path::PathBuf;
use std::time::Duration;

use protocol::{BalloonOptions, MemOptions, Rates, limits};
use sandbox_policies::Program;

use crate::device_option::DeviceOption;
use crate::error::Error;
use crate::nearest;

pub use blk::Blk;
use console::Console;
pub use fs::Fs;
pub use net::{Interface, Net, PASST};
pub use pmem::Pmem;
pub use vsock::Vsock;

/// virtio device types by the names that the field uses (virtio 1.3, section 5).
const TYPES: [(&str, u16); 18] = [
    ("net", 1),
    ("blk", 2),
    ("console", 3),
    ("rng", 4),
    ("balloon", 5),
    ("scsi", 8),
    ("gpu", 16),
    ("input", 18),
    ("vsock", 19),
    ("crypto", 20),
    ("mem", 24),
    ("sound", 25),
    ("fs", 26),
    ("pmem", 27),
    ("rpmb", 28),
    ("scmi", 32),
    ("i2c", 34),
    ("gpio", 41),
];

const QUEUE_SIZE: u16 = 256;
/// What fills a virtio-rng if the user names nothing else.
const GENERATOR: &str = "/dev/urandom";

/// A device of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Type and number of its kind, as in `blk0`.
    pub name: String,
    /// PCI device number.
    pub slot: u8,
    /// virtio device type.
    pub virtio_type: u16,
    /// Queues wanted; 0 for what the back end offers.
    pub queues: u16,
    /// Largest size of a queue.
    pub queue_size: u16,
    /// Who serves it.
    pub back_end: BackEnd,
    /// How much it may do in a second; a back end of somebody else is not ours to limit.
    pub rates: Rates,
    /// Whether a second process is started ahead, to take over when the one that serves dies.
    pub spare: bool,
    /// What becomes of it when who serves it dies.
    pub on_failure: OnFailure,
    /// What becomes of it when it is restarted no more.
    pub give_up: GiveUp,
    /// How long a back end of somebody else is waited for; for ever if there is none.
    pub patience: Option<Duration>,
}

/// What becomes of a device when who serves it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// Its program is started again, or its back end connected to again, and the guest goes on. For a program that dies
    /// over and over, and a back end that is away for too long, see [`GiveUp`].
    Restart,
    /// The device fails, and the guest goes on without.
    Fail,
    /// The machine ends.
    Stop,
}

/// What becomes of a device that is restarted no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// The device fails, and the guest goes on without.
    Fail,
    /// The machine ends.
    Stop,
}

impl Device {
    fn tag(&self) -> Option<&str> {
        match &self.back_end {
            BackEnd::Fs(fs) => Some(&fs.options.tag),
            _ => None,
        }
    }

    /// Whether it has the terminal on standard input.
    pub fn is_on_stdio(&self) -> bool {
        matches!(&self.back_end, BackEnd::Console(console) if console.places.contains(&console::Place::Stdio))
    }

    /// Whether it is a console with ports that have names.
    pub fn has_ports(&self) -> bool {
        matches!(&self.back_end, BackEnd::Console(console) if !console.options.ports.is_empty())
    }
}

/// Who serves a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackEnd {
    /// `device-blk`, or `device-blk-qcow2` where the user said so.
    Blk(Blk),
    /// `device-net`.
    Net(Net),
    /// `device-rng`, from this generator of the host.
    Rng(PathBuf),
    /// `device-console`.
    Console(Console),
    /// `device-pmem`.
    Pmem(Pmem),
    /// `device-balloon`.
    Balloon(BalloonOptions),
    /// `device-mem`.
    Mem(MemOptions),
    /// `device-fs`.
    Fs(Fs),
    /// `device-vsock`.
    Vsock(Vsock),
    /// Whoever listens there.
    Socket(PathBuf),
}

impl BackEnd {
    /// How many it has of the device, where `asked` is what the user said; 0 for what somebody else's offers.
    fn queues(&self, asked: Option<u16>) -> u16 {
        match self {
            BackEnd::Blk(_) | BackEnd::Rng(_) => asked.unwrap_or(1),
            BackEnd::Net(net) => net.queues(),
            BackEnd::Console(console) => console.queues(),
            BackEnd::Pmem(_) => pmem::QUEUES,
            BackEnd::Balloon(_) => balloon::QUEUES,
            BackEnd::Mem(_) => mem::QUEUES,
            BackEnd::Fs(fs) => fs.queues(),
            BackEnd::Vsock(_) => vsock::QUEUES,
            BackEnd::Socket(_) => asked.unwrap_or(0),
        }
    }

    /// Images whose tables its program keeps.
    pub fn images(&self) -> u64 {
        match self {
            BackEnd::Blk(blk) => blk.images(),
            _ => 0,
        }
    }

    /// The program of ours that serves it.
    pub fn program(&self) -> Option<Program> {
        match self {
            BackEnd::Blk(blk) => Some(blk.program()),
            BackEnd::Net(_) => Some(Program::DeviceNet),
            BackEnd::Rng(_) => Some(Program::DeviceRng),
            BackEnd::Console(_) => Some(Program::DeviceConsole),
            BackEnd::Pmem(_) => Some(Program::DevicePmem),
            BackEnd::Balloon(_) => Some(Program::DeviceBalloon),
            BackEnd::Mem(_) => Some(Program::DeviceMem),
            BackEnd::Fs(_) => Some(Program::DeviceFs),
            BackEnd::Vsock(_) => Some(Program::DeviceVsock),
            BackEnd::Socket(_) => None,
        }
    }
}

/// The devices in order; names count within a type.
pub fn devices(words: &[DeviceOption]) -> Result<Vec<Device>, Error> {
    if words.len() > limits::MAX_DEVICES {
        return Err(Error::Devices { wanted: words.len(), most: limits::MAX_DEVICES });
    }
    let mut devices: Vec<Device> = Vec::new();
    for (slot, word) in (1u8..).zip(words) {
        let of_its_kind = words.iter().take(devices.len()).filter(|other| other.kind == word.kind).count();
        let device = device(word, slot, format!("{}{of_its_kind}", word.kind))?;
        one_tag_each(&devices, &device)?;
        vsock::one(&devices, &device)?;
        mem::few(&devices, &device)?;
        devices.push(device);
    }
    Ok(devices)
}

/// A guest that is shown a tag twice mounts one of the two.
fn one_tag_each(others: &[Device], device: &Device) -> Result<(), Error> {
    let Some(tag) = device.tag() else { return Ok(()) };
    match others.iter().find(|other| other.tag() == Some(tag)) {
        None => Ok(()),
        Some(other) => {
            let text = format!("tag={tag} is {}'s already; give each directory its own", other.name);
            Err(Error::Device { name: device.name.clone(), text })
        }
    }
}

fn device(word: &DeviceOption, slot: u8, name: String) -> Result<Device, Error> {
    let wrong = |text: String| Error::Device { name: word.kind.clone(), text };
    let Some((kind, virtio_type)) = TYPES.iter().find(|(known, _)| *known == word.kind) else {
        let names = TYPES.iter().map(|(known, _)| *known);
        let hint = nearest::hint(&word.kind, names.clone());
        let names: Vec<&str> = names.collect();
        return Err(wrong(format!(
            "unknown device type '{}'{hint}; known are {}",
            word.kind,
            names.join(", ")
        )));
    };
    let mut options = Options { name: &name, word, known: Vec::new(), takes_ports: false };
    let socket = options.text("socket");
    let queues = options.queues()?;
    let queue_size = options.queue_size()?;
    let back_end = match (socket, *kind) {
        (socket, "pmem") => BackEnd::Pmem(options.pmem(socket, queues)?),
        (socket, "mem") => BackEnd::Mem(options.mem(socket, queues)?),
        (Some(path), _) => BackEnd::Socket(PathBuf::from(path)),
        (None, "blk") => BackEnd::Blk(options.blk(queues, queue_size)?),
        (None, "net") => BackEnd::Net(options.net(queues)?),
        (None, "rng") => BackEnd::Rng(options.rng(queues)?),
        (None, "console") => BackEnd::Console(options.console(queues)?),
        (None, "balloon") => BackEnd::Balloon(options.balloon(queues)?),
        (None, "fs") => BackEnd::Fs(options.fs(queues)?),
        (None, "vsock") => BackEnd::Vsock(options.vsock(queues)?),
        (None, kind) => {
            let text =
                format!("no program of vmm serves it: name a vhost-user back end with {kind},socket=PATH");
            return Err(options.wrong(text));
        }
    };
    let on_failure = options.on_failure()?;
    let give_up = options.give_up(on_failure)?;
    let spare = back_end.program().is_some() && options.spare(on_failure)?;
    let limited = back_end.program().is_some()
        && !matches!(back_end, BackEnd::Balloon(_) | BackEnd::Mem(_) | BackEnd::Vsock(_));
    let rates = if limited { options.rates()? } else { Rates::default() };
    let patience = if back_end.program().is_none() { options.patience(on_failure)? } else { None };
    options.nothing_else()?;
    let queues = back_end.queues(queues);
    let virtio_type = *virtio_type;
    Ok(Device {
        name,
        slot,
        virtio_type,
        queues,
        queue_size,
        back_end,
        rates,
        spare,
        on_failure,
        give_up,
        patience,
    })
}

/// The options of one device; remembers which were asked for, so that the others can be refused.
struct Options<'a> {
    name: &'a str,
    word: &'a DeviceOption,
    known: Vec<&'static str>,
    /// Whether options that name ports are among them.
    takes_ports: bool,
}

impl<'a> Options<'a> {
    fn wrong(&self, text: String) -> Error {
        Error::Device { name: self.name.to_owned(), text }
    }

    fn text(&mut self, key: &'static str) -> Option<&'a str> {
        self.known.push(key);
        self.word.options.get(key).map(String::as_str)
    }

    fn switch(&mut self, key: &'static str, default: bool) -> Result<bool, Error> {
        match self.text(key) {
            None => Ok(default),
            Some("on" | "true") => Ok(true),
            Some("off" | "false") => Ok(false),
            Some(other) => Err(self.wrong(format!("{key}={other} is neither on nor off"))),
        }
    }

    fn queues(&mut self) -> Result<Option<u16>, Error> {
        let Some(text) = self.text("queues") else { return Ok(None) };
        match text.parse() {
            Ok(count) if (1..=limits::MAX_QUEUES).contains(&count) => Ok(Some(count)),
            _ => Err(self.wrong(format!("queues={text} is not a number from 1 to {}", limits::MAX_QUEUES))),
        }
    }

    fn queue_size(&mut self) -> Result<u16, Error> {
        let Some(text) = self.text("queue-size") else { return Ok(QUEUE_SIZE) };
        match text.parse::<u16>() {
            Ok(size) if size.is_power_of_two() && (2..=limits::MAX_QUEUE_SIZE).contains(&size) => Ok(size),
            _ => {
                let most = limits::MAX_QUEUE_SIZE;
                Err(self.wrong(format!("queue-size={text} is not a power of two from 2 to {most}")))
            }
        }
    }

    fn on_failure(&mut self) -> Result<OnFailure, Error> {
        match self.text("on-failure") {
            None | Some("restart") => Ok(OnFailure::Restart),
            Some("stop") => Ok(OnFailure::Stop),
            Some("fail") => Ok(OnFailure::Fail),
            Some(other) => Err(self.wrong(format!("on-failure={other} is none of restart, fail and stop"))),
        }
    }

    fn give_up(&mut self, on_failure: OnFailure) -> Result<GiveUp, Error> {
        match self.text("give-up") {
            Some(_) if on_failure != OnFailure::Restart => {
                Err(self.wrong("give-up= goes with on-failure=restart alone".to_owned()))
            }
            None | Some("stop") => Ok(GiveUp::Stop),
            Some("fail") => Ok(GiveUp::Fail),
            Some(other) => Err(self.wrong(format!("give-up={other} is neither fail nor stop"))),
        }
    }

    fn spare(&mut self, on_failure: OnFailure) -> Result<bool, Error> {
        match self.switch("spare", false)? {
            true if on_failure != OnFailure::Restart => {
                Err(self.wrong("spare=on goes with on-failure=restart alone".to_owned()))
            }
            spare => Ok(spare),
        }
    }

    fn patience(&mut self, on_failure: OnFailure) -> Result<Option<Duration>, Error> {
        match self.text("patience").map(|text| (text, text.parse::<u32>())) {
            None => Ok(None),
            Some(_) if on_failure != OnFailure::Restart => {
                Err(self.wrong("patience= goes with on-failure=restart alone".to_owned()))
            }
            Some((_, Ok(seconds))) => Ok(Some(Duration::from_secs(seconds.into()))),
            Some((text, Err(_))) => Err(self.wrong(format!("patience={text} is not a number of seconds"))),
        }
    }

    fn rng(&mut self, queues: Option<u16>) -> Result<PathBuf, Error> {
        if let Some(queues) = queues.filter(|queues| *queues != 1) {
            return Err(self.wrong(format!("queues={queues}: a virtio-rng has one queue")));
        }
        Ok(PathBuf::from(self.text("path").unwrap_or(GENERATOR)))
    }

    /// A slip in the name of an option is the likelier cause of what else is wrong, and says more. Beside what was asked for
    /// so far there are the options of every program of ours, and those of its limits if it can be limited.
    fn nothing_misspelt(&mut self, can_be_limited: bool) -> Result<(), Error> {
        self.known.extend(["on-failure", "give-up", "spare"]);
        if can_be_limited {
            self.known.extend(rates::KEYS);
        }
        self.nothing_else()
    }

    fn nothing_else(&self) -> Result<(), Error> {
        let is_known = |key: &&String| self.known.contains(&key.as_str()) || self.is_known_port(key);
        let Some(key) = self.word.options.keys().find(|key| !is_known(key)) else {
            return Ok(());
        };
        let hint = nearest::hint(key, self.known.iter().copied());
        let mut known = self.known.clone();
        known.sort_unstable();
        Err(self.wrong(format!("unknown option '{key}'{hint}; known here are {}", known.join(", "))))
    }
}

#[cfg(test)]
mod tests;
