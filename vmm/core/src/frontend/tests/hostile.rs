//! Answers that are none: each is the fault that it should be, and no wait is without end.

use super::peer::{self, PROTOCOL_FEATURES, REPLY, Request, back_end, behave, good_answer, message};
use crate::frontend::connection::Connection;
use crate::frontend::session::{Agreement, Wanted, handshake};
use crate::frontend::{Fault, session};
use crate::virtio_pci::{DeviceType, Ring};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use vhost::vhost_user::message::{FrontendReq, VhostUserProtocolFeatures};

/// For back ends that answer, whatever they answer.
const AMPLE: Duration = Duration::from_secs(60);
/// For those that never do.
const SHORT: Duration = Duration::from_millis(20);

fn wanted(queues: u16, limit: Duration) -> Wanted {
    Wanted { kind: DeviceType::new(2).unwrap(), queues, limit, channel: None }
}

/// A handshake with a back end that behaves but for its answers to `bad`, which `answer` makes.
fn against(
    bad: FrontendReq,
    limit: Duration,
    mut answer: impl FnMut(&mut UnixStream, &Request) -> ControlFlow<()> + Send + 'static,
) -> Result<Agreement, Fault> {
    let (socket, thread) = back_end(move |stream, request| {
        if request.is(bad) {
            return answer(stream, request);
        }
        behave(stream, request);
        ControlFlow::Continue(())
    });
    let mut connection = Connection::new(socket);
    let result = handshake(&mut connection, &wanted(0, limit));
    drop(connection);
    thread.join().unwrap();
    result
}

/// The same, where the answer is a value.
fn with_value(bad: FrontendReq, value: u64) -> Result<Agreement, Fault> {
    against(bad, AMPLE, move |stream, request| {
        stream.write_all(&message(request.id, REPLY, &value.to_ne_bytes())).unwrap();
        ControlFlow::Continue(())
    })
}

#[test]
fn aback_end_that_behaves_is_agreed_with() {
    let agreement = with_value(FrontendReq::GET_QUEUE_NUM, 2).unwrap();
    assert_eq!(agreement.features, 1 << 32 | 1 << 29 | 1 << 9, "what is not known is not offered");
    assert_eq!(agreement.queues, 2);
    let mut config = vec![0x5A; 60];
    config[34..36].copy_from_slice(&[2, 0]);
    assert_eq!(agreement.config, config);
    let used = VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::INFLIGHT_SHMFD
        | VhostUserProtocolFeatures::RESET_DEVICE;
    assert_eq!(agreement.protocol_features, used);
    assert_ne!(PROTOCOL_FEATURES, used.bits());
}

#[test]
fn silence_ends_with_the_deadline_at_every_step() {
    for request in [
        FrontendReq::GET_FEATURES,
        FrontendReq::GET_PROTOCOL_FEATURES,
        FrontendReq::GET_QUEUE_NUM,
        FrontendReq::GET_CONFIG,
    ] {
        let result = against(request, SHORT, |_, _| ControlFlow::Continue(()));
        assert!(matches!(result, Err(Fault::Deadline(_))), "{request:?}: {result:?}");
    }
}

#[test]
fn drops_do_not_stretch_the_deadline() {
    let result = against(FrontendReq::GET_FEATURES, SHORT, |stream, request| {
        for byte in good_answer(request).unwrap() {
            std::thread::sleep(SHORT / 2);
            if stream.write_all(&[byte]).is_err() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    });
    assert_eq!(result, Err(Fault::Deadline(FrontendReq::GET_FEATURES)));
}

#[test]
fn an_answer_in_pieces_is_an_answer() {
    let result = against(FrontendReq::GET_CONFIG, AMPLE, |stream, request| {
        for byte in good_answer(request).unwrap() {
            stream.write_all(&[byte]).unwrap();
        }
        ControlFlow::Continue(())
    });
    assert!(result.is_ok(), "{result:?}");
}

#[test]
fn headers_that_are_not_the_answers_are_refused() {
    let request = FrontendReq::GET_FEATURES;
    for (id, flags) in [
        (2, REPLY),
        (0, REPLY),
        (u32::MAX, REPLY),
        (1, 1),
        (1, 4),
        (1, 2 | 4),
        (1, 3 | 4),
        (1, REPLY | 16),
        (1, u32::MAX),
    ] {
        let result = against(request, AMPLE, move |stream, _| {
            stream.write_all(&message(id, flags, &[0; 8])).unwrap();
            ControlFlow::Continue(())
        });
        assert_eq!(result, Err(Fault::Header { request, id, flags }));
    }
}

#[test]
fn sizes_that_are_not_the_answers_are_refused() {
    for request in [FrontendReq::GET_FEATURES, FrontendReq::GET_CONFIG] {
        for size in [0_u32, 1, 0x1000, 0x1001, u32::MAX] {
            let result = against(request, AMPLE, move |stream, asked| {
                let header = [asked.id, REPLY, size].map(u32::to_ne_bytes);
                stream.write_all(header.as_flattened()).unwrap();
                ControlFlow::Continue(())
            });
            assert!(
                matches!(result, Err(Fault::Size { found, .. }) if found == size),
                "{request:?} {size:#x}: {result:?}"
            );
        }
    }
}

#[test]
fn descriptors_never_come_in() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut writer = Some(writer);
    let request = FrontendReq::GET_FEATURES;
    let result = against(request, AMPLE, move |stream, asked| {
        let writer = writer.take().unwrap();
        peer::send_with_fd(stream, &good_answer(asked).unwrap(), writer.as_raw_fd());
        ControlFlow::Continue(())
    });
    assert_eq!(result, Err(Fault::Descriptors(request)));
    let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::ZERO), Ok(1), "no copy of the writing end is left");
    assert_eq!(fds[0].revents(), Some(PollFlags::POLLHUP));
}

/// As many as one message can have, of all kinds, with any byte of the answer.
#[test]
fn no_kind_and_no_number_of_descriptors_comes_in() {
    let request = FrontendReq::GET_QUEUE_NUM;
    for at in [0, 11, 12, 19] {
        for count in [1, 2, 253] {
            let result = against(request, AMPLE, move |stream, asked| {
                let event = nix::sys::eventfd::EventFd::new().unwrap();
                let null = std::fs::File::open("/dev/null").unwrap();
                let folder = std::fs::File::open("/").unwrap();
                let kinds = [event.as_raw_fd(), null.as_raw_fd(), folder.as_raw_fd(), stream.as_raw_fd()];
                let fds: Vec<_> = kinds.into_iter().cycle().take(count).collect();
                let answer = good_answer(asked).unwrap();
                let (before, after) = answer.split_at(at);
                stream.write_all(before).unwrap();
                peer::send_with_fds(stream, &after[..1], &fds);
                let _gone = stream.write_all(&after[1..]);
                ControlFlow::Continue(())
            });
            assert_eq!(result, Err(Fault::Descriptors(request)), "{count} at byte {at}");
        }
    }
}

#[test]
fn a_configuration_about_something_else_is_refused() {
    for (expected, change) in [((1, 60), (0, 1_u32)), ((0, 61), (4, 61)), ((0, 0), (4, 0))] {
        let result = against(FrontendReq::GET_CONFIG, AMPLE, move |stream, request| {
            let mut body = request.body.clone();
            body[change.0..change.0 + 4].copy_from_slice(&change.1.to_ne_bytes());
            stream.write_all(&message(request.id, REPLY, &body)).unwrap();
            ControlFlow::Continue(())
        });
        assert!(matches!(result, Err(Fault::Echo { found, .. }) if found == expected), "{result:?}");
    }
}

#[test]
fn queue_numbers_are_bounded() {
    for offered in [0, 65535, 0x8001, 1 << 16, u64::MAX] {
        let result = with_value(FrontendReq::GET_QUEUE_NUM, offered);
        assert_eq!(result, Err(Fault::Queues { offered, wanted: 0 }));
    }
    assert_eq!(with_value(FrontendReq::GET_QUEUE_NUM, 1000).unwrap().queues, 64);
}

#[test]
fn what_cannot_be_done_without_is_said() {
    let lacks = |request, value| with_value(request, value).unwrap_err().to_string();
    assert!(lacks(FrontendReq::GET_FEATURES, 1 << 30).contains("VERSION_1"));
    assert!(lacks(FrontendReq::GET_FEATURES, 1 << 32).contains("PROTOCOL_FEATURES"));
    assert!(lacks(FrontendReq::GET_PROTOCOL_FEATURES, 0).contains("CONFIG"));
}

/// As device-rng is: no configuration, and no word of one.
#[test]
fn a_type_without_configuration_needs_no_back_end_that_has_one() {
    let (socket, thread) = back_end(|stream, request| {
        assert!(!request.is(FrontendReq::GET_CONFIG), "asked for what was not offered");
        let mut answer = good_answer(request).unwrap_or_default();
        if request.is(FrontendReq::GET_PROTOCOL_FEATURES) {
            let offered = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
            answer = message(request.id, REPLY, &offered.bits().to_ne_bytes());
        }
        stream.write_all(&answer).unwrap();
        ControlFlow::Continue(())
    });
    let wanted = Wanted { kind: DeviceType::new(4).unwrap(), queues: 1, limit: AMPLE, channel: None };
    let agreement = handshake(&mut Connection::new(socket), &wanted).unwrap();
    assert_eq!((agreement.queues, agreement.config), (1, Vec::new()));
    thread.join().unwrap();
}

#[test]
fn an_answer_before_the_question_and_a_second_one_are_refused() {
    let (socket, back) = UnixStream::pair().unwrap();
    (&back).write_all(&message(1, REPLY, &[0; 8])).unwrap();
    let result = handshake(&mut Connection::new(socket.into()), &wanted(0, AMPLE));
    assert_eq!(result, Err(Fault::Unasked));

    let result = against(FrontendReq::GET_QUEUE_NUM, AMPLE, |stream, request| {
        let twice = good_answer(request).unwrap().repeat(2);
        stream.write_all(&twice).unwrap();
        ControlFlow::Continue(())
    });
    assert!(matches!(result, Err(Fault::Unasked)), "{result:?}");
}

#[test]
fn death_at_every_step_is_an_answer() {
    for request in [
        FrontendReq::GET_FEATURES,
        FrontendReq::SET_OWNER,
        FrontendReq::GET_PROTOCOL_FEATURES,
        FrontendReq::SET_PROTOCOL_FEATURES,
        FrontendReq::GET_QUEUE_NUM,
        FrontendReq::GET_CONFIG,
    ] {
        let result = against(request, AMPLE, |_, _| ControlFlow::Break(()));
        assert_eq!(result, Err(Fault::Closed), "{request:?}");
        if good_answer(&Request { id: request.into(), flags: 0, body: vec![0; 72], fds: 0 }).is_some() {
            let result = against(request, AMPLE, |stream, request| {
                stream.write_all(&good_answer(request).unwrap()[..13]).unwrap();
                ControlFlow::Break(())
            });
            assert_eq!(result, Err(Fault::Closed), "{request:?}, in the middle of its answer");
        }
    }
}

#[test]
fn a_refusal_is_told_with_its_value() {
    let (socket, thread) = back_end(|stream, request| {
        let refused = message(request.id, REPLY, &7_u64.to_ne_bytes());
        stream.write_all(&refused).unwrap();
        ControlFlow::Continue(())
    });
    let mut connection = Connection::new(socket);
    connection.set_acknowledged(true);
    let deadline = crate::frontend::connection::Deadline::after(AMPLE);
    let request = FrontendReq::SET_CONFIG;
    let result = session::write_config(&connection, 32, &[1], deadline);
    assert_eq!(result, Err(Fault::Refused { request, value: 7 }));
    drop(connection);
    thread.join().unwrap();
}

#[test]
fn stopping_another_ring_is_no_stop() {
    let (socket, thread) = back_end(|stream, request| {
        let mut answer = request.body.clone();
        answer[0] ^= 1;
        answer[4..].copy_from_slice(&[0xFF; 4]);
        stream.write_all(&message(request.id, REPLY, &answer)).unwrap();
        ControlFlow::Continue(())
    });
    let connection = Connection::new(socket);
    let ring = Ring { index: 0, size: 2, descriptors: 0, available: 0, used: 0 };
    let result = session::stop(&connection, &[ring], AMPLE);
    assert!(matches!(result, Err(Fault::Echo { .. })), "{result:?}");
    drop(connection);
    thread.join().unwrap();
}
