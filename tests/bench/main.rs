//! What is measured natively and without a guest, with the real programs in their confinement: `cargo xtask bench`.

mod limits;
mod recovery;

use std::path::Path;
use std::process::ExitCode;

use system_tests::{Error, Result};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match measure(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(words: &[&str]) -> Result<()> {
    match words {
        ["recovery", stand_in, deaths] => {
            let deaths =
                deaths.parse().map_err(|_| Error::Unexpected(format!("{deaths}: how many deaths?")))?;
            recovery::recovery(Path::new(stand_in), deaths)
        }
        ["limits"] => limits::limits(),
        _ => Err(Error::Unexpected("bench recovery STAND-IN DEATHS | bench limits".to_owned())),
    }
}
