//! A machine of many devices, and what `vmm` has said of each.

use std::time::{Duration, Instant};

use system_tests::{Machine, Result, Running, children, within};

use crate::autopsy;
use crate::causes::Cause;
use crate::image::{Image, WRITERS};
use crate::one_process::SETTLED;
use crate::regions::Regions;

/// Disks, with their number of queues.
const DISKS: [&str; 4] = ["1", "2", "2", "1"];
const DISK_SIZE: u64 = 1 << 20;
/// So many deaths in a row are dared.
const EARLY: u32 = 4;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// What a device serves.
pub enum Serves {
    /// A disk on which the checker works, with its number.
    Disk(u32, Image),
    /// A disk on which fio works.
    Fio(Regions),
    /// A disk with programs, read now and then.
    Programs,
    /// Random bytes, which the guest reads or does not.
    Entropy,
}

/// A device.
pub struct Device {
    pub name: String,
    pub serves: Serves,
    /// Whether it is one that dies.
    pub dies: bool,
    pub pid: i32,
    pub deaths: Vec<Cause>,
    serves_now: bool,
    served_since: Instant,
    /// Deaths in a row.
    early: u32,
    /// What it had done when it served again: what it has in flight may have been in flight before.
    then: Option<[u64; WRITERS]>,
    pieces_then: usize,
}

/// The machine.
pub struct Fleet {
    pub running: Running,
    pub devices: Vec<Device>,
}

impl Fleet {
    /// Four disks and two generators, of which the last disk and the last generator are left alone; the guest works on
    /// all disks and reads from the first generator.
    pub fn start() -> Result<Self> {
        let mut machine = Machine::new("recover").option("cpus", "2");
        let mut devices = Vec::new();
        for (number, queues) in (0..).zip(DISKS) {
            let image = Image::empty(DISK_SIZE)?;
            machine = machine.disk(image.disk.path(), &format!(",serial=disk{number},queues={queues}"));
            let dies = usize::try_from(number) != Ok(DISKS.len() - 1);
            devices.push(Device::new(format!("blk{number}"), Serves::Disk(number, image), dies));
        }
        for number in 0..2 {
            machine = machine.option("device", "rng");
            devices.push(Device::new(format!("rng{number}"), Serves::Entropy, number == 0));
        }
        let running = machine.start()?;
        running.wait_for("checking")?;
        Self::of(running, devices)
    }

    /// A machine that runs, with all of its devices.
    pub fn of(running: Running, devices: Vec<Device>) -> Result<Self> {
        let mut fleet = Self { running, devices };
        fleet.find_first_processes()?;
        Ok(fleet)
    }

    /// The report of the confinement names each with its process.
    fn find_first_processes(&mut self) -> Result<()> {
        let log = self.running.wait_for_log("the report", |log| {
            log.split_inclusive('\n').find(|line| line.starts_with("vmm: confined: ")).map(str::to_owned)
        })?;
        let names: Vec<String> = self.devices.iter().map(|device| device.name.clone()).collect();
        for (device, name) in self.devices.iter_mut().zip(names) {
            device.pid = number_behind(&log, &format!("{name} (pid ")).expect("a process for each device");
        }
        Ok(())
    }

    /// Waits until one of those that are meant may die; this number, which is random, picks from those that may. Returns
    /// its place.
    pub fn next_victim(&mut self, pick: usize, is_meant: impl Fn(&Device) -> bool) -> Result<usize> {
        let mut places = Vec::new();
        within("a device that does its work again", || {
            self.notice_successors();
            let (console, devices) = (self.running.console(), self.devices.iter_mut());
            let able = devices.enumerate().filter_map(|(place, device)| {
                let is_meant = device.dies && is_meant(device);
                (is_meant && device.serves_now && device.has_progressed(&console)).then_some(place)
            });
            places = able.collect();
            if places.is_empty() {
                // Each look reads images, and the processors are those that the guest needs.
                std::thread::sleep(BETWEEN_LOOKS);
            }
            (!places.is_empty()).then_some(())
        })
        .inspect_err(|_| self.show())?;
        Ok(places[pick % places.len()])
    }

    /// Shows all that is known, for somebody who must find out what happened.
    fn show(&mut self) {
        autopsy::of(self);
        for Device { name, pid, deaths, serves_now, then, pieces_then, .. } in &self.devices {
            println!(
                "{name}: pid={pid} serves_now={serves_now} then={then:?} pieces_then={pieces_then} {deaths:?}"
            );
        }
        println!("--- console\n{}\n--- vmm\n{}", self.running.console(), self.running.log());
    }

    /// Takes note of who serves again.
    fn notice_successors(&mut self) {
        let log = self.running.log();
        for device in self.devices.iter_mut().filter(|device| !device.serves_now) {
            let mark = served_again(&device.name);
            let pids: Vec<i32> = log.split(mark.as_str()).skip(1).filter_map(number_of).collect();
            if let Some(pid) = pids.last().filter(|_| pids.len() == device.deaths.len()) {
                (device.pid, device.serves_now, device.served_since) = (*pid, true, Instant::now());
            }
        }
    }

    /// How long it has to live yet, so as not to be one death too many in a row.
    pub fn grace(&mut self, place: usize, moment: Duration) -> Duration {
        let device = &mut self.devices[place];
        let settles_in = SETTLED.saturating_sub(device.served_since.elapsed());
        if moment >= settles_in {
            device.early = 0;
            moment
        } else if device.early < EARLY {
            device.early += 1;
            moment
        } else {
            device.early = 0;
            settles_in
        }
    }

    /// Notes a death.
    pub fn mourn(&mut self, place: usize, cause: Cause) {
        let pieces = self.running.console().matches("@@read ").count();
        let device = &mut self.devices[place];
        device.deaths.push(cause);
        device.serves_now = false;
        device.then = None;
        if let Serves::Fio(regions) = &mut device.serves {
            regions.begin_anew();
        }
        // One may have been on its way to the console when it died.
        device.pieces_then = pieces + 1;
    }

    /// Waits until all serve.
    pub fn recover(&mut self) -> Result<()> {
        let waiting: Vec<(String, usize)> =
            self.devices.iter().map(|device| (served_again(&device.name), device.deaths.len())).collect();
        self.running.wait_for_log("all devices", |log| {
            waiting.iter().all(|(mark, deaths)| log.matches(mark.as_str()).count() >= *deaths).then_some(())
        })
    }

    /// Asserts that the devices that nobody touched are served by whom they were served.
    pub fn check_untouched(&mut self) {
        let alive = children(self.running.pid());
        let is_alive = |device: &Device| alive.iter().any(|process| process.pid == device.pid);
        let touched = self.devices.iter().find(|device| !device.dies && !is_alive(device));
        if let Some(name) = touched.map(|device| device.name.clone()) {
            self.show();
            panic!("{name} was left alone");
        }
    }
}

impl Device {
    /// A device that serves since the machine's start.
    pub fn new(name: String, serves: Serves, dies: bool) -> Self {
        Self {
            name,
            serves,
            dies,
            pid: 0,
            deaths: Vec::new(),
            serves_now: true,
            served_since: Instant::now(),
            early: 0,
            then: None,
            pieces_then: 0,
        }
    }

    /// Whether it has given back whatever it had taken when it began to serve. A request that is in flight at death after
    /// death is suspected of causing them, and rightly not offered again.
    fn has_progressed(&mut self, console: &str) -> bool {
        match &mut self.serves {
            Serves::Disk(_, image) => {
                let now = image.progress();
                let then = *self.then.get_or_insert(now);
                // A writer's first write may have been in flight, or be in the image without an answer; when there is one
                // behind the next, it was answered.
                now.iter().zip(then).all(|(now, then)| *now >= then + 2)
            }
            Serves::Fio(regions) => regions.have_progressed(),
            Serves::Programs => true,
            Serves::Entropy => console.matches("@@read ").count() > self.pieces_then,
        }
    }
}

fn served_again(name: &str) -> String {
    format!("vmm: device {name} serves again (pid ")
}

/// The number behind `mark`.
fn number_behind(text: &str, mark: &str) -> Option<i32> {
    number_of(text.split_once(mark)?.1)
}

/// The number at the start of `text`, if its line is whole.
fn number_of(text: &str) -> Option<i32> {
    let (line, _) = text.split_once('\n')?;
    line.split_once([')', ','])?.0.parse().ok()
}
