//! The uncompressed kernel inside a bzImage, found through the setup header
//! (Documentation/arch/x86/boot.rst: `setup_sects`, `payload_offset`, `payload_length`).
//!
//! The decompression itself is left to the host's program for the format found.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::failure::{Failure, Outcome, Tried};

/// Which program undoes which format: its magic bytes, the program, its arguments.
const FORMATS: [(&[u8], &str, &[&str]); 6] = [
    (&[0xFD, b'7', b'z', b'X', b'Z', 0], "xz", &["-dc", "--single-stream"]),
    (&[0x28, 0xB5, 0x2F, 0xFD], "zstd", &["-dcq"]),
    (&[0x1F, 0x8B], "gzip", &["-dcq"]),
    (&[0x02, 0x21, 0x4C, 0x18], "lz4", &["-dcq"]),
    (b"BZh", "bzip2", &["-dcq"]),
    (&[0x5D, 0, 0], "xz", &["-dc", "--format=lzma"]),
];

/// The compressed kernel's bytes within `image`, without the size that the kernel's build appends.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let number = |at: usize| -> Option<usize> {
        let bytes = image.get(at..at.checked_add(4)?)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    // Zero stands for four, from the days before the field existed.
    let sectors = usize::from(*image.get(0x1F1)?);
    let setup = if sectors == 0 { 4 } else { sectors }.checked_add(1)?.checked_mul(512)?;
    let start = setup.checked_add(number(0x248)?)?;
    image.get(start..start.checked_add(number(0x24C)?)?)
}

/// Decompresses the kernel within `image`.
pub fn extract_vmlinux(image: &Path) -> Outcome<Vec<u8>> {
    let bytes = std::fs::read(image).tried(|| format!("cannot read {}", image.display()))?;
    let payload = payload(&bytes)
        .ok_or_else(|| Failure::new(format!("{} is no bzImage with a payload", image.display())))?;
    if payload.starts_with(b"\x7FELF") {
        return Ok(payload.to_vec());
    }
    let (_, program, arguments) = FORMATS
        .iter()
        .find(|(magic, ..)| payload.starts_with(magic))
        .ok_or_else(|| Failure::new("the kernel is compressed in a format that this tool does not know"))?;
    // Every format but gzip, which has its own, is followed by the uncompressed size in four bytes,
    // which the decompressors take for garbage.
    let (stream, size) = match payload.split_last_chunk::<4>() {
        Some((stream, size)) if *program != "gzip" => (stream, Some(u32::from_le_bytes(*size))),
        _ => (payload, None),
    };
    let vmlinux = pipe_through(program, arguments, stream)?;
    let whole = size.is_none_or(|size| u32::try_from(vmlinux.len()) == Ok(size));
    if !whole || !vmlinux.starts_with(b"\x7FELF") {
        return Err(Failure::new(format!("{program} made no whole ELF file of {}", image.display())));
    }
    Ok(vmlinux)
}

fn pipe_through(program: &str, arguments: &[&str], input: &[u8]) -> Outcome<Vec<u8>> {
    crate::host::need_programs(&[(program, if program == "xz" { "xz-utils" } else { program })])?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .tried(|| format!("cannot run {program}"))?;
    let mut stdin = child.stdin.take().ok_or_else(|| Failure::new("no pipe to the decompressor"))?;
    std::thread::scope(|scope| {
        // A decompressor that gives up closes its end; its output and status tell.
        scope.spawn(move || drop(stdin.write_all(input)));
        let output = child.wait_with_output().tried(|| format!("cannot wait for {program}"))?;
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(Failure::new(format!("{program} failed ({}) on the kernel's payload", output.status)))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::payload;

    fn image(offset: u32, length: u32) -> Vec<u8> {
        let mut image = vec![0_u8; 4096];
        image[0x1F1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24C].copy_from_slice(&offset.to_le_bytes());
        image[0x24C..0x250].copy_from_slice(&length.to_le_bytes());
        image[1024 + 16..1024 + 20].copy_from_slice(b"core");
        image
    }

    #[test]
    fn the_payload_begins_after_the_setup_sectors() {
        assert_eq!(payload(&image(16, 4)), Some(&b"core"[..]));
    }

    #[test]
    fn a_payload_beyond_the_file_is_none() {
        assert_eq!(payload(&image(16, 4096)), None);
        assert_eq!(payload(&image(u32::MAX, u32::MAX)), None);
        assert_eq!(payload(b"MZ"), None);
    }
}
