//! The words of a directory that `device-fs` serves: where it is, and what its guest is told.

use std::path::PathBuf;

use protocol::FsOptions;

use super::Options;
use crate::error::Error;

/// A directory that `device-fs` serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fs {
    /// The directory.
    pub path: PathBuf,
    /// What the program is told.
    pub options: FsOptions,
}

impl Fs {
    /// Of its device.
    pub fn queues(&self) -> u16 {
        self.options.all_queues()
    }
}

impl Options<'_> {
    pub(super) fn fs(&mut self, queues: Option<u16>) -> Result<Fs, Error> {
        let (path, tag) = (self.text("path").filter(|path| !path.is_empty()), self.text("tag"));
        let readonly = self.switch("readonly", false)?;
        self.nothing_misspelt(true)?;
        let path =
            path.ok_or_else(|| self.wrong("neither path=DIRECTORY nor socket=PATH is given".to_owned()))?;
        let tag =
            tag.ok_or_else(|| self.wrong("tag=NAME, by which the guest mounts it, is not given".to_owned()))?;
        let options = FsOptions { tag: tag.to_owned(), readonly, queues: queues.unwrap_or(1) };
        options.check().map_err(|error| self.wrong(error.to_string()))?;
        Ok(Fs { path: PathBuf::from(path), options })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{BackEnd, devices};

    fn parsed(words: &[&str]) -> Result<Vec<Fs>, String> {
        let words: Vec<_> = words.iter().map(|word| word.parse().unwrap()).collect();
        let devices = devices(&words).map_err(|error| error.to_string())?;
        Ok(devices
            .into_iter()
            .map(|device| {
                let BackEnd::Fs(fs) = device.back_end else { panic!("{:?}", device.back_end) };
                assert_eq!((device.virtio_type, device.queues), (26, fs.queues()));
                fs
            })
            .collect())
    }

    #[test]
    fn a_directory_has_a_tag() {
        let fs = parsed(&["fs,path=/srv,tag=data"]).unwrap().remove(0);
        let options = FsOptions { tag: "data".to_owned(), readonly: false, queues: 1 };
        assert_eq!(fs, Fs { path: PathBuf::from("/srv"), options });
        let fs = parsed(&["fs,path=/srv,tag=data,readonly=on,queues=4"]).unwrap().remove(0);
        assert_eq!((fs.options.readonly, fs.queues()), (true, 5));
        assert!(parsed(&["fs,path=a,tag=a", "fs,path=a,tag=b"]).is_ok());
    }

    #[test]
    fn slips_are_named() {
        let long = format!("fs,path=a,tag={}", "x".repeat(37));
        for (words, part) in [
            (&["fs,tag=a"][..], "neither path=DIRECTORY"),
            (&["fs,path=a"], "tag=NAME"),
            (&["fs,path=a,tag="], "1 to 36 bytes"),
            (&[long.as_str()], "length of a tag is 37"),
            (&["fs,path=a,tag=a,queues=64"], "1 to 63"),
            (&["fs,path=a,tag=a,read-only=on"], "did you mean 'readonly'"),
            (&["fs,path=a,tag=t", "rng", "fs,path=b,tag=t"], "tag=t is fs0's already"),
        ] {
            let said = parsed(words).unwrap_err();
            assert!(said.contains(part), "{words:?}: {said}");
        }
    }
}
