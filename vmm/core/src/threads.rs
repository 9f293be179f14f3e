//! The threads of the core, and the order in which they come into being: all are made, each confines itself
//! (its filter has no `clone`) and prepares, then the whole process may have no more of them, then the thread
//! that made them confines itself, and only then are they let loose.

use crate::Error;
use sandbox_policies::{Program, Stage};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Threads that wait.
pub struct Threads {
    gate: Arc<Gate>,
    count: usize,
    sender: Sender<Result<(), Error>>,
    confined: Receiver<Result<(), Error>>,
    filtered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Wait,
    Confine,
    Serve,
}

struct Gate {
    step: Mutex<Step>,
    changed: Condvar,
}

impl Gate {
    fn open(&self, step: Step) {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = step;
        self.changed.notify_all();
    }

    fn pass(&self, wanted: Step) {
        let step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = self.changed.wait_while(step, |step| *step < wanted);
        drop(passed.unwrap_or_else(PoisonError::into_inner));
    }
}

/// What a thread does that has nothing more to do: the end of a thread, and of what it owns, is made of
/// system calls that no serving list has. It all goes with the process.
pub fn rest() -> ! {
    loop {
        std::thread::park();
    }
}

impl Default for Threads {
    fn default() -> Self {
        let (sender, confined) = channel();
        let gate = Arc::new(Gate { step: Mutex::new(Step::Wait), changed: Condvar::new() });
        Self { gate, count: 0, sender, confined, filtered: true }
    }
}

impl Threads {
    /// Threads that stay under the filter of whoever made them: for machines inside a test, whose process
    /// must live on.
    #[must_use]
    pub fn unconfined() -> Self {
        Self { filtered: false, ..Self::default() }
    }

    /// Makes a thread. In `stage` it calls `prepare`, while threads may still come into being, and what that
    /// returns once [`Self::serve`] has been called.
    ///
    /// # Errors
    /// The host makes no more threads.
    pub fn spawn<Body: FnOnce()>(
        &mut self,
        name: String,
        stage: Stage,
        prepare: impl FnOnce() -> Result<Body, Error> + Send + 'static,
    ) -> Result<(), Error> {
        let (gate, sender, filtered) = (Arc::clone(&self.gate), self.sender.clone(), self.filtered);
        let run = move || {
            gate.pass(Step::Confine);
            let confined = if filtered { sandbox_policies::stage_two(Program::Core, stage) } else { Ok(()) };
            // Whoever waits for the answer is gone only with the whole process.
            match confined.map_err(Error::from).and_then(|()| prepare()) {
                Ok(body) => {
                    let _gone = sender.send(Ok(()));
                    gate.pass(Step::Serve);
                    body();
                }
                Err(error) => {
                    let _gone = sender.send(Err(error));
                }
            }
            rest()
        };
        std::thread::Builder::new().name(name).spawn(run).map_err(Error::io("clone"))?;
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    /// Lets every thread confine itself and waits until all have; then confines the caller to `stage`.
    ///
    /// # Errors
    /// A layer could not be put in force on one of them.
    pub fn confine(&self, stage: Stage) -> Result<(), Error> {
        self.gate.open(Step::Confine);
        for confined in self.confined.iter().take(self.count) {
            confined?;
        }
        if self.filtered {
            sandbox_policies::limit_processes()?;
            sandbox_policies::stage_two(Program::Core, stage)?;
        }
        Ok(())
    }

    /// Lets them loose.
    pub fn serve(&self) {
        self.gate.open(Step::Serve);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn no_thread_runs_before_all_are_confined_and_let_loose() {
        let mut threads = Threads::unconfined();
        let runs = Arc::new(AtomicU32::new(0));
        let (done, all) = channel();
        for index in 0..4 {
            let (runs, done) = (Arc::clone(&runs), done.clone());
            let body = move || {
                Ok(move || {
                    runs.fetch_add(1, Ordering::SeqCst);
                    done.send(()).unwrap();
                })
            };
            threads.spawn(format!("t{index}"), Stage::Vcpu, body).unwrap();
        }
        threads.confine(Stage::Control).unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 0);
        threads.serve();
        (0..4).for_each(|_| all.recv().unwrap());
        assert_eq!(runs.load(Ordering::SeqCst), 4);
    }

    #[test]
    fn a_thread_that_cannot_prepare_stops_the_start() {
        let mut threads = Threads::unconfined();
        threads.spawn("well".to_owned(), Stage::Vcpu, || Ok(|| ())).unwrap();
        let prepare = || -> Result<fn(), Error> { Err(Error::HandOver("unwell")) };
        threads.spawn("unwell".to_owned(), Stage::Vcpu, prepare).unwrap();
        assert!(threads.confine(Stage::Control).is_err());
    }
}
