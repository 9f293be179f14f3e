//! The words of a vsock that `device-vsock` serves: who its guest is, and where its socket is.

use std::path::{Path, PathBuf};

use protocol::{VsockOptions, limits};

use super::{BackEnd, Device, Options};
use crate::error::Error;

/// To the driver, of the driver, and for events.
pub const QUEUES: u16 = 3;

/// A vsock that `device-vsock` serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vsock {
    /// Where it listens for programs of the host.
    pub path: PathBuf,
    /// What the program is told.
    pub options: VsockOptions,
}

impl Vsock {
    /// In which directory the sockets are.
    pub fn folder(&self) -> &Path {
        self.path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
    }
}

/// A guest has one: Linux takes no second, and would have two names.
pub fn one(others: &[Device], device: &Device) -> Result<(), Error> {
    let is_one = |device: &Device| matches!(device.back_end, BackEnd::Vsock(_));
    match others.iter().find(|other| is_one(other)).filter(|_| is_one(device)) {
        None => Ok(()),
        Some(other) => {
            let text = format!("{} is the guest's vsock already; a guest has one", other.name);
            Err(Error::Device { name: device.name.clone(), text })
        }
    }
}

impl Options<'_> {
    pub(super) fn vsock(&mut self, queues: Option<u16>) -> Result<Vsock, Error> {
        if let Some(queues) = queues.filter(|queues| *queues != QUEUES) {
            return Err(self.wrong(format!("queues={queues}: a virtio-vsock has three queues")));
        }
        let (path, cid) = (self.text("path").filter(|path| !path.is_empty()), self.text("cid"));
        self.nothing_misspelt(false)?;
        let path =
            path.ok_or_else(|| self.wrong("neither path=SOCKET nor socket=PATH is given".to_owned()))?;
        let cid = cid.ok_or_else(|| self.wrong("cid=N, the guest's number, is not given".to_owned()))?;
        let number = cid.parse().ok().filter(|cid| (limits::MIN_CID..=limits::MAX_CID).contains(cid));
        let number = number.ok_or_else(|| {
            self.wrong(format!("cid={cid} is not a number from {} to {}", limits::MIN_CID, limits::MAX_CID))
        })?;
        let most = limits::MAX_VSOCK_PATH;
        if path.len() > most {
            let text = format!(
                "path={path} has {} bytes, and may have {most}: a port comes behind it, as in {path}_1024",
                path.len()
            );
            return Err(self.wrong(text));
        }
        let path = PathBuf::from(path);
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| self.wrong(format!("path={} is not a socket's", path.display())))?;
        let options = VsockOptions { cid: number, name: name.to_owned() };
        options.check().map_err(|error| self.wrong(error.to_string()))?;
        Ok(Vsock { path, options })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::devices;

    fn parsed(words: &[&str]) -> Result<Vsock, String> {
        let words: Vec<_> = words.iter().map(|word| word.parse().unwrap()).collect();
        let device = devices(&words).map_err(|error| error.to_string())?.remove(0);
        assert_eq!((device.virtio_type, device.queues), (19, QUEUES));
        let BackEnd::Vsock(vsock) = device.back_end else { panic!("{:?}", device.back_end) };
        Ok(vsock)
    }

    #[test]
    fn a_vsock_has_a_number_and_a_socket_in_a_directory() {
        for (path, folder) in [("/run/a/vm", "/run/a"), ("vm", "."), ("a/vm", "a")] {
            let vsock = parsed(&[&format!("vsock,cid=3,path={path}")]).unwrap();
            assert_eq!((vsock.folder(), vsock.path.as_path()), (Path::new(folder), Path::new(path)));
            assert_eq!(vsock.options, VsockOptions { cid: 3, name: "vm".to_owned() });
        }
        assert_eq!(parsed(&["vsock,cid=4294967294,path=a"]).unwrap().options.cid, u32::MAX - 1);
    }

    #[test]
    fn slips_are_named() {
        let long = format!("vsock,cid=3,path=/{}", "x".repeat(96));
        for (words, part) in [
            (&["vsock,cid=3"][..], "neither path=SOCKET"),
            (&["vsock,path=a"], "cid=N"),
            (&["vsock,path=a,cid=2"], "from 3 to 4294967294"),
            (&["vsock,path=a,cid=4294967295"], "from 3 to 4294967294"),
            (&["vsock,path=a,cid=x"], "cid=x"),
            (&["vsock,path=/,cid=3"], "not a socket's"),
            (&[long.as_str()], "has 97 bytes"),
            (&["vsock,path=a,cid=3,queues=2"], "three queues"),
            (&["vsock,path=a,cid=3,bandwidth=1M"], "unknown option 'bandwidth'"),
            (&["vsock,path=a,cid=3,cidd=4"], "did you mean 'cid'"),
            (&["vsock,path=a,cid=3", "rng", "vsock,path=b,cid=4"], "vsock0 is the guest's"),
        ] {
            let said = parsed(words).unwrap_err();
            assert!(said.contains(part), "{words:?}: {said}");
        }
    }
}
