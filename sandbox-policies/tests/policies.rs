//! The policies as data: constants agree with the kernel's headers, nothing is allowed while serving that was
//! refused while setting up, and no rule hides another.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a policy that is not of its form fails the test"
)]

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

/// Each policy: its name and its content.
fn policies() -> Vec<(String, Value)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/policies/x86_64");
    let mut policies: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, serde_json::from_slice(&fs::read(path).unwrap()).unwrap())
        })
        .collect();
    policies.sort_by(|(a, _), (b, _)| a.cmp(b));
    policies
}

fn rules<'a>(policy: &'a Value, stage: &str) -> impl Iterator<Item = &'a Value> {
    policy[stage]["filter"].as_array().unwrap().iter()
}

fn every_rule(policies: &[(String, Value)]) -> Vec<(String, &Value)> {
    let mut all = Vec::new();
    for (program, policy) in policies {
        for stage in policy.as_object().unwrap().keys() {
            all.extend(rules(policy, stage).map(|rule| (format!("{program}.{stage}"), rule)));
        }
    }
    all
}

/// The number that a rule pins argument `index` to.
fn pinned(rule: &Value, index: u64) -> Option<u64> {
    let arguments = rule["args"].as_array()?;
    let condition = arguments.iter().find(|it| it["index"] == index && it["op"] == "eq")?;
    condition["val"].as_u64()
}

/// The constant that a rule's comment begins with: "NAME: why".
fn named(rule: &Value) -> &str {
    rule["comment"].as_str().unwrap().split_once(':').map_or("", |(name, _)| name)
}

/// `_IOC` of asm-generic/ioctl.h: 0 none, 1 to the kernel, 2 from it, 3 both.
fn ioc(direction: u64, kind: u64, number: u64, size: u64) -> u64 {
    direction << 30 | size << 16 | kind << 8 | number
}

/// Every ioctl in a policy, computed from its definition in the kernel's headers and the size of its
/// argument.
fn ioctl_code(name: &str) -> Option<u64> {
    let (kvm, block) = (0xae, 0x12);
    Some(match name {
        "KVM_GET_API_VERSION" => ioc(0, kvm, 0x00, 0),
        "KVM_CREATE_VM" => ioc(0, kvm, 0x01, 0),
        "KVM_GET_MSR_INDEX_LIST" => ioc(3, kvm, 0x02, 4),
        "KVM_CHECK_EXTENSION" => ioc(0, kvm, 0x03, 0),
        "KVM_GET_VCPU_MMAP_SIZE" => ioc(0, kvm, 0x04, 0),
        "KVM_GET_SUPPORTED_CPUID" => ioc(3, kvm, 0x05, 8),
        "KVM_GET_MSR_FEATURE_INDEX_LIST" => ioc(3, kvm, 0x0a, 4),
        "KVM_CREATE_VCPU" => ioc(0, kvm, 0x41, 0),
        "KVM_SET_USER_MEMORY_REGION" => ioc(1, kvm, 0x46, 32),
        "KVM_SET_TSS_ADDR" => ioc(0, kvm, 0x47, 0),
        "KVM_SET_IDENTITY_MAP_ADDR" => ioc(1, kvm, 0x48, 8),
        "KVM_CREATE_IRQCHIP" => ioc(0, kvm, 0x60, 0),
        "KVM_IRQ_LINE" => ioc(1, kvm, 0x61, 8),
        "KVM_SET_GSI_ROUTING" => ioc(1, kvm, 0x6a, 8),
        "KVM_IRQFD" => ioc(1, kvm, 0x76, 32),
        "KVM_CREATE_PIT2" => ioc(1, kvm, 0x77, 64),
        "KVM_IOEVENTFD" => ioc(1, kvm, 0x79, 64),
        "KVM_SET_CLOCK" => ioc(1, kvm, 0x7b, 48),
        "KVM_GET_CLOCK" => ioc(2, kvm, 0x7c, 48),
        "KVM_RUN" => ioc(0, kvm, 0x80, 0),
        "KVM_GET_REGS" => ioc(2, kvm, 0x81, 144),
        "KVM_SET_REGS" => ioc(1, kvm, 0x82, 144),
        "KVM_GET_SREGS" => ioc(2, kvm, 0x83, 312),
        "KVM_SET_SREGS" => ioc(1, kvm, 0x84, 312),
        "KVM_INTERRUPT" => ioc(1, kvm, 0x86, 4),
        "KVM_GET_MSRS" => ioc(3, kvm, 0x88, 8),
        "KVM_SET_MSRS" => ioc(1, kvm, 0x89, 8),
        "KVM_SET_SIGNAL_MASK" => ioc(1, kvm, 0x8b, 4),
        "KVM_GET_FPU" => ioc(2, kvm, 0x8c, 416),
        "KVM_SET_FPU" => ioc(1, kvm, 0x8d, 416),
        "KVM_GET_LAPIC" => ioc(2, kvm, 0x8e, 1024),
        "KVM_SET_LAPIC" => ioc(1, kvm, 0x8f, 1024),
        "KVM_SET_CPUID2" => ioc(1, kvm, 0x90, 8),
        "KVM_GET_CPUID2" => ioc(3, kvm, 0x91, 8),
        "KVM_GET_MP_STATE" => ioc(2, kvm, 0x98, 4),
        "KVM_SET_MP_STATE" => ioc(1, kvm, 0x99, 4),
        "KVM_GET_VCPU_EVENTS" => ioc(2, kvm, 0x9f, 64),
        "KVM_ENABLE_CAP" => ioc(1, kvm, 0xa3, 104),
        "KVM_SIGNAL_MSI" => ioc(1, kvm, 0xa5, 32),
        "KVM_GET_TSC_KHZ" => ioc(0, kvm, 0xa3, 0),
        "KVM_SET_TSC_KHZ" => ioc(0, kvm, 0xa2, 0),
        "KVM_GET_XCRS" => ioc(2, kvm, 0xa6, 392),
        "KVM_SET_XCRS" => ioc(1, kvm, 0xa7, 392),
        "KVM_KVMCLOCK_CTRL" => ioc(0, kvm, 0xad, 0),
        "BLKSSZGET" => ioc(0, block, 104, 0),
        "BLKGETSIZE64" => ioc(2, block, 114, 8),
        "BLKDISCARD" => ioc(0, block, 119, 0),
        "BLKIOMIN" => ioc(0, block, 120, 0),
        "BLKIOOPT" => ioc(0, block, 121, 0),
        "BLKALIGNOFF" => ioc(0, block, 122, 0),
        "BLKPBSZGET" => ioc(0, block, 123, 0),
        "BLKZEROOUT" => ioc(0, block, 127, 0),
        _ => return terminal_code(name),
    })
}

/// Those of asm-generic/ioctls.h, most of which are older than the scheme.
fn terminal_code(name: &str) -> Option<u64> {
    Some(match name {
        "TIOCGWINSZ" => libc::TIOCGWINSZ,
        "TCGETS" => libc::TCGETS,
        "TCSETS" => libc::TCSETS,
        "TCSETSW" => libc::TCSETSW,
        "TCSETSF" => libc::TCSETSF,
        "FIONBIO" => libc::FIONBIO,
        "FIONREAD" => libc::FIONREAD,
        // With a `struct termios2`, of 44 bytes.
        "TCGETS2" => ioc(2, u64::from(b'T'), 0x2a, 44),
        "TCSETS2" => ioc(1, u64::from(b'T'), 0x2b, 44),
        "TCSETSW2" => ioc(1, u64::from(b'T'), 0x2c, 44),
        "TCSETSF2" => ioc(1, u64::from(b'T'), 0x2d, 44),
        _ => return tap_code(name),
    })
}

/// Those of linux/if_tun.h.
fn tap_code(name: &str) -> Option<u64> {
    Some(match name {
        "TUNSETOFFLOAD" => ioc(1, u64::from(b'T'), 208, 4),
        "TUNSETQUEUE" => ioc(1, u64::from(b'T'), 217, 4),
        "TUNGETVNETHDRSZ" => ioc(2, u64::from(b'T'), 215, 4),
        _ => return None,
    })
}

fn fcntl_command(name: &str) -> Option<i32> {
    Some(match name {
        "F_GETFD" => libc::F_GETFD,
        "F_SETFD" => libc::F_SETFD,
        "F_GETFL" => libc::F_GETFL,
        "F_SETFL" => libc::F_SETFL,
        "F_OFD_SETLK" => libc::F_OFD_SETLK,
        "F_DUPFD_CLOEXEC" => libc::F_DUPFD_CLOEXEC,
        "F_ADD_SEALS" => libc::F_ADD_SEALS,
        "F_GET_SEALS" => libc::F_GET_SEALS,
        _ => return None,
    })
}

fn socket_option(name: &str) -> Option<i32> {
    Some(match name {
        "SO_RCVTIMEO" => libc::SO_RCVTIMEO,
        "SO_SNDTIMEO" => libc::SO_SNDTIMEO,
        // Linux 6.16, asm-generic/socket.h.
        "SO_PASSRIGHTS" => 83,
        _ => return None,
    })
}

fn prctl_option(name: &str) -> Option<i32> {
    Some(match name {
        "PR_SET_NAME" => libc::PR_SET_NAME,
        "PR_SET_NO_NEW_PRIVS" => libc::PR_SET_NO_NEW_PRIVS,
        "PR_SET_VMA" => libc::PR_SET_VMA,
        "PR_SET_PDEATHSIG" => libc::PR_SET_PDEATHSIG,
        "PR_GET_PDEATHSIG" => libc::PR_GET_PDEATHSIG,
        "PR_SET_DUMPABLE" => libc::PR_SET_DUMPABLE,
        "PR_CAPBSET_READ" => libc::PR_CAPBSET_READ,
        "PR_CAPBSET_DROP" => libc::PR_CAPBSET_DROP,
        "PR_SET_SECUREBITS" => libc::PR_SET_SECUREBITS,
        "PR_GET_NO_NEW_PRIVS" => libc::PR_GET_NO_NEW_PRIVS,
        "PR_CAP_AMBIENT" => libc::PR_CAP_AMBIENT,
        // Linux 6.3, linux/prctl.h.
        "PR_SET_MDWE" => 65,
        _ => return None,
    })
}

#[test]
fn every_pinned_code_is_what_its_comment_names() {
    let policies = policies();
    let mut seen = 0;
    for (place, rule) in every_rule(&policies) {
        let (name, number) = (named(rule), |index| pinned(rule, index));
        let (found, wanted) = match rule["syscall"].as_str().unwrap() {
            "ioctl" => (number(1), ioctl_code(name)),
            "fcntl" => (number(1), fcntl_command(name).map(|it| u64::from(it.unsigned_abs()))),
            "prctl" => (number(0), prctl_option(name).map(|it| u64::from(it.unsigned_abs()))),
            "setsockopt" => (number(2), socket_option(name).map(|it| u64::from(it.unsigned_abs()))),
            _ => continue,
        };
        seen += 1;
        assert!(wanted.is_some(), "{place}: {name}: teach this test its definition");
        assert_eq!(found, wanted, "{place}: {name}");
    }
    assert!(seen > 30, "only {seen} rules looked at");
}

#[test]
fn memory_is_never_executable_and_never_punched() {
    let policies = policies();
    for (place, rule) in every_rule(&policies) {
        let arguments = rule["args"].as_array().map_or(&[][..], Vec::as_slice);
        match rule["syscall"].as_str().unwrap() {
            "mmap" | "mprotect" => {
                let mask = u64::from(libc::PROT_EXEC.unsigned_abs());
                let refuses =
                    |it: &Value| it["index"] == 2 && it["op"]["masked_eq"] == mask && it["val"] == 0;
                assert!(arguments.iter().any(refuses), "{place}: {rule}");
            }
            "madvise" => {
                let harmless = [libc::MADV_DONTNEED, libc::MADV_DONTDUMP, libc::MADV_HUGEPAGE];
                let advice = pinned(rule, 2).and_then(|it| i32::try_from(it).ok()).unwrap();
                assert!(harmless.contains(&advice), "{place}: {rule}");
            }
            // It is what a spawner is for; by descriptor alone, which it was given.
            "execveat" if place == "vmm.spawner" => assert_eq!(pinned(rule, 4), Some(4096), "{rule}"),
            "pkey_mprotect" | "remap_file_pages" | "process_madvise" | "execve" | "execveat" | "fork"
            | "vfork" => {
                panic!("{place}: {rule}");
            }
            _ => {}
        }
    }
}

#[test]
fn serving_asks_for_nothing_that_setting_up_refused() {
    for (program, policy) in policies() {
        if policy.get("setup").is_none() {
            continue;
        }
        // A rule is known by its call and its conditions, whatever its comment says.
        let known = |rule: &Value| (rule["syscall"].to_string(), conditions(rule));
        let setup: BTreeSet<_> = rules(&policy, "setup").map(known).collect();
        for stage in policy
            .as_object()
            .unwrap()
            .keys()
            .filter(|stage| !["setup", "stand_alone"].contains(&stage.as_str()))
        {
            for rule in rules(&policy, stage) {
                let (syscall, conditions) = known(rule);
                let free = (syscall.clone(), BTreeSet::new());
                let allowed = setup.contains(&(syscall, conditions)) || setup.contains(&free);
                assert!(allowed, "{program}.{stage}: filters stack, and setup refuses {rule}");
            }
        }
    }
}

#[test]
fn an_unconditional_rule_stands_alone() {
    // seccompiler drops it in silence when another rule of the same call has conditions.
    for (program, policy) in policies() {
        for stage in policy.as_object().unwrap().keys() {
            let of = |free: bool| -> BTreeSet<_> {
                let chosen = rules(&policy, stage).filter(|rule| conditions(rule).is_empty() == free);
                chosen.map(|rule| rule["syscall"].to_string()).collect()
            };
            let both: Vec<_> = of(true).intersection(&of(false)).cloned().collect();
            assert!(both.is_empty(), "{program}.{stage}: {both:?}");
        }
    }
}

fn conditions(rule: &Value) -> BTreeSet<String> {
    let arguments = rule["args"].as_array().map_or(&[][..], Vec::as_slice);
    arguments.iter().map(|it| format!("{} {} {} {}", it["index"], it["type"], it["op"], it["val"])).collect()
}

#[test]
fn a_successor_can_do_under_the_spawners_filter_what_it_can_do_without() {
    let policies = policies();
    let policy = |name: &str| &policies.iter().find(|(program, _)| program == name).unwrap().1;
    let known = |rule: &Value| (rule["syscall"].to_string(), conditions(rule));
    let inherited: BTreeSet<_> = rules(policy("vmm"), "spawner").map(known).collect();
    let devices = policies.iter().filter(|(program, _)| program.starts_with("device-"));
    for ((program, policy), stage) in devices.flat_map(|device| [(device, "setup"), (device, "serve")]) {
        for rule in rules(policy, stage) {
            let (syscall, conditions) = known(rule);
            let free = (syscall.clone(), BTreeSet::new());
            let allowed = inherited.contains(&(syscall, conditions)) || inherited.contains(&free);
            assert!(allowed, "filters stack, and vmm.spawner refuses {rule} of {program}.{stage}");
        }
    }
}

/// What the handler of a refused call does (refusal.rs) is allowed to each thread that has it, and what it dies of to none.
#[test]
fn whoever_is_to_tell_of_a_refusal_can_and_dies_of_it() {
    let policies = policies();
    let flags = u64::from((libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).unsigned_abs());
    let mut telling = 0;
    for (program, policy) in &policies {
        for (stage, filter) in policy.as_object().unwrap() {
            let place = format!("{program}.{stage}");
            assert!(rules(policy, stage).all(|rule| rule["syscall"] != "getppid"), "{place}");
            if filter["mismatch_action"] != "trap" {
                continue;
            }
            telling += 1;
            let mut sends = rules(policy, stage).filter(|rule| rule["syscall"] == "sendmsg");
            let fits = |rule: &Value| {
                conditions(rule).is_empty() || (pinned(rule, 0), pinned(rule, 2)) == (Some(3), Some(flags))
            };
            assert!(sends.any(fits), "{place} cannot say what it refused");
        }
    }
    // Of each device two stages, of the core three.
    assert_eq!(telling, 2 * (policies.len() - 2) + 3);
}

/// Memory that processes share is the guest's and the devices': who waits on a futex there waits for whoever was taken over.
/// The lists let nobody do so, by this call or a newer one.
#[test]
fn nobody_waits_for_a_futex_in_memory_that_is_shared() {
    let policies = policies();
    let private = u64::from(libc::FUTEX_PRIVATE_FLAG.unsigned_abs());
    let mut seen = 0;
    for (place, rule) in every_rule(&policies) {
        let call = rule["syscall"].as_str().unwrap();
        assert!(!["futex_waitv", "futex_wait", "futex_requeue"].contains(&call), "{place}: {rule}");
        if call == "futex" {
            seen += 1;
            let arguments = rule["args"].as_array().map_or(&[][..], Vec::as_slice);
            let keeps =
                |it: &Value| it["index"] == 1 && it["op"]["masked_eq"] == private && it["val"] == private;
            assert!(arguments.iter().any(keeps), "{place}: {rule}");
        }
    }
    assert!(seen >= 2 * policies.len(), "only {seen} rules looked at");
}
