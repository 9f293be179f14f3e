//! Fault points: named places between two steps of serving a request, at which a test build dies when it is told to.
//!
//! They are compiled in by the feature `fault-points`, which a release build refuses. Without the feature
//! [`fault_point!`](crate::fault_point) stands for nothing at all. The death is one that a policy makes: a system call that no serving filter has,
//! so that this thread goes no further than this very instruction (it tells of the call, and the process ends), and a
//! test needs no permission that a user's program lacks.

/// Dies here if `--die-at` said so. Nothing, without the feature `fault-points`.
#[cfg(not(feature = "fault-points"))]
#[macro_export]
macro_rules! fault_point {
    ($point:ident) => {};
}

/// Dies here if `--die-at` said so.
#[cfg(feature = "fault-points")]
#[macro_export]
macro_rules! fault_point {
    ($point:ident) => {
        $crate::fault::pass($crate::fault::Point::$point)
    };
}

#[cfg(feature = "fault-points")]
pub use armed::{Point, pass};
#[cfg(feature = "fault-points")]
pub(crate) use armed::{argument, arm};

#[cfg(all(feature = "fault-points", not(debug_assertions)))]
compile_error!("fault-points is for tests: a program that dies on request is not to be installed");

#[cfg(feature = "fault-points")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::Relaxed;

    use crate::{Error, log, process};

    macro_rules! points {
        ($($point:ident $name:literal,)*) => {
            /// A place, by what happens before or after it.
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            #[expect(missing_docs, reason = "the names say it, and inflight.rs and ring.rs what lies between them")]
            pub enum Point { $($point,)* }

            impl Point {
                /// All, with their names on the command line, in the order in which a request passes them.
                pub const ALL: &[(Self, &str)] = &[$((Self::$point, $name),)*];
            }
        };
    }

    points! {
        BeforeRecovery "before-recovery",
        AmidRecovery "amid-recovery",
        AfterRecovery "after-recovery",
        BeforeTaken "before-taken",
        AmidTaken "amid-taken",
        AfterTaken "after-taken",
        BeforeHandling "before-handling",
        AfterHandling "after-handling",
        BeforeIo "before-io",
        AfterIo "after-io",
        BeforeGivingBack "before-giving-back",
        AmidGivingBack "amid-giving-back",
        AfterGivingBack "after-giving-back",
        AfterUsedElement "after-used-element",
        AfterUsedIndex "after-used-index",
        AmidGivenBack "amid-given-back",
        AfterGivenBack "after-given-back",
        BeforeCall "before-call",
        AfterCall "after-call",
    }

    /// Where to die, the how manieth time that a thread of this process gets there, and the words that said so.
    static ORDER: OnceLock<(Point, u64, String)> = OnceLock::new();
    /// How often one did.
    static PASSED: AtomicU64 = AtomicU64::new(0);

    /// Takes the value of `--die-at`: `POINT:N`, N from 1.
    pub(crate) fn arm(text: &str) -> Result<(), Error> {
        let wrong =
            || Error::Usage(format!("--die-at={text}: say POINT:N, a fault point and a number from 1"));
        let (name, times) = text.split_once(':').ok_or_else(wrong)?;
        let (point, _) = Point::ALL.iter().find(|(_, known)| *known == name).ok_or_else(wrong)?;
        let times: u64 = times.parse().map_err(|_| wrong())?;
        ORDER.set((*point, times, text.to_owned())).map_err(|_| wrong())
    }

    /// The option again, for a child that is this program.
    pub(crate) fn argument() -> Option<String> {
        ORDER.get().map(|(_, _, text)| format!("--die-at={text}"))
    }

    /// This place is passed: for the last time, if it is the one.
    pub fn pass(point: Point) {
        let Some((_, times, text)) = ORDER.get().filter(|(wanted, ..)| *wanted == point) else { return };
        if PASSED.fetch_add(1, Relaxed).wrapping_add(1) != *times {
            return;
        }
        // getppid: harmless, and in no serving list.
        let _ = std::os::unix::process::parent_id();
        log::line(format_args!("fault point {text}: no filter ended this process"));
        process::exit_now(1)
    }
}
