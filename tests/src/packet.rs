//! Packets of a control channel as bytes: what peers of another version said, said again.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::RawFd;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use crate::Result;
use crate::error::tried;

/// The longest frame of any version.
const LONGEST: usize = 16 * 1024;

/// Sends one on the socket of this number.
pub fn send(socket: RawFd, packet: &[u8], fds: &[RawFd]) -> Result<()> {
    let rights = [ControlMessage::ScmRights(fds)];
    let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
    match sendmsg::<()>(socket, &[IoSlice::new(packet)], rights, MsgFlags::MSG_NOSIGNAL, None) {
        Ok(_) => Ok(()),
        Err(errno) => Err(tried("cannot send a packet")(errno.into())),
    }
}

/// Receives one, and the numbers of the descriptors that came along; `None` at the end.
pub fn receive(socket: RawFd) -> Result<Option<(Vec<u8>, Vec<RawFd>)>> {
    let mut packet = vec![0; LONGEST];
    let mut control = nix::cmsg_space!([RawFd; 253]);
    let mut parts = [IoSliceMut::new(&mut packet)];
    let received = recvmsg::<()>(socket, &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)
        .map_err(|errno| tried("cannot receive a packet")(errno.into()))?;
    let mut fds = Vec::new();
    for message in received.cmsgs().map_err(|errno| tried("cannot receive a packet")(errno.into()))? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            fds.extend(raw);
        }
    }
    let size = received.bytes;
    packet.truncate(size);
    Ok(if size == 0 { None } else { Some((packet, fds)) })
}

/// As hexadecimal digits.
pub fn to_hex(packet: &[u8]) -> String {
    packet.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// From hexadecimal digits; `None` if they are none.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_read_as_they_are_written() {
        assert_eq!(from_hex(&to_hex(&[0, 1, 0xfe])), Some(vec![0, 1, 0xfe]));
        assert_eq!((from_hex("0"), from_hex("0g")), (None, None));
    }
}
