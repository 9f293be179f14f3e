//! What the launcher and its spawner say to each other, as bytes.

use super::golden;
use protocol::{
    Connect, Failure, FailureKind, FromSpawner, Message, NotConnected, Respawn, SpawnFailed, Spawned,
    ToSpawner,
};

#[test]
fn launcher_to_spawner_and_back() {
    let respawn = |blamed, program| ToSpawner::Respawn(Respawn { device: 2, blamed, program });
    golden(&respawn(false, false), 0x0501, "0200");
    golden(&respawn(true, false), 0x0501, "0201010101");
    golden(&respawn(false, true), 0x0501, "0201020101");
    assert_eq!((respawn(true, false).fds(), respawn(false, true).fds()), (0, 1));
    let spawned = |lacking: &[String], left| FromSpawner::Spawned(Spawned::new(2, 300, lacking, left));
    golden(&spawned(&[], 0), 0x0601, "02fb580200");
    golden(&spawned(&["ab".to_owned()], 0), 0x0601, "02fb580201010401026162");
    golden(&spawned(&[], 1), 0x0601, "02fb580201020101");
    assert_eq!((spawned(&[], 0).fds(), spawned(&[], 1).fds()), (4, 5));
    golden(&ToSpawner::Connect(Connect { slot: 3 }), 0x0502, "0300");
    golden(&FromSpawner::Connected(Connect { slot: 3 }), 0x0603, "0300");
    let failure = Failure::new(FailureKind::Device, "no");
    golden(&FromSpawner::NotConnected(NotConnected { slot: 3, failure }), 0x0604, "0307026e6f00");
    let failure = Failure::new(FailureKind::Sandbox, "no");
    let failed = |left| FromSpawner::Failed(SpawnFailed { device: 2, failure: failure.clone(), left });
    golden(&failed(0), 0x0602, "0206026e6f00");
    golden(&failed(2), 0x0602, "0206026e6f01010102");
    assert_eq!((failed(0).fds(), failed(2).fds()), (0, 2));
    assert!(failed(3).encode().is_err(), "there are two attempts");
}
