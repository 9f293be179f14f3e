//! What the user asks of a device that only the guest's driver knows.
//!
//! A process owes one answer at a time, to all who asked since the last one. When it comes is up to the guest, which may never
//! give one: a client waits for as long as it likes, and here nothing waits. A process that ends owes nothing any more,
//! and those who asked are told.

use protocol::{AskDevice, Failure, FailureKind, FromLauncher, Statistics, ToDevice};

use super::Supervisor;

/// The first minor version of a program that knows the word.
const SINCE: u8 = 5;

impl Supervisor {
    /// Has the guest's driver asked.
    pub(super) fn ask(&mut self, client: u64, AskDevice { device: name }: &AskDevice) -> Result<(), String> {
        let clients = self.clients.numbers();
        let process = self.serving(name, "statistics", SINCE)?;
        if process.statistics_for.is_none() {
            process.tell(&ToDevice::Statistics)?;
        }
        let asking = process.statistics_for.get_or_insert_default();
        // Who has hung up needs no answer: there are never more than there are clients.
        asking.retain(|asking| clients.contains(asking));
        if asking.contains(&client) {
            return Err(format!("the guest's driver of {name} is being asked already"));
        }
        asking.push(client);
        Ok(())
    }

    /// A device's program has answered.
    pub(super) fn on_statistics(&mut self, index: usize, statistics: Statistics) {
        let answer = match statistics {
            Statistics::Told(told) => FromLauncher::Statistics(told),
            Statistics::Refused(why) => FromLauncher::Failed(Failure::new(FailureKind::Device, &why)),
        };
        if !self.answer_asking(index, &answer) {
            self.on_violation(index, "statistics that nobody asked for");
        }
    }

    /// A device's program has ended, perhaps without an answer.
    pub(super) fn ask_no_more(&mut self, index: usize) {
        let text = "the device's program ended before the guest's driver answered: ask again";
        let _ = self.answer_asking(index, &FromLauncher::Failed(Failure::new(FailureKind::Device, text)));
    }

    /// Returns whether an answer was owed.
    fn answer_asking(&mut self, index: usize, answer: &FromLauncher) -> bool {
        let asking = self.processes.all.get_mut(index).and_then(|process| process.statistics_for.take());
        let Some(asking) = asking else { return false };
        asking.into_iter().for_each(|client| self.answer(client, answer));
        true
    }
}
