//! The kernel's command line: a string that ends in a zero byte.

use super::layout;
use crate::{Error, GuestMemory, guest_memory};

/// Writes it where both boot protocols are told to find it. `most` is what the kernel takes, without the
/// terminating zero.
///
/// # Errors
/// Longer than that, or with a zero byte in it, which would silently cut it.
pub fn write(memory: &GuestMemory, line: &str, most: usize) -> Result<(), Error> {
    if line.len() > most {
        return Err(Error::CommandLineTooLong { length: line.len(), most });
    }
    if let Some(at) = line.bytes().position(|byte| byte == 0) {
        return Err(Error::CommandLineZero { at });
    }
    let mut bytes = line.as_bytes().to_vec();
    bytes.push(0);
    guest_memory::write_bytes(memory, "command line", layout::COMMAND_LINE, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest_memory::tests::guest;
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn it_ends_in_a_zero() {
        let memory = guest(1 << 20);
        memory.write_slice(&[0xAA; 64], GuestAddress(layout::COMMAND_LINE)).unwrap();
        write(&memory, "console=ttyS0", 2047).unwrap();
        let mut seen = [0; 15];
        memory.read_slice(&mut seen, GuestAddress(layout::COMMAND_LINE)).unwrap();
        assert_eq!(&seen, b"console=ttyS0\0\xAA");
    }

    #[test]
    fn what_the_kernel_would_cut_is_refused() {
        let memory = guest(1 << 20);
        assert!(write(&memory, &"x".repeat(255), 255).is_ok());
        let error = write(&memory, &"x".repeat(256), 255).unwrap_err().to_string();
        assert!(error.contains("256") && error.contains("255"), "{error}");
        assert!(matches!(write(&memory, "a\0b", 255), Err(Error::CommandLineZero { at: 1 })));
    }
}
