//! Each target over its corpus: regressions, in every run of the tests.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

use fuzz_targets::TARGETS;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Beyond these a corpus is no seed any more; `cargo xtask fuzz NAME --minimise` makes a smaller one.
const MOST_FILES: usize = 64;
const MOST_BYTES: u64 = 4096;

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_target_takes_its_whole_corpus() {
    for target in TARGETS {
        let folder = corpora().join(target.name);
        for file in names(&folder) {
            let data = std::fs::read(folder.join(&file)).unwrap();
            // Shown if the next line does not come back.
            println!("{}/{file}", target.name);
            (target.run)(&data);
        }
    }
}

/// A target's folder is how `cargo xtask fuzz` knows of it.
#[test]
fn each_target_has_a_small_corpus_and_each_corpus_a_target() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(targets.len(), TARGETS.len(), "two targets of one name");
    assert_eq!(names(&corpora()), targets);
    for target in TARGETS {
        let folder = corpora().join(target.name);
        let files = names(&folder);
        assert!((1..=MOST_FILES).contains(&files.len()), "{}: {} files", target.name, files.len());
        for file in files {
            let size = std::fs::metadata(folder.join(&file)).unwrap().len();
            assert!(size <= MOST_BYTES, "{}/{file}: {size} bytes", target.name);
        }
    }
}

#[test]
fn the_readme_lists_every_target() {
    let readme = std::fs::read_to_string(corpora().join("../../../README.md")).unwrap();
    let table = readme.split_once("<!-- fuzz targets -->").unwrap().1.split_once("<!-- /").unwrap().0;
    let first_column = table.lines().filter_map(|line| line.split('|').nth(1));
    let listed: BTreeSet<&str> = first_column.flat_map(|names| names.split('`').skip(1).step_by(2)).collect();
    assert_eq!(listed, TARGETS.iter().map(|target| target.name).collect());
}
