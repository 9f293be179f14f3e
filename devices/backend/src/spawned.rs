//! A device program's confined life: promise, receive, check, promise less, serve.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use protocol::{
    Channel, DeviceSetup, Failure, FromDevice, Phase, Ready, SetOutcome, Statistics, ToDevice, ViolationFrame,
};
use sandbox_policies::{LastWord, Requirement, Stage};

use crate::connection::{Connection, State};
use crate::inflight::{InflightFile, Part};
use crate::keep::{Keep, Keeper};
use crate::memory::Unsealed;
use crate::pace::{self, Lane};
use crate::session::Session;
use crate::state::DeviceState;
use crate::vring::MAX_QUEUE_SIZE;
use crate::worker::Worker;
use crate::{Device, DeviceProgram, Error, Inquiry, log, process};

/// Where the spawner puts the control channel.
const CONTROL: i32 = 3;

/// Serves until the front end or the launcher is gone, and returns the exit code.
pub(crate) fn serve<P: DeviceProgram>(requirement: Requirement, unsealed: Unsealed) -> u8 {
    // Promise: from here on no new file, no new process, no socket; only what setting up needs.
    let last_word = match ViolationFrame::of_device() {
        Ok(ViolationFrame { before, after }) => LastWord { before, after },
        Err(error) => return fail(None, &error.into()),
    };
    let report = match sandbox_policies::stage_one(P::PROGRAM, requirement, last_word) {
        Ok(report) => report,
        // There is nobody to tell but the log: the channel is not checked yet.
        Err(error) => return fail(None, &error.into()),
    };
    let channel = match process::inherited(CONTROL).map(Channel::from_fd) {
        Some(Ok(channel)) => channel,
        Some(Err(error)) => return fail(None, &error.into()),
        None => return fail(None, &Error::NoSetup),
    };
    let ready = Ready { landlock_abi: report.landlock_abi, lacking: report.lacking };
    match serve_channel::<P>(&channel, ready, unsealed) {
        Ok(()) => 0,
        Err(error) => fail(Some(&channel), &error),
    }
}

fn serve_channel<P: DeviceProgram>(channel: &Channel, ready: Ready, unsealed: Unsealed) -> Result<(), Error> {
    // Receive, and check what was received.
    let Some((setup, socket, resource)) = receive_setup(channel)? else { return Ok(()) };
    let more = setup.options.more();
    let mut device = P::device(setup.options, resource)?;
    if more > 0 {
        let Some(rest) = receive_rest(channel, more)? else { return Ok(()) };
        P::add(&mut device, rest)?;
    }
    let lanes = pace::limit(&mut device, &setup.rates)?;
    let device = Arc::new(device);
    let Ok(keep) = receive_keep(channel, setup.keep && device.kept().is_some())? else { return Ok(()) };
    process::use_one_heap(usize::from(device.queues()).saturating_add(1), device.heap());
    let mut session = prepare::<P>(&device, lanes, keep, (unsealed, setup.blamed))?;
    // Promise less: reading, writing, mapping what the front end sends, and little else.
    sandbox_policies::limit_processes()?;
    for vring in session.vrings() {
        vring.worker().confined()?;
    }
    sandbox_policies::stage_two(P::PROGRAM, Stage::Serve)?;
    channel.send(&FromDevice::Ready(ready), &[])?;
    // Serve.
    attend(channel, &mut Connection::new(socket), &mut session)
}

fn receive_setup(channel: &Channel) -> Result<Option<(DeviceSetup, OwnedFd, OwnedFd)>, Error> {
    let Some((message, fds)) = channel.receive::<ToDevice>(Phase::HandOver)? else {
        return Err(Error::NoSetup);
    };
    match (message, <[OwnedFd; 2]>::try_from(fds)) {
        (ToDevice::Setup(setup), Ok([socket, resource])) => Ok(Some((setup, socket, resource))),
        (ToDevice::Stop, _) => Ok(None),
        _ => Err(Error::UnexpectedMessage),
    }
}

/// The rest of the resource, which has so many descriptors beside the first. None: the launcher wants this device no more.
fn receive_rest(channel: &Channel, more: u8) -> Result<Option<Vec<OwnedFd>>, Error> {
    match channel.receive::<ToDevice>(Phase::HandOver)? {
        Some((ToDevice::More(number), fds)) if number == more => Ok(Some(fds)),
        Some((ToDevice::Stop, _)) | None => Ok(None),
        _ => Err(Error::UnexpectedMessage),
    }
}

/// The launcher told a device to end that it had offered a keep.
struct Stopped;

/// What the device's state outlives it in, if it is `wanted`.
fn receive_keep(channel: &Channel, wanted: bool) -> Result<Result<Option<Keep<Part>>, Stopped>, Error> {
    if !wanted {
        return Ok(Ok(None));
    }
    channel.send(&FromDevice::Keeps, &[])?;
    match channel.receive::<ToDevice>(Phase::HandOver)? {
        Some((ToDevice::Keep, fds)) => Ok(Ok(fds.into_iter().next().map(Keep::map).transpose()?)),
        Some((ToDevice::Stop, _)) | None => Ok(Err(Stopped)),
        _ => Err(Error::UnexpectedMessage),
    }
}

/// Makes all that needs more than the serving filter: threads and the in-flight area.
fn prepare<P: DeviceProgram>(
    device: &Arc<P::Device>,
    lanes: Vec<Lane>,
    keep: Option<Keep<Part>>,
    (unsealed, blamed): (Unsealed, bool),
) -> Result<Session, Error> {
    let inflight = InflightFile::create(device.queues(), MAX_QUEUE_SIZE)?;
    let keep = keep.map(Keeper::new);
    keep.clone().into_iter().for_each(|keep| device.keep_with(keep));
    let confine = || sandbox_policies::stage_two(P::PROGRAM, Stage::Serve).map_err(Error::from);
    let workers = (0..device.queues())
        .zip(lanes)
        .map(|(queue, lane)| Worker::spawn(device.service(queue), lane, confine))
        .collect::<Result<Vec<_>, _>>()?;
    let state = DeviceState::new(Arc::clone(device) as Arc<dyn Device>, keep);
    Ok(Session::new(state, workers, inflight, unsealed, blamed))
}

/// Listens to front end and launcher until one of them is gone.
fn attend(channel: &Channel, connection: &mut Connection, session: &mut Session) -> Result<(), Error> {
    // The launcher is owed what the guest's driver answers.
    let mut asked = false;
    loop {
        let answered = session.inquiry().map_or(channel.as_fd(), Inquiry::answered);
        let changes = session.changes().unwrap_or(channel.as_fd());
        let fds = [connection.as_fd(), channel.as_fd(), answered, changes];
        let mut fds = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match ppoll(&mut fds, None, None) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(Error::System { action: "wait for a message", errno }),
        }
        let [front_end, launcher, told, changed] =
            fds.map(|fd| fd.revents().is_none_or(|events| !events.is_empty()));
        // All that the launcher has said comes before what the front end says next: a setting that was made before the rings
        // are taken back is kept by then, for who gets them.
        if launcher {
            match obey(channel, session, &mut asked)? {
                true => continue,
                false => return Ok(()),
            }
        }
        if told
            && let Some(told) = session.inquiry().and_then(Inquiry::take_answer)
            && std::mem::take(&mut asked)
        {
            channel.send(&FromDevice::Statistics(Statistics::Told(told)), &[])?;
        }
        if changed {
            session.take_change();
        }
        if front_end && connection.serve_one(session)? == State::Closed {
            return Ok(());
        }
    }
}

/// One message of the launcher. Returns whether to go on.
fn obey(channel: &Channel, session: &mut Session, asked: &mut bool) -> Result<bool, Error> {
    match channel.receive::<ToDevice>(Phase::Serving)? {
        None | Some((ToDevice::Stop, _)) => Ok(false),
        Some((ToDevice::Query, _)) => {
            channel.send(&FromDevice::Counters(session.counters()), &[])?;
            Ok(true)
        }
        Some((ToDevice::Set(setting), _)) => {
            let outcome = match session.set(setting)? {
                Ok(()) => SetOutcome::set(),
                Err(refused) => SetOutcome::refused(&refused),
            };
            channel.send(&FromDevice::Set(outcome), &[])?;
            Ok(true)
        }
        Some((ToDevice::Statistics, _)) => {
            match session.ask() {
                Ok(()) => *asked = true,
                Err(why) => {
                    *asked = false;
                    channel.send(&FromDevice::Statistics(Statistics::refused(why)), &[])?;
                }
            }
            Ok(true)
        }
        Some((ToDevice::Setup(_) | ToDevice::Keep | ToDevice::More(_), _)) => Err(Error::UnexpectedMessage),
    }
}

/// Says why in the log and to the launcher, which may be gone.
fn fail(channel: Option<&Channel>, error: &Error) -> u8 {
    log::line(error);
    if let Some(channel) = channel {
        let _ = channel.send(&FromDevice::Failed(Failure::new(error.kind(), &error.to_string())), &[]);
    }
    error.exit_code()
}
