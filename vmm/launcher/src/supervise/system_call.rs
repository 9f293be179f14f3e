//! System calls in words.

use std::str::FromStr;

use protocol::Violation;
use syscalls::Sysno;

/// The name of system call `number` of x86-64, if it has one.
pub fn name(number: u32) -> Option<&'static str> {
    let number = usize::try_from(number).ok()?;
    Sysno::new(number).map(|call| call.name())
}

/// The number of the system call of that name.
pub fn number(name: &str) -> Option<u32> {
    Sysno::from_str(name).ok().and_then(|call| u32::try_from(call.id()).ok())
}

/// Every name.
pub fn names() -> impl Iterator<Item = &'static str> {
    Sysno::iter().map(|call| call.name())
}

/// The call with its arguments: all six registers, of which it may use fewer.
pub fn describe(refused: &Violation) -> String {
    let Violation { call, arguments } = refused;
    let arguments = arguments.map(|argument| format!("{argument:#x}")).join(", ");
    match name(*call) {
        Some(name) => format!("the system call {name}({call}) with arguments ({arguments})"),
        None => format!("system call number {call} with arguments ({arguments})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_its_name_its_number_and_all_arguments() {
        let socket = Violation { call: 41, arguments: [1, 5, 0, u64::MAX, 0, 7] };
        let words = "the system call socket(41) with arguments (0x1, 0x5, 0x0, 0xffffffffffffffff, 0x0, 0x7)";
        assert_eq!(describe(&socket), words);
        assert_eq!((number("ioctl"), number("clone3"), number("IOCTL")), (Some(16), Some(435), None));
        assert!(names().all(|one| number(one).and_then(name) == Some(one)));
        assert_eq!((name(0), name(59), name(425)), (Some("read"), Some("execve"), Some("io_uring_setup")));
    }

    #[test]
    fn a_number_that_is_none_is_said_as_it_is() {
        for call in [4095, 0x4000_0027, u32::MAX] {
            let words = describe(&Violation { call, arguments: [0; 6] });
            assert!(words.starts_with(&format!("system call number {call} with ")), "{words}");
        }
    }
}
