//! Programs of the host that talk with a guest over its vsock: in the convention of Firecracker and Cloud Hypervisor.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use crate::environment::patience;
use crate::error::tried;
use crate::{Error, Result};

/// A port of the guest that has accepted.
pub fn connect(path: &Path, port: u32) -> Result<UnixStream> {
    let mut stream = ask(path, port)?;
    let (mut line, mut byte) = (Vec::new(), [0]);
    while byte != *b"\n" {
        stream.read_exact(&mut byte).map_err(tried(format!("no answer from port {port}")))?;
        line.extend(byte);
    }
    let line = String::from_utf8_lossy(&line);
    let host = line.trim_end().strip_prefix("OK ").and_then(|host| host.parse::<u32>().ok());
    host.map(|_| stream).ok_or_else(|| Error::Unexpected(format!("the answer {line:?}")))
}

/// Asks for a port of the guest, and does not wait for its answer.
pub fn ask(path: &Path, port: u32) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(path).map_err(tried("cannot reach the vsock"))?;
    patient(&stream)?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).map_err(tried("cannot ask for a port"))?;
    Ok(stream)
}

fn patient(stream: &UnixStream) -> Result<()> {
    for set in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
        set(stream, Some(patience())).map_err(tried("cannot limit the wait for the guest"))?;
    }
    Ok(())
}

/// Sends `bytes` to a guest that sends back what comes, and compares.
pub fn comes_back(mut stream: &UnixStream, bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes).map_err(tried("cannot send to the guest"))?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).map_err(tried("nothing came back from the guest"))?;
    if back == bytes { Ok(()) } else { Err(Error::Unexpected("bytes came back as others".to_owned())) }
}

/// Ends our half, and waits for the guest's end, which must be the next that comes.
pub fn ends(mut stream: &UnixStream) -> Result<()> {
    stream.shutdown(Shutdown::Write).map_err(tried("cannot end a stream"))?;
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Error::Unexpected("there was more before the end".to_owned())),
        Err(error) => Err(tried("the guest does not end a stream")(error)),
    }
}

/// Has so many connections at once with the guest's job `vsock`, which sends back what comes, and ends each of them.
pub fn converse(path: &Path, connections: usize) -> Result<()> {
    let clients = (0..connections).map(|_| connect(path, 1024)).collect::<Result<Vec<_>>>()?;
    for round in 0..5 {
        for (client, number) in clients.iter().zip(1..) {
            comes_back(client, format!("{number} in {round} ").repeat(number).as_bytes())?;
        }
    }
    clients.iter().try_for_each(ends)
}

/// Listens where the guest reaches `port` of the host, by way of the vsock at `path`.
pub fn listen(path: &Path, port: u32) -> Result<UnixListener> {
    let path = PathBuf::from(format!("{}_{port}", path.display()));
    let listener = UnixListener::bind(&path).map_err(tried("cannot listen for the guest"))?;
    // Where the host's file system maps no owners (tmpfs before Linux 6.3), root's program is a stranger.
    let mode = PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&path, mode).map_err(tried("cannot let the guest in"))?;
    Ok(listener)
}

/// Sends back to each of so many clients what comes, until its end. Ends with how many bytes those were.
pub fn echo(listener: UnixListener, clients: usize) -> JoinHandle<std::io::Result<u64>> {
    std::thread::spawn(move || {
        let mut serving = Vec::new();
        for _ in 0..clients {
            let (stream, _) = listener.accept()?;
            serving.push(std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream)));
        }
        let panicked = |_| std::io::Error::other("whoever echoes panicked");
        serving.into_iter().map(|client| client.join().map_err(panicked)?).sum()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_compared_and_an_early_end_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("vm");
        let echo = echo(listen(&path, 1).expect("a listener"), 2);
        for _ in 0..2 {
            let stream = UnixStream::connect(folder.path().join("vm_1")).expect("a stream");
            comes_back(&stream, b"there and back").expect("the same");
            ends(&stream).expect("an end");
        }
        assert_eq!(echo.join().expect("an end").expect("a number"), 28);
        let (near, far) = UnixStream::pair().expect("a pair");
        (&far).write_all(b"other").expect("room");
        assert!(comes_back(&near, b"bytes").is_err());
        (&far).write_all(b"more").expect("room");
        assert!(ends(&near).is_err());
    }
}
