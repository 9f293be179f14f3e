//! One front end's connection: reads a message, has it parsed and obeyed, answers.
//!
//! What is refused is answered in the way that the front end can understand: a request with a reply of its own by
//! an empty one, another by a non-zero acknowledgement if it asked for one, and by closing the connection if it
//! did not. A message that breaks the framing ends the connection always.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vhost::vhost_user::message::FrontendReq;

use crate::message::{HEADER_SIZE, Header, parse};
use crate::session::{Reply, Session};
use crate::socket::Socket;
use crate::{Error, log};

/// Refused messages that are logged. A front end that goes on and on fills nobody's disk.
const LOGGED: u32 = 64;

/// Whether the front end is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Open,
    Closed,
}

pub(crate) struct Connection {
    socket: Socket,
    body: Vec<u8>,
    refused: u32,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket: Socket::new(socket), body: Vec::new(), refused: 0 }
    }

    /// Receives one message and answers it.
    pub(crate) fn serve_one(&mut self, session: &mut Session) -> Result<State, Error> {
        let mut fds = Vec::new();
        let mut header = [0; HEADER_SIZE];
        if !self.socket.receive(&mut header, &mut fds)? {
            return Ok(State::Closed);
        }
        let header = Header::parse(header)?;
        self.body.clear();
        self.body.resize(header.size, 0);
        if header.size > 0 && !self.socket.receive(&mut self.body, &mut fds)? {
            return Err(Error::Truncated);
        }
        let acknowledged = header.need_reply && session.acknowledges();
        let result = parse(header.request, &self.body, fds).and_then(|request| session.handle(request));
        match result {
            Ok(Reply::Done) if acknowledged => self.answer(&header.reply(&0u64.to_ne_bytes()), None),
            Ok(Reply::Done) => Ok(State::Open),
            Ok(Reply::Payload(payload)) => self.answer(&header.reply(&payload), None),
            Ok(Reply::Inflight(payload, fd)) => self.answer(&header.reply(&payload), Some(fd)),
            Err(refusal) => self.refuse(&header, acknowledged, refusal),
        }
    }

    fn refuse(&mut self, header: &Header, acknowledged: bool, refusal: Error) -> Result<State, Error> {
        let answer = if has_reply(header.request) {
            header.reply(&[])
        } else if acknowledged {
            header.reply(&1u64.to_ne_bytes())
        } else {
            return Err(refusal);
        };
        self.refused = self.refused.saturating_add(1);
        if self.refused <= LOGGED {
            log::line(format_args!("refused: {refusal}"));
        }
        if self.refused == LOGGED {
            log::line("further refusals are not logged");
        }
        self.answer(&answer, None)
    }

    /// A front end that is gone before it has its answer has closed the connection.
    fn answer(&self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> Result<State, Error> {
        Ok(if self.socket.send(bytes, descriptor)? { State::Open } else { State::Closed })
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Requests that this back end knows and that have a reply of their own.
fn has_reply(request: u32) -> bool {
    matches!(
        FrontendReq::try_from(request),
        Ok(FrontendReq::GET_FEATURES
            | FrontendReq::GET_PROTOCOL_FEATURES
            | FrontendReq::GET_QUEUE_NUM
            | FrontendReq::GET_VRING_BASE
            | FrontendReq::GET_CONFIG
            | FrontendReq::GET_INFLIGHT_FD)
    )
}
