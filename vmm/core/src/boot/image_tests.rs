//! Images whole, cut off, and not images at all.

use super::*;

/// The head of a bzImage with a 1 KiB setup and 64 KiB behind it.
fn bzimage() -> Vec<u8> {
    let mut head = vec![0; HEAD];
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1F1, &[1]);
    put(0x1F4, &4096u32.to_le_bytes());
    put(0x1FE, &[0x55, 0xAA]);
    put(0x202, b"HdrS");
    put(0x206, &0x020Fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x214, &0x10_0000u32.to_le_bytes());
    put(0x22C, &0x7FFF_FFFFu32.to_le_bytes());
    put(0x234, &[1]);
    put(0x236, &0x3Fu16.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes());
    put(0x258, &0x100_0000u64.to_le_bytes());
    put(0x260, &0x200_0000u32.to_le_bytes());
    head
}

const BZIMAGE_SIZE: u64 = 1024 + 65536;

fn elf(address: u64, offset: u64, in_file: u64, in_memory: u64) -> Vec<u8> {
    let mut head = vec![0; 64 + 56];
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7FELF\x02\x01\x01");
    put(0x12, &62u16.to_le_bytes());
    put(0x18, &0x100_0000u64.to_le_bytes());
    put(0x20, &64u64.to_le_bytes());
    put(0x36, &56u16.to_le_bytes());
    put(0x38, &1u16.to_le_bytes());
    put(64, &1u32.to_le_bytes());
    put(64 + 8, &offset.to_le_bytes());
    put(64 + 24, &address.to_le_bytes());
    put(64 + 32, &in_file.to_le_bytes());
    put(64 + 40, &in_memory.to_le_bytes());
    head
}

#[test]
fn a_bzimage_is_recognized() {
    let expected =
        BzImage { load: 0x10_0000, end: 0x300_0000, initrd_end_max: 0x8000_0000, command_line_max: 2047 };
    assert_eq!(check(&bzimage(), BZIMAGE_SIZE).unwrap(), Image::BzImage(expected));
}

#[test]
fn a_signed_bzimage_is_longer_than_its_header_says() {
    assert!(check(&bzimage(), BZIMAGE_SIZE + 2000).is_ok());
}

#[test]
fn a_truncated_bzimage_is_named_so_wherever_it_is_cut() {
    for size in [0x206, 0x240, 0x263, 1024, 4096, BZIMAGE_SIZE - 1] {
        let mut head = bzimage();
        head.truncate(usize::try_from(size).unwrap());
        let error = check(&head, size).unwrap_err();
        assert!(matches!(error, Error::KernelTruncated { found, .. } if found == size), "{size}: {error}");
    }
}

#[test]
fn a_kernel_without_a_64_bit_entry_is_refused() {
    let mut head = bzimage();
    head[0x236] = 0;
    assert!(matches!(check(&head, BZIMAGE_SIZE), Err(Error::KernelUnusable(_))));
    let mut old = bzimage();
    old[0x206] = 0x04;
    assert!(check(&old, BZIMAGE_SIZE).unwrap_err().to_string().contains("2.04"));
    let mut low = bzimage();
    low[0x214..0x218].copy_from_slice(&0x1000u32.to_le_bytes());
    assert!(check(&low, BZIMAGE_SIZE).is_err());
}

#[test]
fn what_is_no_kernel_is_called_no_kernel() {
    for (bytes, says) in [
        (&b""[..], "empty"),
        (&b"#!"[..], "starts with"),
        (&b"\x1F\x8B\x08\x00 gzip of something"[..], "[1f, 8b, 08, 00]"),
        (&[0u8; HEAD][..], "HdrS"),
    ] {
        let error = check(bytes, bytes.len() as u64).unwrap_err();
        assert!(matches!(error, Error::NoKernel(_)), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn an_elf_kernel_is_recognized_by_its_segments() {
    let head = elf(0x100_0000, 64, 56, 0x1000);
    assert_eq!(check(&head, head.len() as u64).unwrap(), Image::Elf { end: 0x100_1000 });
}

#[test]
fn elf_files_that_are_no_kernels() {
    let whole = elf(0x100_0000, 64, 56, 0x1000);
    let mut arm = whole.clone();
    arm[0x12] = 183;
    assert!(matches!(check(&arm, 120), Err(Error::NoKernel(_))));
    let mut small = whole.clone();
    small[4] = 1;
    assert!(matches!(check(&small, 120), Err(Error::NoKernel(_))));
    for cut in [8, 63, 64, 119] {
        let error = check(&whole[..cut], cut as u64).unwrap_err();
        assert!(matches!(error, Error::KernelTruncated { .. } | Error::NoKernel(_)), "{cut}: {error}");
    }
    let beyond = elf(0x100_0000, 64, 57, 0x1000);
    assert!(matches!(check(&beyond, 120), Err(Error::KernelTruncated { found: 120, promised: 121 })));
    let wraps = elf(0x100_0000, u64::MAX, 56, 0x1000);
    assert!(matches!(check(&wraps, 120), Err(Error::KernelTruncated { .. })));
    let low = elf(0x1000, 64, 56, 0x1000);
    assert!(matches!(check(&low, 120), Err(Error::KernelUnusable(_))));
    let shrinks = elf(0x100_0000, 64, 56, 55);
    assert!(matches!(check(&shrinks, 120), Err(Error::KernelUnusable(_))));
}
