//! A question that only the guest's driver can answer, between the user, who asks it now and then, and the queue on which
//! the driver is asked.
//!
//! Two threads have one: the control thread, which asks and has the answer sent, and the queue's, which sees the driver.
//! Neither waits for the other. A driver may never answer, and whoever asks has to be as patient as he likes; a question
//! that is put again before there is an answer is the same question. A process that ends takes its question with it:
//! whoever asked is told of the end, and the driver has its buffer still, or owes one.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{AcqRel, Release};
use std::sync::{Mutex, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};
use protocol::Statistic;

use crate::Error;
use crate::file_io::take_event;

/// See above.
#[derive(Debug)]
pub struct Inquiry {
    /// The feature without which a driver has no queue for it.
    feature: u64,
    /// Whether there is a question that has not been put to the driver.
    wanted: AtomicBool,
    /// Wakes the queue's thread.
    question: EventFd,
    answer: Mutex<Option<Vec<Statistic>>>,
    /// Wakes the control thread.
    answered: EventFd,
}

impl Inquiry {
    /// One that can be put to drivers that accepted `feature`, a bit.
    ///
    /// # Errors
    /// No descriptor is to be had.
    pub fn new(feature: u64) -> Result<Self, Error> {
        let event = || {
            let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
            EventFd::from_value_and_flags(0, flags).map_err(Error::system("create an eventfd"))
        };
        let (question, answered) = (event()?, event()?);
        Ok(Self { feature, wanted: AtomicBool::new(false), question, answer: Mutex::new(None), answered })
    }

    /// What becomes readable when the driver is to be asked.
    #[must_use]
    pub fn question(&self) -> BorrowedFd<'_> {
        self.question.as_fd()
    }

    /// Whether the driver is to be asked now. Says so once.
    #[must_use]
    pub fn take_question(&self) -> bool {
        take_event(&self.question);
        self.wanted.swap(false, AcqRel)
    }

    /// The driver has answered.
    pub fn answer(&self, told: Vec<Statistic>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
        let _ = self.answered.write(1);
    }

    pub(crate) fn feature(&self) -> u64 {
        self.feature
    }

    pub(crate) fn ask(&self) {
        self.wanted.store(true, Release);
        let _ = self.question.write(1);
    }

    /// What becomes readable when there is an answer.
    pub(crate) fn answered(&self) -> BorrowedFd<'_> {
        self.answered.as_fd()
    }

    pub(crate) fn take_answer(&self) -> Option<Vec<Statistic>> {
        take_event(&self.answered);
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
