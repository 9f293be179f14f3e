//! The virtio console device (virtio 1.2, §5.3): what it offers, and who serves which of its queues. It has one port,
//! which is the console, or, with VIRTIO_CONSOLE_F_MULTIPORT, several, of which the first may be one.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use device_backend::{Device, Error, Keeper, Kept, NOTHING_TO_SET, Service};
use protocol::{ConsoleOptions, ConsoleSize, Setting};

use crate::control::{Hearing, Shared, Telling};
use crate::port::{Port, Receive, Transmit};
use crate::ports::Description;
use crate::wire::{Config, feature, queue};

/// A console.
#[derive(Debug)]
pub struct Console {
    first: Port,
    /// From number 1 on.
    others: Vec<Port>,
    multiport: bool,
    file_limit: Option<u64>,
    shared: Arc<Shared>,
}

impl Console {
    /// Serves what `options` describe; port 0 is on `resource`.
    ///
    /// # Errors
    /// It cannot be used, or no descriptor is to be had.
    pub fn new(resource: OwnedFd, options: ConsoleOptions) -> Result<Self, Error> {
        let multiport = !options.ports.is_empty();
        let mut described: Vec<Description> = options.ports.into_iter().map(Description::from).collect();
        if described.is_empty() {
            described.push(Description { name: String::new(), console: true });
        }
        let shared = Arc::new(Shared::new(described, options.size)?);
        let first = Port::new(0, resource, &shared)?;
        Ok(Self { first, others: Vec::new(), multiport, file_limit: options.file_limit, shared })
    }

    /// Adds the resources of the ports from number 1 on.
    ///
    /// # Errors
    /// One of them cannot be used, or they are more or fewer than the ports.
    pub fn add(&mut self, resources: Vec<OwnedFd>) -> Result<(), Error> {
        let (found, wanted) = (resources.len(), self.shared.count().saturating_sub(1));
        if found != wanted {
            return Err(Error::Resource(format!("{found} descriptors are not those of {wanted} more ports")));
        }
        let others = (1..).zip(resources);
        self.others = others
            .map(|(number, resource)| Port::new(number, resource, &self.shared))
            .collect::<Result<_, _>>()?;
        Ok(())
    }

    fn count(&self) -> u16 {
        u16::try_from(self.shared.count()).unwrap_or(u16::MAX)
    }

    /// Whose data queue `index` is. The two control queues come between those of port 0 and the others.
    fn port_of(&self, index: u16) -> Port {
        let other = usize::from(index / 2).checked_sub(2);
        other.and_then(|other| self.others.get(other)).unwrap_or(&self.first).clone()
    }
}

impl Device for Console {
    fn features(&self) -> u64 {
        let multiport = if self.multiport { feature::MULTIPORT } else { 0 };
        feature::SIZE | multiport
    }

    /// No size is known by columns and rows of nothing.
    fn config(&self) -> Vec<u8> {
        let (cols, rows) = self.shared.size().map_or((0, 0), |ConsoleSize { columns, rows }| (columns, rows));
        Config { cols, rows, max_nr_ports: self.count().into() }.bytes()
    }

    fn queues(&self) -> u16 {
        if self.multiport { queue::count(self.count()) } else { queue::COUNT }
    }

    fn set(&self, setting: Setting) -> Result<bool, String> {
        match setting {
            Setting::Console(_) if !self.shared.has_console() => {
                Err("none of its ports is a console, which would have a size".to_owned())
            }
            Setting::Console(size) => {
                // It is kept by then.
                self.shared.resize(size);
                Ok(false)
            }
            _ => Err(NOTHING_TO_SET.to_owned()),
        }
    }

    fn reset(&self) -> bool {
        self.shared.reset();
        false
    }

    fn kept(&self) -> Option<Kept> {
        Some(self.shared.kept())
    }

    fn restore(&self, kept: &Kept) -> bool {
        self.shared.restore(kept)
    }

    fn keep_with(&self, keeper: Keeper) {
        self.shared.keep_with(keeper);
    }

    fn service(self: &Arc<Self>, index: u16) -> Service {
        match index {
            queue::RECEIVEQ => Service::Arrivals(Box::new(Receive::new(self.first.clone()))),
            queue::TRANSMITQ => {
                Service::Requests(Box::new(Transmit::new(self.first.clone(), self.file_limit)))
            }
            queue::CONTROL_RECEIVEQ => Service::Arrivals(Box::new(Telling::new(Arc::clone(&self.shared)))),
            queue::CONTROL_TRANSMITQ => Service::Requests(Box::new(Hearing(Arc::clone(&self.shared)))),
            index if index.is_multiple_of(2) => {
                Service::Arrivals(Box::new(Receive::new(self.port_of(index))))
            }
            index => Service::Requests(Box::new(Transmit::new(self.port_of(index), self.file_limit))),
        }
    }
}
