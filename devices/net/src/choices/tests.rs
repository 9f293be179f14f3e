//! The choices against a host that writes down what it is told.

use std::sync::Mutex;

use super::*;

const BOTH: u64 = feature::CTRL_VQ | feature::MQ | GUEST_OFFLOADS;

/// Which queues are attached, and by which features offloads were set last.
struct Host {
    attached: Mutex<Vec<bool>>,
    offload: Mutex<u64>,
    refuses: Option<u16>,
}

impl Host {
    /// As an opener hands it over.
    fn new(most: usize) -> Self {
        let attached = (0..most).map(|pair| pair == 0).collect();
        Self { attached: Mutex::new(attached), offload: Mutex::new(0), refuses: None }
    }

    fn attached(&self) -> Vec<bool> {
        self.attached.lock().unwrap().clone()
    }
}

impl Follows for Host {
    fn set_queue(&self, pair: u16, attached: bool) -> Result<(), Errno> {
        if attached && self.refuses == Some(pair) {
            return Err(Errno::ENOMEM);
        }
        self.attached.lock().unwrap()[usize::from(pair)] = attached;
        Ok(())
    }

    fn set_offload(&self, features: u64) -> Result<(), Errno> {
        *self.offload.lock().unwrap() = features;
        Ok(())
    }
}

#[test]
fn queues_have_frames_that_a_driver_uses_and_no_others() {
    let (host, choices) = (Host::new(3), Choices::new(3));
    (0..3).for_each(|pair| choices.enable(&host, pair, true, BOTH));
    assert_eq!(host.attached(), [true, false, false], "one until the driver says more");
    for (pairs, attached) in [(3, [true; 3]), (2, [true, true, false]), (1, [true, false, false])] {
        assert!(choices.obey(&host, Command::Pairs(pairs), BOTH));
        assert_eq!(host.attached(), attached);
    }
    assert!(choices.obey(&host, Command::Pairs(3), BOTH));
    choices.enable(&host, 2, false, BOTH);
    assert_eq!(host.attached(), [true, true, false], "nobody reads it");
    choices.enable(&host, 2, true, BOTH);
    assert_eq!(host.attached(), [true; 3]);
    choices.reset(&host);
    assert_eq!(host.attached(), [true, false, false]);
    (0..3).for_each(|pair| choices.enable(&host, pair, true, BOTH));
    assert_eq!(host.attached(), [true, false, false], "the next driver begins with one");
}

#[test]
fn a_front_end_that_serves_the_control_queue_says_by_its_rings_what_is_used() {
    let (host, choices) = (Host::new(3), Choices::new(3));
    for (pair, enabled, attached) in
        [(0, true, [true, false, false]), (1, true, [true, true, false]), (1, false, [true, false, false])]
    {
        choices.enable(&host, pair, enabled, feature::MQ);
        assert_eq!(host.attached(), attached);
    }
}

#[test]
fn what_the_host_refuses_changes_nothing() {
    let (host, choices) = (Host { refuses: Some(2), ..Host::new(3) }, Choices::new(3));
    (0..3).for_each(|pair| choices.enable(&host, pair, true, BOTH));
    let before = choices.kept();
    assert!(!choices.obey(&host, Command::Pairs(3), BOTH));
    assert_eq!((host.attached(), choices.kept()), (vec![true, false, false], before));
    assert!(choices.obey(&host, Command::Pairs(2), BOTH));
    assert_eq!(host.attached(), [true, true, false]);
}

#[test]
fn offloads_in_use_are_those_of_the_last_command() {
    let (host, choices) = (Host::new(1), Choices::new(1));
    let accepted = feature::GUEST_CSUM | feature::GUEST_TSO4 | feature::CSUM;
    assert_eq!(choices.set_offload(&host, accepted), Ok(accepted));
    assert!(choices.obey(&host, Command::Offloads(feature::GUEST_CSUM), accepted));
    let fewer = feature::GUEST_CSUM | feature::CSUM;
    assert_eq!((*host.offload.lock().unwrap(), choices.in_use(accepted)), (fewer, fewer));
    choices.reset(&host);
    assert_eq!(choices.in_use(accepted), accepted);
}

#[test]
fn a_successor_goes_on_as_its_predecessor_and_a_reset_leaves_the_link() {
    let (host, old) = (Host::new(3), Choices::new(3));
    (0..3).for_each(|pair| old.enable(&host, pair, true, BOTH));
    assert!(old.obey(&host, Command::Pairs(2), BOTH) && old.obey(&host, Command::Offloads(2), BOTH));
    old.set_link(false);
    // Its predecessor died when it had attached one more, and had not kept that.
    let host = Host { attached: Mutex::new(vec![true; 3]), ..host };
    let new = Choices::new(3);
    assert!(new.restore(&old.kept()));
    assert_eq!((host.attached(), new.link_up()), (vec![true; 3], false), "the host is left alone");
    (0..3).for_each(|pair| new.enable(&host, pair, true, BOTH));
    assert_eq!((host.attached(), new.kept()), (vec![true, true, false], old.kept()));
    assert_eq!(new.in_use(BOTH) & GUEST_OFFLOADS, 2);
    new.reset(&host);
    assert!(!new.link_up() && new.in_use(BOTH) == BOTH);
}

#[test]
fn lies_of_a_predecessor_are_a_device_that_no_driver_has_touched() {
    let good = Choices::new(3).kept();
    let lie = |at: usize, value: u8| {
        let mut kept = good.clone();
        kept.state[at] = value;
        kept
    };
    let version = Kept { version: 2, ..good.clone() };
    let lies = [lie(0, 0), lie(0, 4), lie(1, 1), lie(2, 1), lie(10, 2), version];
    let lengths = (0..30).filter(|size| *size != good.state.len());
    let lengths = lengths.map(|size| Kept { version: 1, state: vec![1; size] });
    for lie in lies.into_iter().chain(lengths) {
        let choices = Choices::new(3);
        choices.set_link(false);
        assert!(!choices.restore(&lie), "{lie:?}");
        assert_eq!(choices.kept(), good, "{lie:?}");
    }
    assert!(Choices::new(3).restore(&good));
}
