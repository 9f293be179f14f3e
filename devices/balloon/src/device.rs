//! The traditional memory balloon (virtio 1.2, §5.5): the driver gives pages of its memory, which the host gets back, until
//! it has given as many as the user wants.
//!
//! A page that was given reads as zeroes once it is touched again, in every process that maps it, and costs the host
//! memory again then; there is nothing to be done for a page that the driver takes back. So
//! VIRTIO_BALLOON_F_MUST_TELL_HOST is not offered, and a request may be done twice: until it was answered, its pages are
//! the balloon's.
//!
//! What outlives the process is what the user wants and how much the driver says that it has given (`actual`). Which
//! pages those are only the driver knows.
//!
//! What the guest's memory is used for is asked of the driver when the user asks, and then only: it has one buffer with the
//! answer to the question before, which is held here until then.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use device_backend::{
    Device, Error, GiveBackError, GuestPages, Handler, Holder, Inquiry, Kept, NOTHING_TO_SET, Outside,
    Reader, Service, Turn, Writer, log_line,
};
use protocol::{BALLOON_ACTUAL, BALLOON_TARGET, BalloonOptions, Setting};

use crate::request::{self, Run};
use crate::wire::{Config, PAGE, feature, queue};

/// Of the kept bytes: `num_pages` and `actual`, little-endian.
const KEPT_VERSION: u16 = 1;

/// A balloon.
#[derive(Debug)]
pub struct Balloon {
    options: BalloonOptions,
    num_pages: AtomicU32,
    actual: AtomicU32,
    statistics: Inquiry,
}

impl Balloon {
    /// Wants what `options` say.
    ///
    /// # Errors
    /// No descriptor is to be had.
    pub fn new(options: BalloonOptions) -> Result<Self, Error> {
        let num_pages = AtomicU32::new(pages(options.size));
        let statistics = Inquiry::new(feature::STATS_VQ)?;
        Ok(Self { options, num_pages, actual: AtomicU32::new(0), statistics })
    }
}

/// What is less than a page is none.
fn pages(bytes: u64) -> u32 {
    u32::try_from(bytes / PAGE).unwrap_or(u32::MAX)
}

impl Device for Balloon {
    fn features(&self) -> u64 {
        let bit = |wanted, bit| if wanted { bit } else { 0 };
        feature::STATS_VQ
            | bit(self.options.deflate_on_oom, feature::DEFLATE_ON_OOM)
            | bit(self.options.free_page_reporting, feature::REPORTING)
    }

    fn config(&self) -> Vec<u8> {
        Config { num_pages: self.num_pages.load(Relaxed), actual: self.actual.load(Relaxed) }.bytes()
    }

    fn queues(&self) -> u16 {
        queue::COUNT
    }

    /// It does nothing that a driver has not to give something for.
    fn can_be_limited(&self) -> bool {
        false
    }

    /// `actual`, whole, and nothing else (§5.5.4.1).
    fn write_config(&self, offset: usize, data: &[u8]) -> bool {
        let Ok(data) = <[u8; 4]>::try_from(data) else { return false };
        if offset != Config::ACTUAL_AT {
            return false;
        }
        let actual = u32::from_le_bytes(data);
        self.actual.swap(actual, Relaxed) != actual
    }

    fn set(&self, setting: Setting) -> Result<bool, String> {
        let Setting::Balloon(bytes) = setting else {
            return Err(NOTHING_TO_SET.to_owned());
        };
        let wanted = pages(bytes);
        Ok(self.num_pages.swap(wanted, Relaxed) != wanted)
    }

    fn inquiry(&self) -> Option<&Inquiry> {
        Some(&self.statistics)
    }

    /// In bytes.
    fn numbers(&self) -> Vec<(&'static str, u64)> {
        let bytes = |pages: &AtomicU32| u64::from(pages.load(Relaxed)).saturating_mul(PAGE);
        vec![(BALLOON_TARGET, bytes(&self.num_pages)), (BALLOON_ACTUAL, bytes(&self.actual))]
    }

    fn reset(&self) -> bool {
        self.actual.swap(0, Relaxed) != 0
    }

    fn kept(&self) -> Option<Kept> {
        let words = [self.num_pages.load(Relaxed), self.actual.load(Relaxed)];
        let state = words.into_iter().flat_map(u32::to_le_bytes).collect();
        Some(Kept { version: KEPT_VERSION, state })
    }

    fn restore(&self, kept: &Kept) -> bool {
        let (words, rest) = kept.state.as_chunks::<4>();
        let ([num_pages, actual], [], KEPT_VERSION) = (words, rest, kept.version) else { return false };
        self.num_pages.store(u32::from_le_bytes(*num_pages), Relaxed);
        self.actual.store(u32::from_le_bytes(*actual), Relaxed);
        true
    }

    fn service(self: &Arc<Self>, index: u16) -> Service {
        let giver = |what| Box::new(Giver { what, memory: None, failed: false });
        match index {
            queue::INFLATEQ => Service::Requests(giver(Given::Numbers)),
            queue::DEFLATEQ => Service::Requests(Box::new(Deflate)),
            queue::STATSQ => Service::Held {
                holder: Box::new(Asker { balloon: Arc::clone(self), awaited: false }),
                feature: feature::STATS_VQ,
                otherwise: giver(Given::Buffers),
            },
            _ => Service::Requests(giver(Given::Buffers)),
        }
    }
}

/// In which form pages are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    /// By number, `inflateq`.
    Numbers,
    /// As what the device may write, `reporting_vq` (§5.5.6.7): they stay the driver's.
    Buffers,
}

/// Gives pages back to the host.
struct Giver {
    what: Given,
    memory: Option<GuestPages>,
    /// That the host takes none has been said.
    failed: bool,
}

impl Giver {
    /// There is no answer that says "failed": what the host does not take stays as it is.
    fn note(&mut self, result: Result<(), GiveBackError>) {
        if let Err(GiveBackError::Host(errno)) = result
            && !std::mem::replace(&mut self.failed, true)
        {
            log_line(format_args!("the host does not take guest memory back: {errno}"));
        }
    }
}

impl Handler for Giver {
    fn attach(&mut self, memory: &GuestPages) {
        self.memory = Some(memory.clone());
    }

    fn handle(
        &mut self,
        _features: u64,
        reader: Reader<'_, '_>,
        writer: Writer<'_, '_>,
    ) -> Result<u32, &'static str> {
        let Some(memory) = self.memory.clone() else { return Ok(0) };
        match self.what {
            Given::Buffers => self.note(memory.give_back_room(&writer).map(drop)),
            Given::Numbers => {
                for run in request::runs(reader) {
                    self.note(give_back(&memory, run));
                }
            }
        }
        Ok(0)
    }

    fn refuse(&mut self, _writer: Writer<'_, '_>) -> Result<u32, &'static str> {
        Ok(0)
    }

    /// Pages that are no memory of this process's, as those of persistent memory that the guest uses as RAM, stay as they are.
    fn refuse_outside(&mut self, _request: Outside<'_, '_>) -> Result<u32, &'static str> {
        Ok(0)
    }
}

/// A run may pass from one region into the next, or out of memory: each region gets its part, and what is in none nobody.
fn give_back(memory: &GuestPages, Run { mut address, mut length }: Run) -> Result<(), GiveBackError> {
    while length > 0 {
        let here = memory.within_region(address, length);
        // A region that does not end with a page has a last one that is not whole.
        let whole = here & !(PAGE - 1);
        if whole > 0 {
            memory.give_back(address, whole)?;
        }
        let step = whole.max(PAGE);
        address = address.saturating_add(step);
        length = length.saturating_sub(step);
    }
    Ok(())
}

/// `deflateq`: what is taken back is there once it is touched.
struct Deflate;

impl Handler for Deflate {
    fn handle(
        &mut self,
        _features: u64,
        _reader: Reader<'_, '_>,
        _writer: Writer<'_, '_>,
    ) -> Result<u32, &'static str> {
        Ok(0)
    }

    fn refuse(&mut self, _writer: Writer<'_, '_>) -> Result<u32, &'static str> {
        Ok(0)
    }

    /// Pages that are no memory of this process's, as those of persistent memory that the guest uses as RAM, stay as they are.
    fn refuse_outside(&mut self, _request: Outside<'_, '_>) -> Result<u32, &'static str> {
        Ok(0)
    }
}

/// `statsq` (§5.5.6.3): the driver begins with a buffer that answers nothing, and puts another there for each that it is
/// given back.
struct Asker {
    balloon: Arc<Balloon>,
    /// The driver was given its buffer back: the next one is an answer.
    awaited: bool,
}

impl Holder for Asker {
    fn source(&self) -> BorrowedFd<'_> {
        self.balloon.statistics.question()
    }

    fn look(&mut self, reader: Reader<'_, '_>) -> Turn {
        let statistics = &self.balloon.statistics;
        if std::mem::take(&mut self.awaited) {
            statistics.answer(request::statistics(reader));
        }
        self.awaited = statistics.take_question();
        if self.awaited { Turn::GiveBack } else { Turn::Hold }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balloon(size: u64) -> Balloon {
        Balloon::new(BalloonOptions { size, deflate_on_oom: true, free_page_reporting: false }).unwrap()
    }

    #[test]
    fn the_driver_writes_actual_whole_and_nothing_else() {
        let balloon = balloon(3 * PAGE + 1);
        let before = balloon.config();
        assert_eq!(before[..8], [3, 0, 0, 0, 0, 0, 0, 0]);
        for (offset, size) in [(0, 4), (4, 1), (4, 2), (5, 4), (3, 4), (8, 4), (12, 4), (0, 16), (4, 0)] {
            assert!(!balloon.write_config(offset, &vec![0xff; size]), "{offset} {size}");
        }
        assert_eq!(balloon.config(), before);
        assert!(balloon.write_config(4, &[2, 0, 0, 0]));
        assert!(!balloon.write_config(4, &[2, 0, 0, 0]), "no change");
        assert_eq!(balloon.config()[4..8], [2, 0, 0, 0]);
        assert!(balloon.reset() && !balloon.reset());
        assert_eq!(balloon.config(), before, "what the user wants is not the driver's to reset");
    }

    #[test]
    fn what_the_user_wants_and_the_driver_gave_outlives_the_process() {
        let old = balloon(PAGE);
        assert_eq!(old.set(Setting::Balloon(9 * PAGE)), Ok(true));
        assert_eq!(old.set(Setting::Balloon(9 * PAGE + 17)), Ok(false), "the same pages");
        assert!(old.write_config(4, &[7, 0, 0, 0]));
        let kept = old.kept().unwrap();
        let new = balloon(PAGE);
        assert!(new.restore(&kept));
        assert_eq!(new.config(), old.config());
        assert_eq!(new.numbers(), [("balloon-target", 9 * PAGE), ("balloon-actual", 7 * PAGE)]);
        for (version, size) in [(0, 8), (2, 8), (1, 0), (1, 4), (1, 7), (1, 9), (1, 12), (1, 2000)] {
            assert!(!new.restore(&Kept { version, state: vec![0; size] }), "{version} {size}");
        }
        assert_eq!(new.config(), old.config());
    }
}
