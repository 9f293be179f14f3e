//! Flushes that fail, and requests that are none.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use protocol::MemoryRegion;
use vm_memory::VolatileSlice;

use super::*;

/// Answers as it is told, in turn, and then well; counts how often it was asked.
#[derive(Default)]
struct Medium {
    fails: Mutex<Vec<Errno>>,
    asked: AtomicUsize,
}

impl Flush for Arc<Medium> {
    fn flush(&self) -> Result<(), Errno> {
        self.asked.fetch_add(1, Relaxed);
        self.fails.lock().unwrap().pop().map_or(Ok(()), Err)
    }
}

fn options(readonly: bool) -> PmemOptions {
    PmemOptions { region: MemoryRegion { guest_phys: 20 << 30, size: 2 << 20 }, readonly }
}

fn queue(medium: &Arc<Medium>, readonly: bool) -> FlushQueue<Arc<Medium>> {
    let pmem = Arc::new(Pmem::of(Arc::clone(medium), options(readonly)));
    FlushQueue { pmem, flushed: None }
}

/// One request of the batch that was begun.
fn ask(
    queue: &mut FlushQueue<Arc<Medium>>,
    request: &[u8],
    room: usize,
) -> (Result<u32, &'static str>, Vec<u8>) {
    let (mut request, mut answer) = (request.to_vec(), vec![0xEE; room]);
    let result = {
        let (out, back) = ([VolatileSlice::from(&mut request[..])], [VolatileSlice::from(&mut answer[..])]);
        queue.handle(0, Reader::new(&out), Writer::new(&back))
    };
    (result, answer)
}

fn flush(queue: &mut FlushQueue<Arc<Medium>>) -> u8 {
    queue.begin_batch();
    let (result, answer) = ask(queue, &[0; 4], 4);
    assert_eq!((result, &answer[1..]), (Ok(4), &[0; 3][..]));
    answer[0]
}

#[test]
fn an_error_is_told_and_stays_told() {
    let medium = Arc::new(Medium::default());
    let mut queue = queue(&medium, false);
    assert_eq!((flush(&mut queue), flush(&mut queue)), (0, 0));
    medium.fails.lock().unwrap().push(Errno::ENOSPC);
    assert_eq!((flush(&mut queue), flush(&mut queue)), (1, 1));
    assert_eq!(medium.asked.load(Relaxed), 3, "the kernel would say that all is well");
    queue.pmem.reset();
    assert_eq!(flush(&mut queue), 1);
    let kept = queue.pmem.kept().unwrap();
    let mut successor = self::queue(&medium, false);
    assert!(successor.pmem.restore(&kept));
    assert_eq!(flush(&mut successor), 1);
}

#[test]
fn what_a_predecessor_kept_is_parsed_and_in_doubt_the_worst() {
    let medium = Arc::new(Medium::default());
    let cases: [(u16, &[u8], bool, u8); 6] = [
        (VERSION, &[0], true, 0),
        (VERSION, &[1], true, 1),
        (VERSION, &[2], false, 1),
        (VERSION, &[], false, 1),
        (VERSION, &[0, 0], false, 1),
        (VERSION + 1, &[0], false, 1),
    ];
    for (version, state, understood, answer) in cases {
        let mut queue = queue(&medium, false);
        let kept = Kept { version, state: state.to_vec() };
        assert_eq!((queue.pmem.restore(&kept), flush(&mut queue)), (understood, answer), "{kept:?}");
    }
}

#[test]
fn a_batch_is_flushed_once() {
    let medium = Arc::new(Medium::default());
    let mut queue = queue(&medium, false);
    queue.begin_batch();
    for _ in 0..100 {
        assert_eq!(ask(&mut queue, &[0; 4], 4), (Ok(4), vec![0; 4]));
    }
    assert_eq!(medium.asked.load(Relaxed), 1);
    assert_eq!(flush(&mut queue), 0);
    assert_eq!(medium.asked.load(Relaxed), 2);
}

#[test]
fn what_can_be_read_only_has_nothing_to_flush() {
    let medium = Arc::new(Medium::default());
    assert_eq!(flush(&mut queue(&medium, true)), 1);
    assert_eq!(medium.asked.load(Relaxed), 0);
}

#[test]
fn requests_that_are_none_are_errors_and_flush_nothing() {
    let medium = Arc::new(Medium::default());
    let mut queue = queue(&medium, false);
    for request in [&[1, 0, 0, 0][..], &[0xFF; 4], &[0; 3], &[]] {
        queue.begin_batch();
        assert_eq!(ask(&mut queue, request, 6), (Ok(4), vec![1, 0, 0, 0, 0xEE, 0xEE]), "{request:?}");
    }
    for room in 0..4 {
        queue.begin_batch();
        let (result, answer) = ask(&mut queue, &[0; 4], room);
        assert!(result.is_err() && answer.iter().all(|byte| *byte == 0xEE), "{room}");
    }
    assert_eq!(medium.asked.load(Relaxed), 0);
    queue.begin_batch();
    assert_eq!(ask(&mut queue, &[0; 64], 4).0, Ok(4), "more than the request is not looked at");
}

#[test]
fn a_refused_flush_is_an_error() {
    let medium = Arc::new(Medium::default());
    let mut answer = [0xEE; 4];
    let slices = [VolatileSlice::from(&mut answer[..])];
    assert_eq!(queue(&medium, false).refuse(Writer::new(&slices)), Ok(4));
    assert_eq!(answer, [1, 0, 0, 0]);
}

#[test]
fn a_file_is_a_file_and_as_large_as_the_device() {
    let refused = |file: File| Pmem::new(file.into(), options(false)).err().unwrap().to_string();
    assert!(refused(File::open("/dev/null").unwrap()).contains("neither a regular file"));
    let file = tempfile::tempfile().unwrap();
    file.set_len((2 << 20) - 1).unwrap();
    let said = refused(file.try_clone().unwrap());
    assert!(said.contains("2097151 bytes, the device 2097152"), "{said}");
    file.set_len(2 << 20).unwrap();
    assert!(Pmem::new(file.into(), options(false)).is_ok());
}
