//! A disk that forgets, on `vhost-user-backend`: a read gives its own sector number, an id is the same for all.
//!
//! Written as the crate's documentation has it, with nothing in it that knows our front end. Its two limits that
//! matter here: one daemon serves one connection, and it ends only when `exit_event` is overridden.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Error as VhostUserError, Listener};
use vhost_user_backend::{Error, VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT};
use virtio_queue::QueueOwnedT;
use vm_memory::{Address, Bytes, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// Queues that it offers.
pub const QUEUES: u8 = 2;
/// Sectors that it claims.
pub const CAPACITY: u64 = 12_345;
/// `writeback`, the one field of its configuration that a driver may write (virtio 1.3, 5.2.4).
const WRITEBACK: u32 = 32;
const GET_ID: u32 = 8;
/// What every request for an id gets.
pub const ID: &[u8; 16] = b"independent peer";

struct NullDisk {
    memory: Memory,
    config: [u8; 60],
    stopped: Arc<AtomicU64>,
}

impl NullDisk {
    fn new(memory: Memory, stopped: Arc<AtomicU64>) -> Self {
        let mut config = [0; 60];
        config[..8].copy_from_slice(&CAPACITY.to_le_bytes());
        config[34..36].copy_from_slice(&0xFFFF_u16.to_le_bytes());
        Self { memory, config, stopped }
    }

    /// Answers what is available; the header, one buffer and the status of each are descriptors of their own.
    fn serve(&self, vring: &VringRwLock) {
        let memory = self.memory.memory();
        let chains: Vec<_> = vring.get_mut().get_queue_mut().iter(memory.clone()).unwrap().collect();
        for chain in chains {
            let head = chain.head_index();
            let [header, data, status] = chain.collect::<Vec<_>>().try_into().unwrap();
            let kind: u32 = memory.read_obj(header.addr()).unwrap();
            let sector: u64 = memory.read_obj(header.addr().unchecked_add(8)).unwrap();
            let answer = if kind == GET_ID { *ID } else { u128::from(sector).to_le_bytes() };
            memory.write_slice(&answer, data.addr()).unwrap();
            memory.write_obj(0_u8, status.addr()).unwrap();
            vring.add_used(head, data.len() + 1).unwrap();
        }
        if vring.needs_notification().unwrap() {
            vring.signal_used_queue().unwrap();
        }
    }
}

impl VhostUserBackendMut for NullDisk {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        QUEUES.into()
    }

    fn max_queue_size(&self) -> usize {
        256
    }

    fn features(&self) -> u64 {
        // VIRTIO_F_VERSION_1, EVENT_IDX, INDIRECT_DESC, VIRTIO_BLK_F_FLUSH, and what no guest of ours may be offered:
        // VIRTIO_F_IN_ORDER and VIRTIO_F_RING_PACKED.
        let virtio = 1 << 32 | 1 << 29 | 1 << 28 | 1 << 9 | 1 << 35 | 1 << 34;
        virtio | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::RESET_DEVICE
    }

    fn set_event_idx(&mut self, _enabled: bool) {}

    fn update_memory(&mut self, memory: Memory) -> io::Result<()> {
        self.memory = memory;
        Ok(())
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        self.config.iter().copied().skip(offset as usize).take(size as usize).collect()
    }

    fn set_config(&mut self, offset: u32, bytes: &[u8]) -> io::Result<()> {
        match (offset, bytes) {
            (WRITEBACK, [value]) => self.config[WRITEBACK as usize] = *value,
            _ => return Err(io::ErrorKind::PermissionDenied.into()),
        }
        Ok(())
    }

    fn stop_vring(&mut self, _index: u32) -> io::Result<()> {
        self.stopped.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::CLOEXEC).ok()
    }

    fn handle_event(
        &mut self,
        queue: u16,
        _events: EventSet,
        vrings: &[VringRwLock],
        _thread: usize,
    ) -> io::Result<()> {
        self.serve(&vrings[usize::from(queue)]);
        Ok(())
    }
}

/// The daemon, which has or had the one connection of its life.
pub struct Daemon {
    daemon: VhostUserDaemon<Arc<RwLock<NullDisk>>>,
    stopped: Arc<AtomicU64>,
}

impl Daemon {
    /// Starts it, and gives the front end's end of its connection.
    pub fn start() -> (Self, OwnedFd) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let mut listener = Listener::new(&path, false).unwrap();
        let front_end = UnixStream::connect(&path).unwrap();
        let memory = Memory::new(GuestMemoryMmap::new());
        let stopped = Arc::new(AtomicU64::new(0));
        let disk = Arc::new(RwLock::new(NullDisk::new(memory.clone(), Arc::clone(&stopped))));
        let mut daemon = VhostUserDaemon::new("null disk".to_owned(), disk, memory).unwrap();
        daemon.start(&mut listener).unwrap();
        (Self { daemon, stopped }, front_end.into())
    }

    /// How many rings it has stopped so far.
    pub fn stopped(&self) -> u64 {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Ends it under its front end.
    pub fn shut_down(mut self) {
        self.daemon.request_shutdown();
        self.daemon.wait().unwrap();
    }

    /// Waits for its end, which is the front end's hanging up between two messages.
    pub fn ends_by_hang_up(mut self) {
        let end = self.daemon.wait();
        assert!(matches!(end, Err(Error::HandleRequest(VhostUserError::Disconnected))), "{end:?}");
    }

    /// Waits for its end, which is its own error at a request.
    pub fn ends_by_refusal(mut self) {
        let end = self.daemon.wait();
        assert!(matches!(end, Err(Error::HandleRequest(VhostUserError::ReqHandlerError(_)))), "{end:?}");
    }
}
