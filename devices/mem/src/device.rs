//! Memory that the driver plugs in and out by blocks, until it has as much as the user wants (virtio 1.2, §5.15). The
//! front end has all of it mapped from the beginning; what a block costs the host before it is touched is nothing, and what
//! was unplugged is punched out of its file, so that it is gone from every process that maps it.
//!
//! A driver that touches blocks which are not plugged gets zeroes, and memory of the host's for what it writes: nothing
//! here is asked when memory is touched. So `VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE`, by which honest drivers leave it alone,
//! is offered, and the bound for others is the region's size.
//!
//! # What outlives the process
//!
//! Which blocks are plugged, how much the user wants, and the last request that changed something: each is kept before the
//! request is answered, so that what was acknowledged is never lost. A process that dies between the two leaves a request
//! that is done again. Done twice, it would be refused, for the blocks are what it asks for already; so a process takes the
//! first request that it sees, if that is the one kept last, for one that is done.
//!
//! A driver that reads `plugged_size` relies on its being what the last answered request made it. A front end that has a
//! copy of the configuration cannot ask for each time; so the number is on a page that it reads, before the answer.
//!
//! No reset changes any of it (§5.15.5.2): the driver has to ask for that.
//!
//! Two threads change it: the queue's, the blocks; and the one that hears the user, what he wants. So it is changed and kept
//! under one lock, and not by the library.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use device_backend::{
    Device, Error, GuestPages, Handler, Keeper, Kept, NOTHING_TO_SET, Reader, Service, SharedWord, Writer,
    log_line,
};
use protocol::{MEM_PLUGGED, MEM_REQUESTED, MemOptions, Setting};

use crate::blocks::Blocks;
use crate::request::{Request, Span};
use crate::wire::{BlockState, Config, REQUEST, RESPONSE, Response, feature};

/// Of the kept bytes: `requested_size`, little-endian, the last request as the driver writes it, a bit for each block.
const KEPT_VERSION: u16 = 1;
/// In the place of a request that there was not.
const NO_REQUEST: [u8; REQUEST] = [0xFF; REQUEST];

/// See above.
pub struct Mem {
    options: MemOptions,
    state: Mutex<State>,
    keeper: OnceLock<Keeper>,
    /// Where the front end reads `plugged_size`.
    shown: SharedWord,
}

struct State {
    requested: u64,
    blocks: Blocks,
    /// The last one that changed the blocks.
    last: [u8; REQUEST],
    /// This is a predecessor's state, which may not have answered its last request: no request was seen since.
    inherited: bool,
}

impl State {
    /// Whether `request` has changed the blocks already. To be asked once for each request.
    fn is_done(&mut self, request: Request) -> bool {
        std::mem::take(&mut self.inherited) && Request::parse(self.last) == Some(request)
    }
}

impl Mem {
    /// None of it is plugged, and as much is wanted as `options` say. How much is plugged is shown on `page`.
    ///
    /// # Errors
    /// Blocks or sizes that there cannot be.
    pub fn new(options: MemOptions, page: OwnedFd) -> Result<Self, Error> {
        options.check()?;
        let shown = SharedWord::map(page)?;
        let state = State {
            requested: options.requested,
            blocks: Blocks::none(options.blocks()),
            last: NO_REQUEST,
            inherited: false,
        };
        Ok(Self { options, state: Mutex::new(state), keeper: OnceLock::new(), shown })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plugged(&self, state: &State) -> u64 {
        state.blocks.plugged().saturating_mul(self.options.block)
    }

    fn to_be_kept(state: &State) -> Kept {
        let requested = state.requested.to_le_bytes();
        let state = [&requested[..], &state.last, state.blocks.bytes()].concat();
        Kept { version: KEPT_VERSION, state }
    }

    /// What was done to `state` outlives this process when this returns, if there is a keep.
    fn keep(&self, state: &State) {
        if let Some(Err(error)) = self.keeper.get().map(|keeper| keeper.keep(&Self::to_be_kept(state))) {
            // Its length is bounded by that of the region, which was checked.
            log_line(error);
        }
    }

    fn finish(&self, state: &mut State, request: Request, blocks: Range<usize>, plugged: bool) -> Response {
        state.blocks.set(blocks, plugged);
        state.last = request.bytes();
        self.keep(state);
        self.shown.show(self.plugged(state));
        Response::Ack
    }

    fn plug(&self, span: Span) -> Response {
        let request = Request::Plug(span);
        let Some(blocks) = span.blocks(&self.options) else { return Response::Error };
        let mut state = self.state();
        let done = state.is_done(request);
        match state.blocks.state(blocks.clone()) {
            BlockState::Plugged if done => return Response::Ack,
            BlockState::Unplugged => {}
            _ => return Response::Error,
        }
        let more = u64::from(span.nb_blocks).saturating_mul(self.options.block);
        if self.plugged(&state).saturating_add(more) > state.requested {
            return Response::Nack;
        }
        self.finish(&mut state, request, blocks, true)
    }

    /// `give_back` has the host take what it is given, an address and a length, and says whether it does. That may take a
    /// while: nobody waits for it but this queue, which alone changes blocks.
    fn unplug(&self, span: Span, give_back: impl FnOnce(u64, u64) -> bool) -> Response {
        let request = Request::Unplug(span);
        let Some(blocks) = span.blocks(&self.options) else { return Response::Error };
        let mut state = self.state();
        let done = state.is_done(request);
        match state.blocks.state(blocks.clone()) {
            BlockState::Unplugged if done => return Response::Ack,
            BlockState::Plugged => {}
            _ => return Response::Error,
        }
        drop(state);
        if !give_back(span.addr, u64::from(span.nb_blocks).saturating_mul(self.options.block)) {
            return Response::Busy;
        }
        self.finish(&mut self.state(), request, blocks, false)
    }

    /// Gives back what was touched without having been plugged, too.
    fn unplug_all(&self, give_back: impl FnOnce(u64, u64) -> bool) -> Response {
        self.state().inherited = false;
        if !give_back(self.options.region.guest_phys, self.options.region.size) {
            return Response::Busy;
        }
        self.finish(&mut self.state(), Request::UnplugAll, 0..self.options.blocks(), false)
    }

    fn look(&self, span: Span) -> Response {
        let Some(blocks) = span.blocks(&self.options) else { return Response::Error };
        let mut state = self.state();
        state.inherited = false;
        Response::State(state.blocks.state(blocks))
    }
}

impl Device for Mem {
    fn features(&self) -> u64 {
        feature::UNPLUGGED_INACCESSIBLE
    }

    fn config(&self) -> Vec<u8> {
        let state = self.state();
        let MemOptions { region, block, .. } = self.options;
        let (plugged_size, requested_size) = (self.plugged(&state), state.requested);
        Config { block_size: block, region, plugged_size, requested_size }.bytes()
    }

    fn queues(&self) -> u16 {
        1
    }

    /// Requests change what the driver has, and are as many as there are changes.
    fn can_be_limited(&self) -> bool {
        false
    }

    /// Never answers that the library is to keep anything: it is kept here.
    fn set(&self, setting: Setting) -> Result<bool, String> {
        let Setting::Mem(bytes) = setting else { return Err(NOTHING_TO_SET.to_owned()) };
        let (size, block) = (self.options.region.size, self.options.block);
        if bytes > size || !bytes.is_multiple_of(block) {
            return Err(format!(
                "{bytes} bytes: it has blocks of {block} bytes, and {size} bytes in all: ask for whole blocks up to that"
            ));
        }
        let mut state = self.state();
        state.requested = bytes;
        self.keep(&state);
        Ok(false)
    }

    /// In bytes.
    fn numbers(&self) -> Vec<(&'static str, u64)> {
        let state = self.state();
        vec![(MEM_REQUESTED, state.requested), (MEM_PLUGGED, self.plugged(&state))]
    }

    fn kept(&self) -> Option<Kept> {
        Some(Self::to_be_kept(&self.state()))
    }

    fn restore(&self, kept: &Kept) -> bool {
        let mut state = self.state();
        let Some((requested, rest)) = kept.state.split_first_chunk() else { return false };
        let (requested, Some((last, bits))) = (u64::from_le_bytes(*requested), rest.split_first_chunk())
        else {
            return false;
        };
        let Some(blocks) = state.blocks.like(bits) else { return false };
        let fits = requested <= self.options.region.size && requested.is_multiple_of(self.options.block);
        if kept.version != KEPT_VERSION || !fits {
            return false;
        }
        *state = State { requested, blocks, last: *last, inherited: true };
        true
    }

    fn keep_with(&self, keeper: Keeper) {
        // Called once.
        let _ = self.keeper.set(keeper);
    }

    /// A predecessor may have kept something that it did not come to show.
    fn started(&self) -> bool {
        let state = self.state();
        self.shown.show(self.plugged(&state));
        false
    }

    fn service(self: &Arc<Self>, _queue: u16) -> Service {
        let guest = GuestRequests { mem: Arc::clone(self), memory: None, failed: false };
        Service::Requests(Box::new(guest))
    }
}

/// `guest_request_queue`, the only queue.
struct GuestRequests {
    mem: Arc<Mem>,
    memory: Option<GuestPages>,
    /// That memory cannot be given back has been said.
    failed: bool,
}

impl GuestRequests {
    fn answer(&mut self, reader: &mut Reader<'_, '_>) -> Response {
        let mem = Arc::clone(&self.mem);
        match Request::read(reader) {
            Some(Request::Plug(span)) => mem.plug(span),
            Some(Request::Unplug(span)) => {
                mem.unplug(span, |address, length| self.give_back(address, length))
            }
            Some(Request::UnplugAll) => mem.unplug_all(|address, length| self.give_back(address, length)),
            Some(Request::State(span)) => mem.look(span),
            None => Response::Error,
        }
    }

    fn give_back(&mut self, address: u64, length: u64) -> bool {
        let given = self.memory.as_ref().map(|memory| memory.give_back(address, length));
        if let Some(Err(error)) = given
            && !std::mem::replace(&mut self.failed, true)
        {
            log_line(format_args!(
                "memory that the guest unplugs cannot be given back, and stays plugged: {error}"
            ));
        }
        matches!(given, Some(Ok(())))
    }
}

impl Handler for GuestRequests {
    fn attach(&mut self, memory: &GuestPages) {
        self.memory = Some(memory.clone());
    }

    fn handle(
        &mut self,
        _features: u64,
        mut reader: Reader<'_, '_>,
        writer: Writer<'_, '_>,
    ) -> Result<u32, &'static str> {
        // Before anything is done that nobody could be told of.
        if writer.remaining() < RESPONSE {
            return Err(NO_ROOM);
        }
        let answer = self.answer(&mut reader);
        respond(writer, answer)
    }

    fn refuse(&mut self, writer: Writer<'_, '_>) -> Result<u32, &'static str> {
        respond(writer, Response::Error)
    }
}

const NO_ROOM: &str = "a request has no room for its answer";

fn respond(mut writer: Writer<'_, '_>, response: Response) -> Result<u32, &'static str> {
    writer.write_all(&response.bytes()).map_err(|_| NO_ROOM)?;
    u32::try_from(RESPONSE).map_err(|_| NO_ROOM)
}

#[cfg(test)]
mod tests;
