//! The register machine under a driver that behaves, and under one that does not.

use super::*;
use crate::virtio_pci::layout::{DEVICE, ISR, MSIX_PBA, MSIX_TABLE, NOTIFY};

const FEATURES: u64 = VERSION_1 | 1 << 29 | 1 << 9;

fn transport() -> Transport {
    Transport::new(Offer {
        kind: DeviceType::new(2).unwrap(),
        features: FEATURES,
        queues: 3,
        queue_size: 256,
        config: (0..60).collect(),
        ram: vec![(0, 0x10_0000)],
    })
}

fn write(transport: &mut Transport, offset: u64, value: u64, width: usize) -> Option<Event> {
    transport.write(offset, &value.to_le_bytes()[..width])
}

fn read(transport: &mut Transport, offset: u64, width: usize) -> u64 {
    let mut data = [0; 8];
    transport.read(offset, &mut data[..width]);
    u64::from_le_bytes(data)
}

fn status(transport: &mut Transport) -> u64 {
    read(transport, 0x14, 1)
}

fn negotiate(transport: &mut Transport, features: u64) {
    for value in [1, 3] {
        write(transport, 0x14, value, 1);
    }
    for half in 0..2 {
        write(transport, 0x08, half, 4);
        write(transport, 0x0C, features >> (32 * half), 4);
    }
    write(transport, 0x14, 11, 1);
}

fn set_up_queue(transport: &mut Transport, index: u64) {
    write(transport, 0x16, index, 2);
    write(transport, 0x18, 64, 2);
    for (offset, address) in [(0x20, 0x1000), (0x28, 0x2000), (0x30, 0x3000)] {
        write(transport, offset, address, 4);
        write(transport, offset + 4, 0, 4);
    }
    write(transport, 0x1C, 1, 2);
}

fn active() -> Transport {
    let mut transport = transport();
    negotiate(&mut transport, FEATURES);
    set_up_queue(&mut transport, 0);
    let event = write(&mut transport, 0x14, 15, 1);
    assert!(matches!(event, Some(Event::Activate(_))), "{event:?}");
    transport
}

#[test]
fn a_driver_that_behaves_gets_its_rings() {
    let mut transport = transport();
    assert_eq!(read(&mut transport, 0x12, 2), 3, "num_queues");
    assert_eq!(read(&mut transport, 0x04, 4), FEATURES & 0xFFFF_FFFF);
    negotiate(&mut transport, VERSION_1);
    set_up_queue(&mut transport, 1);
    let ring = Ring { index: 1, size: 64, descriptors: 0x1000, available: 0x2000, used: 0x3000 };
    let expected = Activation { features: VERSION_1, rings: vec![ring] };
    assert_eq!(write(&mut transport, 0x14, 15, 1), Some(Event::Activate(expected)));
    assert_eq!(status(&mut transport), 15);
    assert_eq!(write(&mut transport, NOTIFY.start + 4, 1, 2), Some(Event::Notify(1)));
}

#[test]
fn queue_select_out_of_range_reads_zero_everywhere() {
    let mut transport = transport();
    negotiate(&mut transport, FEATURES);
    for select in [3, 64, 0x7FFF, 0xFFFF] {
        write(&mut transport, 0x16, select, 2);
        assert_eq!(read(&mut transport, 0x16, 2), select);
        for offset in 0x18..0x3C {
            for width in 1..=8 {
                assert_eq!(read(&mut transport, offset, width), 0, "{select:#x} {offset:#x}");
                assert!(matches!(
                    write(&mut transport, offset, u64::MAX, width),
                    None | Some(Event::Interrupts)
                ));
            }
        }
    }
    for index in 0..3 {
        write(&mut transport, 0x16, index, 2);
        assert_eq!((read(&mut transport, 0x18, 2), read(&mut transport, 0x1C, 2)), (256, 0));
    }
}

#[test]
fn features_never_offered_or_without_version_1_are_refused() {
    for features in [0, 1 << 9, FEATURES | 1 << 34, FEATURES | 1, u64::MAX] {
        let mut transport = transport();
        negotiate(&mut transport, features);
        assert_eq!(status(&mut transport), 3, "{features:#x}");
        assert_eq!(write(&mut transport, 0x14, 15, 1), None, "no way around");
        assert_eq!(status(&mut transport), 3);
    }
    let mut transport = transport();
    negotiate(&mut transport, FEATURES);
    write(&mut transport, 0x08, 0, 4);
    write(&mut transport, 0x0C, u64::MAX, 4);
    assert_eq!(read(&mut transport, 0x0C, 4), FEATURES & 0xFFFF_FFFF, "agreed is agreed");
    for select in [2, 0xFFFF_FFFF] {
        write(&mut transport, 0x00, select, 4);
        write(&mut transport, 0x08, select, 4);
        assert_eq!((read(&mut transport, 0x04, 4), read(&mut transport, 0x0C, 4)), (0, 0));
    }
}

#[test]
fn queue_registers_are_frozen_by_enable_and_by_driver_ok() {
    let mut transport = transport();
    negotiate(&mut transport, FEATURES);
    set_up_queue(&mut transport, 0);
    let image = |transport: &mut Transport| (0x18..0x38).map(|at| read(transport, at, 1)).collect::<Vec<_>>();
    let attack = |transport: &mut Transport| {
        for (offset, width) in
            [(0x18, 2), (0x1C, 2), (0x20, 4), (0x24, 4), (0x28, 4), (0x2C, 4), (0x30, 4), (0x34, 4)]
        {
            for value in [0, 2, 32, 0x4000] {
                write(transport, offset, value, width);
            }
        }
    };
    let before = image(&mut transport);
    attack(&mut transport);
    assert_eq!(image(&mut transport), before);
    write(&mut transport, 0x14, 15, 1);
    attack(&mut transport);
    assert_eq!(image(&mut transport), before);
    write(&mut transport, 0x16, 1, 2);
    let other = image(&mut transport);
    attack(&mut transport);
    write(&mut transport, 0x1C, 1, 2);
    assert_eq!(image(&mut transport), other, "a queue not enabled at DRIVER_OK stays so");
}

#[test]
fn queue_sizes_that_are_none_are_ignored() {
    let mut transport = transport();
    negotiate(&mut transport, FEATURES);
    for size in [0, 3, 255, 257, 512, 0x8000, 0xFFFF] {
        write(&mut transport, 0x18, size, 2);
        assert_eq!(read(&mut transport, 0x18, 2), 256, "{size}");
    }
    write(&mut transport, 0x1C, 2, 2);
    write(&mut transport, 0x1C, 0xFFFF, 2);
    assert_eq!(read(&mut transport, 0x1C, 2), 0);
}

#[test]
fn rings_outside_memory_make_the_device_need_a_reset() {
    for (offset, address) in [(0x20, 0xF_FFF0_u64), (0x24, 1), (0x28, 0x2001), (0x34, 0xFFFF_FFFF)] {
        let mut transport = transport();
        negotiate(&mut transport, FEATURES);
        write(&mut transport, offset, address, 4);
        write(&mut transport, 0x1C, 1, 2);
        assert_eq!(write(&mut transport, 0x14, 15, 1), Some(Event::NeedsReset), "{offset:#x}");
        assert_eq!(status(&mut transport), 0x4F);
        assert_eq!(write(&mut transport, NOTIFY.start, 0, 2), None);
        assert_eq!(write(&mut transport, 0x14, 0, 1), Some(Event::Interrupts), "nothing ran");
        assert_eq!(status(&mut transport), 0);
    }
}

#[test]
fn a_reset_waits_for_the_back_end() {
    let mut transport = active();
    assert_eq!(write(&mut transport, 0x14, 0, 1), Some(Event::Reset));
    for _ in 0..3 {
        assert_ne!(status(&mut transport), 0);
        assert_eq!(write(&mut transport, 0x14, 0, 1), None, "once is enough");
        negotiate(&mut transport, FEATURES);
        set_up_queue(&mut transport, 0);
        assert_eq!(write(&mut transport, 0x14, 15, 1), None);
        assert_eq!(write(&mut transport, NOTIFY.start, 0, 2), None);
        assert_eq!(write(&mut transport, DEVICE.start, 0, 1), None);
    }
    transport.reset_done();
    assert_eq!(status(&mut transport), 0);
    for (offset, width, value) in [
        (0x0C, 4, 0),
        (0x10, 2, 0xFFFF),
        (0x16, 2, 0),
        (0x18, 2, 256),
        (0x1A, 2, 0xFFFF),
        (0x1C, 2, 0),
        (0x20, 8, 0),
    ] {
        assert_eq!(read(&mut transport, offset, width), value, "{offset:#x}");
    }
    transport.reset_done();
    negotiate(&mut transport, FEATURES);
    assert_eq!(status(&mut transport), 11, "and it works again");
}

#[test]
fn vectors_out_of_range_read_back_as_none() {
    let mut transport = active();
    for (given, found) in [(0, 0), (3, 3), (4, 0xFFFF), (0x7FF, 0xFFFF), (0xFFFF, 0xFFFF)] {
        for offset in [0x10, 0x1A] {
            assert_eq!(write(&mut transport, offset, given, 2), Some(Event::Interrupts));
            assert_eq!(read(&mut transport, offset, 2), found);
        }
    }
}

#[test]
fn a_source_has_a_message_when_vector_table_and_function_agree() {
    let mut transport = active();
    write(&mut transport, 0x16, 0, 2);
    write(&mut transport, 0x1A, 2, 2);
    transport.set_msix_control(0x8000);
    let entry = MSIX_TABLE.start + 32;
    write(&mut transport, entry, 0xFEE0_0000, 4);
    write(&mut transport, entry + 8, 0x55, 4);
    assert_eq!(transport.message(Source::Queue(0)), None, "masked");
    assert_eq!(write(&mut transport, entry + 12, 0, 4), Some(Event::Interrupts));
    let message = MsiMessage { address: 0xFEE0_0000, data: 0x55 };
    assert_eq!(transport.message(Source::Queue(0)), Some((2, message)));
    assert_eq!(transport.message(Source::Config), None);
    assert_eq!(transport.message(Source::Queue(9)), None);

    transport.set_pending(vec![Source::Queue(0), Source::Queue(1), Source::Config]);
    assert_eq!(read(&mut transport, MSIX_PBA.start, 8), 0, "nothing is held back");
    write(&mut transport, entry + 12, 1, 4);
    assert_eq!(read(&mut transport, MSIX_PBA.start, 8), 1 << 2);
    assert_eq!(write(&mut transport, MSIX_PBA.start, u64::MAX, 8), None);
    assert_eq!(read(&mut transport, MSIX_PBA.start, 8), 1 << 2);
}

#[test]
fn device_configuration_at_every_offset_and_length() {
    let mut transport = active();
    for at in (0..0x80).chain(0xFF0..0x1000) {
        for width in 1..=8_usize {
            let mut data = [0xEE; 8];
            transport.read(DEVICE.start + at, &mut data[..width]);
            for (index, byte) in (at..).zip(&data[..width]) {
                assert_eq!(u64::from(*byte), if index < 60 { index } else { 0 });
            }
            let inside = at + width as u64 <= 60;
            let event = transport.clone().write(DEVICE.start + at, &[0xAA; 8][..width]);
            let expected = Event::ConfigWrite { offset: u16::try_from(at).unwrap(), data: vec![0xAA; width] };
            assert_eq!(event, inside.then_some(expected), "{at} {width}");
        }
    }
    let mut fresh = super::tests::transport();
    assert_eq!(write(&mut fresh, DEVICE.start, 0, 1), None, "not before there is a driver");
}

#[test]
fn what_is_plugged_is_in_its_place_and_no_new_generation() {
    let mut transport = active();
    let generation = read(&mut transport, 0x15, 1);
    transport.show_plugged(0x0102_0304_0506_0708);
    let at = |transport: &mut Transport, byte| read(transport, DEVICE.start + byte, 8);
    assert_eq!(at(&mut transport, 40), 0x0102_0304_0506_0708);
    assert_eq!(at(&mut transport, 32).to_le_bytes(), [32, 33, 34, 35, 36, 37, 38, 39]);
    assert_eq!(at(&mut transport, 48).to_le_bytes(), [48, 49, 50, 51, 52, 53, 54, 55]);
    assert_eq!(read(&mut transport, 0x15, 1), generation);
    // A back end that has no such field has none after it.
    transport.set_config(vec![7; 44]);
    transport.show_plugged(1);
    assert_eq!(at(&mut transport, 36), 0x0707_0707_0707_0707);
}

#[test]
fn a_new_configuration_has_a_new_generation() {
    let mut transport = active();
    let config: Vec<u8> = (0..60).collect();
    assert!(!transport.set_config(config.clone()));
    assert_eq!(read(&mut transport, 0x15, 1), 0);
    assert!(transport.set_config(config.iter().rev().copied().collect()));
    assert_eq!((read(&mut transport, 0x15, 1), read(&mut transport, DEVICE.start, 1)), (1, 59));
    assert_eq!(read(&mut transport, ISR.start, 1), 2);
    assert_eq!(read(&mut transport, ISR.start, 1), 0, "read and cleared");
}

#[test]
fn a_write_cache_is_shown_as_on_until_it_is_off() {
    let mut transport = active();
    let at = DEVICE.start + 32;
    let confirmed = |transport: &mut Transport, on: u8| {
        let mut config: Vec<u8> = (0..60).collect();
        config[32] = on;
        transport.set_config(config);
    };
    confirmed(&mut transport, 1);
    let generation = read(&mut transport, 0x15, 1);
    assert_eq!(write(&mut transport, at, 0, 1), Some(Event::ConfigWrite { offset: 32, data: vec![0] }));
    assert_eq!(read(&mut transport, at, 1), 1);
    confirmed(&mut transport, 0);
    assert_eq!((read(&mut transport, at, 1), read(&mut transport, 0x15, 1)), (0, generation + 1));
    assert_eq!(read(&mut transport, ISR.start, 1), 2, "the driver is told");
    // On is shown at once, and is not taken back by what comes after it but was said before.
    write(&mut transport, at, 1, 1);
    write(&mut transport, at, 0, 1);
    assert_eq!(read(&mut transport, at, 1), 1);
    // Others are shown as they were written.
    write(&mut transport, at + 1, 7, 1);
    assert_eq!(read(&mut transport, at, 2), 0x0701);
}

#[test]
fn failing_is_told_once() {
    let mut transport = active();
    assert!(transport.fail());
    assert!(!transport.fail());
    assert_eq!(status(&mut transport), 0x4F);
    assert_eq!(write(&mut transport, 0x14, 0, 1), Some(Event::Reset));
    assert!(!transport.fail(), "nobody listens during a reset");
    assert!(!super::tests::transport().fail(), "nor before there is a driver");
}

#[test]
fn notifications_of_queues_that_do_not_run_are_nothing() {
    let mut transport = active();
    for at in NOTIFY {
        for width in [1, 2, 4, 8] {
            let event = write(&mut transport, at, 0, width);
            assert_eq!(event, (at == NOTIFY.start).then_some(Event::Notify(0)), "{at:#x}");
        }
    }
}

#[test]
fn any_access_anywhere_is_answered() {
    let mut transport = active();
    let edges = [0_u64, 0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000, 0x8000, u64::MAX - 8];
    for start in edges {
        for offset in start..start.saturating_add(0x90) {
            for width in 0..=8 {
                read(&mut transport, offset, width);
                for value in [0, 1, 0xFF, u64::MAX] {
                    let mut trial = transport.clone();
                    write(&mut trial, offset, value, width);
                    assert!(trial.queues.iter().all(|queue| queue.size.is_power_of_two()));
                }
            }
        }
    }
}
