//! The exit codes of `vmm`, in one table: scripts rely on them, so a number never changes its meaning.

/// How `vmm` ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The guest powered off.
    PoweredOff,
    /// A bug of ours, or a host that fails where no host should.
    Internal,
    /// Arguments or configuration cannot be used.
    Usage,
    /// A file, device node or socket, or the memory asked for, could not be had.
    Resource,
    /// The kernel or the initrd is not usable.
    Kernel,
    /// KVM is missing, not permitted or lacks a capability.
    Kvm,
    /// A layer of the sandbox is missing and was required.
    Sandbox,
    /// A device program or a vhost-user back end failed.
    Device,
    /// The core died.
    Core,
    /// The guest asked for a reset.
    Reset,
    /// The guest crashed: triple fault or an error inside KVM.
    GuestCrash,
    /// With `--sandbox-log`: the machine ended well, and something would have been refused.
    Refusals,
    /// Ended by this signal, as it came twice or the guest ignored its power button.
    Signal(u8),
}

const TABLE: [(Code, &str); 12] = [
    (Code::PoweredOff, "the guest powered off"),
    (Code::Internal, "internal error"),
    (Code::Usage, "arguments or configuration cannot be used"),
    (Code::Resource, "a file, device node or socket, the guest's memory, or a process, could not be had"),
    (Code::Kernel, "the kernel or initrd is unusable"),
    (Code::Kvm, "KVM is missing, not permitted or lacks a capability"),
    (Code::Sandbox, "a required layer of the sandbox is missing"),
    (Code::Device, "a device or back end failed"),
    (Code::Core, "the core died"),
    (Code::Reset, "the guest asked for a reset (reboot)"),
    (Code::GuestCrash, "the guest crashed (triple fault, KVM internal error)"),
    (Code::Refusals, "the guest powered off, and --sandbox-log has listed what a policy refuses"),
];

impl Code {
    /// What a process of ours meant that ended with this number.
    pub fn of(number: u8) -> Code {
        let listed = TABLE.iter().map(|(code, _)| *code).find(|code| code.number() == number);
        listed.or_else(|| number.checked_sub(128).map(Code::Signal)).unwrap_or(Code::Internal)
    }

    /// The number that the shell sees.
    pub fn number(self) -> u8 {
        match self {
            Code::PoweredOff => 0,
            Code::Internal => 1,
            Code::Usage => 2,
            Code::Resource => 3,
            Code::Kernel => 4,
            Code::Kvm => 5,
            Code::Sandbox => 6,
            Code::Device => 7,
            Code::Core => 8,
            Code::Reset => 9,
            Code::GuestCrash => 10,
            Code::Refusals => 11,
            Code::Signal(number) => number.saturating_add(128),
        }
    }
}

/// The table as `--help` prints it.
pub fn table() -> String {
    let mut text = String::new();
    for (code, meaning) in TABLE {
        text.push_str(&format!("  {:>5}  {meaning}\n", code.number()));
    }
    text.push_str("  128+N  ended by signal N: it came twice, or the guest ignored its power button");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lists_each_number_once_and_in_order() {
        let numbers: Vec<u8> = TABLE.iter().map(|(code, _)| code.number()).collect();
        assert_eq!(numbers, (0..=11).collect::<Vec<u8>>());
    }

    #[test]
    fn signals_are_counted_from_128() {
        assert_eq!(Code::Signal(15).number(), 143);
    }

    #[test]
    fn a_number_is_the_code_that_has_it() {
        for number in (0..=11).chain(128..=192) {
            assert_eq!(Code::of(number).number(), number);
        }
        assert_eq!(Code::of(99), Code::Internal);
    }
}
