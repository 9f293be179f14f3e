//! The one BAR of a virtio-pci function: which structure lies where (virtio 1.3, 4.1.4). Each has pages of its own, so
//! that later a page can be given other rights than its neighbour.

use std::ops::Range;

/// Bytes of the BAR.
pub const BAR_SIZE: u64 = 0x8000;

/// Common configuration, up to and with `queue_reset`.
pub const COMMON: Range<u64> = 0x0000..0x003C;
/// ISR status.
pub const ISR: Range<u64> = 0x1000..0x1001;
/// Device configuration.
pub const DEVICE: Range<u64> = 0x2000..0x3000;
/// Notifications, [`NOTIFY_MULTIPLIER`] bytes for each queue.
pub const NOTIFY: Range<u64> = 0x3000..0x4000;
/// The MSI-X table.
pub const MSIX_TABLE: Range<u64> = 0x4000..0x5000;
/// The MSI-X pending bits.
pub const MSIX_PBA: Range<u64> = 0x5000..0x6000;

/// Distance of two queues' notification addresses.
pub const NOTIFY_MULTIPLIER: u32 = 4;

/// A structure of the BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// Common configuration.
    Common,
    /// ISR status.
    Isr,
    /// Device configuration.
    DeviceConfig,
    /// Notifications.
    Notify,
    /// The MSI-X table.
    MsixTable,
    /// The MSI-X pending bits.
    MsixPba,
    /// Nothing.
    Gap,
}

/// The structure at `offset` of the BAR, and the offset in it.
#[must_use]
pub fn area(offset: u64) -> (Area, usize) {
    let areas = [
        (COMMON, Area::Common),
        (ISR, Area::Isr),
        (DEVICE, Area::DeviceConfig),
        (NOTIFY, Area::Notify),
        (MSIX_TABLE, Area::MsixTable),
        (MSIX_PBA, Area::MsixPba),
    ];
    let found = areas.into_iter().find(|(range, _)| range.contains(&offset));
    found.map_or((Area::Gap, 0), |(range, area)| {
        (area, usize::try_from(offset.saturating_sub(range.start)).unwrap_or(usize::MAX))
    })
}

/// The address, from the BAR's start, at which queue `index` is notified.
#[must_use]
pub fn notify_offset(index: u16) -> u64 {
    NOTIFY.start.saturating_add(u64::from(index).saturating_mul(NOTIFY_MULTIPLIER.into()))
}
