//! A disk driven through each kind of request while core and device are under their serving filters, and
//! what the host then finds in its image.

use std::fs;
use std::path::Path;

use system_tests::Result;

use crate::driver::{
    COPIED, COUNT, DISCARDED, DONE, IDENTIFIED, PATTERN, SECTORS, UNMAPPED, WRITTEN, ZEROED,
};
use crate::guest::Guest;
use crate::house::{House, Who};

/// What the image holds before.
const BEFORE: u8 = 0x5A;

/// The bytes of the image from `sector` on, as many as each request covers.
fn sectors(image: &[u8], sector: u64) -> &[u8] {
    let start = usize::try_from(sector * 512).expect("small");
    &image[start..start + usize::try_from(SECTORS * 512).expect("small")]
}

fn serve_all(house: &House, options: &str) -> Result<()> {
    fs::write(house.disk(), vec![BEFORE; 1 << 20]).expect("an image");
    let options = format!(",serial=tiny{options}");
    let ended = house.start_with(Guest::DrivesAndPowersOff, None, &options)?.wait()?;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    assert_eq!(ended.said(DONE)?, "0".repeat(COUNT), "{}", ended.everything());
    let image = fs::read(house.disk()).expect("an image");
    for place in [WRITTEN, COPIED] {
        assert!(sectors(&image, place).iter().all(|byte| *byte == PATTERN), "sector {place}");
    }
    for place in [ZEROED, UNMAPPED] {
        assert!(sectors(&image, place).iter().all(|byte| *byte == 0), "sector {place}");
    }
    // Discarded sectors hold what the host likes, the others what they held.
    assert_eq!(&sectors(&image, IDENTIFIED)[..20], b"tiny\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    for place in [0, DISCARDED - u64::from(SECTORS), UNMAPPED + u64::from(SECTORS)] {
        assert!(sectors(&image, place).iter().all(|byte| *byte == BEFORE), "sector {place}");
    }
    house.check_left()
}

#[test]
fn each_kind_of_request_is_served_under_the_filters() -> Result<()> {
    serve_all(&House::new(Who::Caller)?, "")
}

#[test]
fn an_ordinary_users_disk_is_served_under_the_filters() -> Result<()> {
    serve_all(&House::new(Who::OrdinaryUser)?, "")
}

#[test]
fn direct_io_is_served_under_the_filters() -> Result<()> {
    // Beside what was built: the folder for temporary files may be in memory, where old kernels have no direct
    // I/O.
    let house = House::within(Who::Caller, Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    serve_all(&house, ",direct=on")
}
