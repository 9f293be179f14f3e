//! What a program writes, collected while it runs, so that the program never waits for its reader.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::environment::patience;
use crate::{Error, Result};

/// The text that came out of a pipe so far.
pub struct Capture {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    grown: Condvar,
}

#[derive(Default)]
struct State {
    text: String,
    ended: bool,
}

impl Capture {
    /// Reads `pipe` to its end in a thread of its own.
    pub fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut buffer = [0_u8; 4096];
            while let Ok(length) = pipe.read(&mut buffer) {
                let bytes = buffer.get(..length).unwrap_or_default();
                if bytes.is_empty() {
                    break;
                }
                writer.lock().text.push_str(&String::from_utf8_lossy(bytes));
                writer.grown.notify_all();
            }
            writer.lock().ended = true;
            writer.grown.notify_all();
        });
        Self { shared }
    }

    /// All that came so far.
    pub fn text(&self) -> String {
        self.shared.lock().text.clone()
    }

    /// Waits until `find` finds something in the text; `None` if the text ended without it or did not
    /// show it within `patience`.
    pub fn wait_for<T>(&self, patience: Duration, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let deadline = Instant::now().checked_add(patience)?;
        let mut state = self.shared.lock();
        loop {
            if let Some(found) = find(&state.text) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return None;
            }
            let waited = self.shared.grown.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the end of the pipe, which comes when all who could write are gone; returns all.
    pub fn wait_for_end(&self) -> Result<String> {
        let patience = patience();
        self.wait_for(patience, |_| None::<()>);
        let text = self.text();
        if self.shared.lock().ended {
            return Ok(text);
        }
        Err(Error::Silent {
            what: "the end of a pipe (somebody still holds it)".to_owned(),
            patience,
            seen: text,
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_found_and_its_end_is_seen() {
        let capture = Capture::of(&b"one\ntwo\n"[..]);
        let found = capture.wait_for(Duration::from_secs(60), |text| text.find("two"));
        assert_eq!(found, Some(4));
        assert_eq!(capture.wait_for(Duration::from_secs(60), |text| text.find("three")), None);
        assert_eq!(capture.wait_for_end().unwrap(), "one\ntwo\n");
    }
}
