//! Which call eventfd raises which interrupt just now, and the KVM calls from one such state to the next.
//!
//! A source whose vector is masked, unassigned or aimed outside the interrupt window is disconnected: its eventfd
//! then adds up, which is its pending bit, and raises the interrupt when it is connected again.

use super::transport::{Source, Transport};
use crate::Error;
use crate::interrupts::{Interrupts, SharedEventFd};
use std::sync::Arc;

struct Line {
    source: Source,
    call: usize,
    gsi: Option<u32>,
}

/// See above.
pub struct Connections {
    interrupts: Arc<Interrupts>,
    /// One for each queue, then the one for configuration changes, which no back end ever gets.
    calls: Arc<[SharedEventFd]>,
    gsis: Vec<u32>,
    lines: Vec<Line>,
}

impl Connections {
    /// All disconnected. `calls` holds one eventfd for each queue and one more.
    pub fn new(
        interrupts: Arc<Interrupts>,
        calls: Arc<[SharedEventFd]>,
        transport: &Transport,
    ) -> Result<Self, Error> {
        let vectors = u16::try_from(transport.vectors()).unwrap_or(u16::MAX);
        let gsis = interrupts.allocate(vectors)?;
        let last = calls.len().saturating_sub(1);
        let line = |source| {
            let call = if let Source::Queue(index) = source { usize::from(index) } else { last };
            Line { source, call, gsi: None }
        };
        Ok(Self { lines: transport.sources().map(line).collect(), interrupts, calls, gsis })
    }

    /// Makes KVM's state what `transport` says. What KVM refuses stays disconnected, and the first refusal is told.
    pub fn follow(&mut self, transport: &Transport) -> Result<(), Error> {
        let mut result = Ok(());
        for line in &mut self.lines {
            let Some(call) = self.calls.get(line.call).map(SharedEventFd::as_eventfd) else { continue };
            let wanted = transport
                .message(line.source)
                .and_then(|(vector, message)| self.gsis.get(usize::from(vector)).map(|gsi| (*gsi, message)));
            if let Some(old) = line.gsi.take_if(|old| Some(*old) != wanted.map(|(gsi, _)| gsi)) {
                result = result.and(self.interrupts.disconnect(call, old));
            }
            let Some((gsi, message)) = wanted else { continue };
            let mut outcome = self.interrupts.route(gsi, message);
            if outcome.is_ok() && line.gsi.is_none() {
                outcome = self.interrupts.connect(call, gsi);
                line.gsi = outcome.is_ok().then_some(gsi);
            }
            result = result.and(outcome);
        }
        result
    }

    /// The sources that hold an interrupt back.
    #[must_use]
    pub fn pending(&self) -> Vec<Source> {
        let held = self.lines.iter().filter(|line| line.gsi.is_none());
        held.filter(|line| self.calls.get(line.call).is_some_and(SharedEventFd::is_pending))
            .map(|line| line.source)
            .collect()
    }

    /// Tells the driver of a change of the configuration or of the device's failure.
    pub fn signal_config(&self) {
        if let Some(call) = self.calls.last() {
            call.signal_unshared();
        }
    }
}
