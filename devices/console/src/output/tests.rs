//! Output to streams, files and clients, and what becomes of what they do not take.

use super::*;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

use nix::fcntl::OFlag;
use vm_memory::VolatileSlice;

fn write(output: &mut Output, bytes: &[u8]) {
    let mut copy = bytes.to_vec();
    output.write(Reader::new(&[VolatileSlice::from(&mut copy[..])]));
}

/// To one end of a stream, and the other end.
fn stream() -> (Output, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (Output::new(Arc::new(Host::new(ours.into()).unwrap()), None), theirs)
}

/// What is there to read.
fn drain(stream: &UnixStream) -> Vec<u8> {
    stream.set_nonblocking(true).unwrap();
    let mut bytes = Vec::new();
    let ended = (&*stream).read_to_end(&mut bytes).unwrap_err();
    assert_eq!(ended.kind(), std::io::ErrorKind::WouldBlock);
    bytes
}

#[test]
fn a_reader_that_takes_nothing_is_waited_for_once() {
    let (mut output, theirs) = stream();
    write(&mut output, &[1; 4 << 20]);
    assert!(output.patience.is_zero(), "as long as patience lasts");
    let Some((Lost::NobodyReads, lost)) = output.lost else { panic!("{output:?}") };
    assert!(lost > 0);
    // From now on nothing is waited for, however many batches come.
    for _ in 0..1000 {
        output.begin_batch();
        write(&mut output, &[2; 4096]);
        assert_eq!(output.patience, PATIENCE);
    }
    assert_eq!(output.lost, Some((Lost::NobodyReads, lost + 1000 * 4096)));
    assert_eq!(drain(&theirs).len(), (4 << 20) - usize::try_from(lost).unwrap());
    write(&mut output, b"again");
    assert_eq!((output.lost, drain(&theirs)), (None, b"again".to_vec()));
}

#[test]
fn a_reader_that_is_slow_loses_nothing() {
    let (mut output, mut theirs) = stream();
    // Whatever else the machine has to do.
    output.patience = Duration::from_secs(600);
    let bytes: Vec<u8> = (0..4u32 << 20).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let size = bytes.len();
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        // In pieces much smaller than what the socket holds.
        let mut room = [0; 1000];
        while got.len() < size {
            let count = theirs.read(&mut room).unwrap();
            assert_ne!(count, 0, "it ended after {} bytes", got.len());
            got.extend_from_slice(&room[..count]);
        }
        got
    });
    write(&mut output, &bytes);
    assert!(output.lost.is_none() && reader.join().unwrap() == bytes);
}

#[test]
fn the_requests_of_a_batch_share_one_patience() {
    let (mut output, _theirs) = stream();
    output.patience = Duration::ZERO;
    write(&mut output, &[1; 4 << 20]);
    assert!(matches!(output.lost, Some((Lost::NobodyReads, _))));
}

#[test]
fn a_file_ends_at_its_limit() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"0123").unwrap();
    let host =
        || Arc::new(Host::new(File::options().append(true).open(file.path()).unwrap().into()).unwrap());
    let mut output = Output::new(host(), Some(10));
    write(&mut output, b"4567");
    assert_eq!(output.lost, None);
    write(&mut output, b"89ab");
    assert_eq!(output.lost, Some((Lost::FileIsFull(10), 2)));
    write(&mut output, b"cdef");
    assert_eq!(output.lost, Some((Lost::FileIsFull(10), 6)));
    assert_eq!(std::fs::read(file.path()).unwrap(), b"0123456789");
    // A successor finds it full.
    let mut output = Output::new(host(), Some(10));
    write(&mut output, b"g");
    assert_eq!(output.lost, Some((Lost::FileIsFull(10), 1)));
    let mut output = Output::new(host(), None);
    write(&mut output, b"h");
    assert_eq!((output.lost, std::fs::read(file.path()).unwrap().len()), (None, 11));
}

#[test]
fn a_disk_that_is_full_is_an_error_that_is_said() {
    let full =
        File::options().read(true).append(true).custom_flags(OFlag::O_NONBLOCK.bits()).open("/dev/full");
    let mut output = Output::new(Arc::new(Host::new(full.unwrap().into()).unwrap()), None);
    write(&mut output, b"12345");
    assert_eq!(output.lost, Some((Lost::Failed(Errno::ENOSPC), 5)));
}

#[test]
fn without_a_client_output_is_dropped_and_the_next_one_gets_what_comes_then() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let host = Arc::new(Host::new(listener.into()).unwrap());
    let mut output = Output::new(Arc::clone(&host), None);
    write(&mut output, b"nobody");
    assert_eq!(output.lost, Some((Lost::NobodyIsConnected, 6)));
    for text in [b"first", b"other"] {
        let client = UnixStream::connect(&path).unwrap();
        assert!(host.writer().is_some());
        write(&mut output, text);
        assert_eq!((output.lost, drain(&client)), (None, text.to_vec()));
        drop(client);
        write(&mut output, b"gone");
        assert_eq!(output.lost, Some((Lost::NobodyIsConnected, 4)));
        assert!(host.reader().is_none());
    }
}

#[test]
fn nothing_is_written_for_nothing() {
    let (mut output, theirs) = stream();
    write(&mut output, b"");
    output.write(Reader::new(&[]));
    assert_eq!((output.lost, drain(&theirs)), (None, Vec::new()));
}
