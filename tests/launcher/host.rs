//! Hosts that cannot run a machine, made of namespaces and filters.

use std::process::Command;
use std::thread;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use system_tests::{Result, program};

use crate::refusal::{KVM, refused_by, says};

/// `vmm` in a mount namespace in which `prepare` was done before.
fn with_mounts(prepare: &str) -> Result<Command> {
    let vmm = program("vmm")?;
    let mut command = Command::new("unshare");
    let script = format!("{prepare} && exec \"$0\" --kernel=/etc/passwd");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]).arg(vmm);
    Ok(command)
}

#[test]
fn no_kvm_at_all() -> Result<()> {
    let bare = "mount -t tmpfs none /mnt && for one in null zero urandom; do
        touch /mnt/$one && mount --bind /dev/$one /mnt/$one || exit 1; done && mount --rbind /mnt /dev";
    says(&refused_by(KVM, with_mounts(bare)?)?, &["/dev/kvm"]);
    Ok(())
}

#[test]
fn a_kvm_that_is_none() -> Result<()> {
    says(&refused_by(KVM, with_mounts("mount --bind /dev/null /dev/kvm")?)?, &["/dev/kvm"]);
    Ok(())
}

/// `ioctl` of x86-64, and the request that asks KVM for a capability (linux/kvm.h).
const IOCTL: i64 = 16;
const KVM_CHECK_EXTENSION: u64 = 0xAE03;

/// A filter under which KVM answers "no" when asked for `capability`: the call returns 0 and is not made.
pub fn without(capability: u64) -> std::result::Result<BpfProgram, BackendError> {
    let is =
        |argument, value| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    let rule = SeccompRule::new(vec![is(1, KVM_CHECK_EXTENSION)?, is(2, capability)?])?;
    let (asked, other) = (SeccompAction::Errno(0), SeccompAction::Allow);
    let rules = [(IOCTL, vec![rule])].into_iter().collect();
    SeccompFilter::new(rules, other, asked, std::env::consts::ARCH.try_into()?)?.try_into()
}

/// The filter holds for a thread of this process and for what that thread starts.
#[test]
fn a_kvm_without_a_needed_capability() {
    for (capabilities, names) in [
        (&[32][..], "lacks KVM_CAP_IRQFD:"),
        (&[36], "lacks KVM_CAP_IOEVENTFD:"),
        (&[136, 32], "lacks KVM_CAP_IRQFD, KVM_CAP_IMMEDIATE_EXIT:"),
    ] {
        let refusal = thread::spawn(move || {
            for capability in capabilities {
                seccompiler::apply_filter(&without(*capability).unwrap()).unwrap();
            }
            let mut command = Command::new(program("vmm").unwrap());
            command.arg("--kernel=/etc/passwd");
            refused_by(KVM, command).unwrap()
        });
        says(&refusal.join().unwrap(), &[names]);
    }
}
