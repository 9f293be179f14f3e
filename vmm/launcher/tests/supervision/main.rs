//! The launcher above a core that does whatever it likes: each end has its code and its words, and leaves nothing.
//!
//! This program is tests and stand-ins in one: it is put beside a copy of `vmm` under the names of `vmm-core`,
//! `device-blk` and others, and under those it does what the kernel's command line or the disk's serial says. Therefore it has its
//! own `main`. Needs user namespaces and a node of KVM, but no KVM that runs anything, and no guest.

#![expect(clippy::expect_used, reason = "tests say what they expect by failing")]

mod asked;
mod back_ends;
mod control;
mod devices;
mod machine;
mod reports;
mod stand_in;
mod terminal;
mod user_network;

use std::process::ExitCode;

use machine::Machine;
use nix::sys::signal::Signal;

/// Every test, by name.
const TESTS: [(&str, fn()); 61] = [
    ("the_guests_own_ends_have_their_codes", the_guests_own_ends_have_their_codes),
    ("a_core_is_given_what_the_hand_over_lists", a_core_is_given_what_the_hand_over_lists),
    ("a_core_that_fails_is_heard_in_one_line", a_core_that_fails_is_heard_in_one_line),
    ("a_core_that_dies_is_told_from_one_that_gives_up", a_core_that_dies_is_told_from_one_that_gives_up),
    ("a_core_that_breaks_the_rules_is_killed", a_core_that_breaks_the_rules_is_killed),
    ("a_flood_of_log_is_bounded", a_flood_of_log_is_bounded),
    (
        "the_power_button_is_pressed_first_and_the_guest_is_killed_then",
        the_power_button_is_pressed_first_and_the_guest_is_killed_then,
    ),
    ("a_second_signal_or_a_quit_kills_at_once", a_second_signal_or_a_quit_kills_at_once),
    ("a_core_killed_from_outside_is_reaped_and_named", a_core_killed_from_outside_is_reaped_and_named),
    (
        "a_launcher_that_is_killed_takes_its_children_along",
        a_launcher_that_is_killed_takes_its_children_along,
    ),
    ("counters_are_one_line_of_json", counters_are_one_line_of_json),
    (
        "each_machine_ends_with_nothing_left_open_in_the_folder",
        each_machine_ends_with_nothing_left_open_in_the_folder,
    ),
    ("the_report_says_that_there_are_no_control_groups", the_report_says_that_there_are_no_control_groups),
    ("a_directory_that_is_no_control_group_is_refused", a_directory_that_is_no_control_group_is_refused),
    (
        "a_device_gets_its_disk_and_the_core_its_socket",
        devices::a_device_gets_its_disk_and_the_core_its_socket,
    ),
    ("each_process_has_its_place_in_the_report", devices::each_process_has_its_place_in_the_report),
    (
        "a_device_that_dies_at_any_point_ends_the_machine_by_name",
        devices::a_device_that_dies_at_any_point_ends_the_machine_by_name,
    ),
    ("a_device_is_heard_when_it_fails", devices::a_device_is_heard_when_it_fails),
    (
        "a_device_can_say_nothing_but_what_is_in_its_table",
        devices::a_device_can_say_nothing_but_what_is_in_its_table,
    ),
    (
        "a_device_that_does_not_answer_is_ended_as_one_that_hangs_and_no_other",
        devices::a_device_that_does_not_answer_is_ended_as_one_that_hangs_and_no_other,
    ),
    (
        "who_says_that_its_policy_refused_a_call_is_ended_and_the_call_is_told",
        devices::who_says_that_its_policy_refused_a_call_is_ended_and_the_call_is_told,
    ),
    (
        "each_process_of_a_device_has_what_the_one_before_kept",
        devices::each_process_of_a_device_has_what_the_one_before_kept,
    ),
    (
        "what_a_later_process_lacks_and_the_one_before_did_not_is_told_once",
        devices::what_a_later_process_lacks_and_the_one_before_did_not_is_told_once,
    ),
    (
        "a_device_that_does_not_stop_is_killed_and_the_end_is_the_guests",
        devices::a_device_that_does_not_stop_is_killed_and_the_end_is_the_guests,
    ),
    (
        "a_device_that_is_killed_is_followed_by_another_with_its_disk",
        devices::a_device_that_is_killed_is_followed_by_another_with_its_disk,
    ),
    (
        "a_device_that_dies_over_and_over_ends_the_machine",
        devices::a_device_that_dies_over_and_over_ends_the_machine,
    ),
    (
        "a_successor_that_the_core_refuses_is_ended_and_followed",
        devices::a_successor_that_the_core_refuses_is_ended_and_followed,
    ),
    ("a_device_ends_as_the_user_said", devices::a_device_ends_as_the_user_said),
    (
        "a_machine_outlives_its_spawner_but_not_its_device_then",
        devices::a_machine_outlives_its_spawner_but_not_its_device_then,
    ),
    ("a_core_cannot_claim_a_successor", devices::a_core_cannot_claim_a_successor),
    ("each_event_is_an_object_in_the_file_of_events", reports::each_event_is_an_object_in_the_file_of_events),
    ("a_hang_is_told_from_a_kill", reports::a_hang_is_told_from_a_kill),
    ("a_pipe_gets_events_while_somebody_reads_it", reports::a_pipe_gets_events_while_somebody_reads_it),
    ("deaths_and_pauses_are_among_the_counters", reports::deaths_and_pauses_are_among_the_counters),
    (
        "a_back_end_that_goes_is_connected_to_when_it_comes_back",
        back_ends::a_back_end_that_goes_is_connected_to_when_it_comes_back,
    ),
    (
        "a_back_end_that_the_core_refuses_is_tried_again",
        back_ends::a_back_end_that_the_core_refuses_is_tried_again,
    ),
    (
        "patience_with_a_back_end_ends_as_the_user_said",
        back_ends::patience_with_a_back_end_ends_as_the_user_said,
    ),
    (
        "a_devices_program_is_replaced_while_the_machine_runs",
        control::a_devices_program_is_replaced_while_the_machine_runs,
    ),
    ("another_program_serves_from_then_on", control::another_program_serves_from_then_on),
    (
        "a_replacement_that_the_core_refuses_changes_nothing",
        control::a_replacement_that_the_core_refuses_changes_nothing,
    ),
    (
        "a_device_that_fails_while_it_is_being_replaced_costs_the_machine_nothing_else",
        control::a_device_that_fails_while_it_is_being_replaced_costs_the_machine_nothing_else,
    ),
    (
        "a_program_that_is_asked_for_while_a_spare_is_on_its_way_is_not_taken_for_it",
        control::a_program_that_is_asked_for_while_a_spare_is_on_its_way_is_not_taken_for_it,
    ),
    (
        "what_cannot_be_asked_is_refused_with_its_reason",
        control::what_cannot_be_asked_is_refused_with_its_reason,
    ),
    ("a_disk_is_resized_by_who_knows_how", control::a_disk_is_resized_by_who_knows_how),
    ("the_control_socket_goes_with_the_machine", control::the_control_socket_goes_with_the_machine),
    (
        "the_control_socket_of_a_dead_launcher_is_replaced_and_that_of_a_live_one_not",
        control::the_control_socket_of_a_dead_launcher_is_replaced_and_that_of_a_live_one_not,
    ),
    (
        "a_process_that_is_less_confined_than_promised_is_found",
        control::a_process_that_is_less_confined_than_promised_is_found,
    ),
    ("clients_are_few_and_speak_the_protocol", control::clients_are_few_and_speak_the_protocol),
    ("a_spare_takes_over_and_is_followed_by_another", control::a_spare_takes_over_and_is_followed_by_another),
    ("another_user_is_not_served", control::another_user_is_not_served),
    (
        "a_setting_that_cannot_be_made_is_refused_with_its_reason",
        asked::a_setting_that_cannot_be_made_is_refused_with_its_reason,
    ),
    (
        "how_much_memory_is_to_be_plugged_in_is_set_or_refused_with_its_reason",
        asked::how_much_memory_is_to_be_plugged_in_is_set_or_refused_with_its_reason,
    ),
    (
        "nothing_is_set_of_a_device_that_is_being_replaced",
        asked::nothing_is_set_of_a_device_that_is_being_replaced,
    ),
    (
        "what_a_guests_driver_says_is_shown_and_why_it_says_nothing",
        asked::what_a_guests_driver_says_is_shown_and_why_it_says_nothing,
    ),
    ("the_disk_is_free_after_any_end", devices::the_disk_is_free_after_any_end),
    (
        "a_users_network_has_its_stream_and_outlives_its_devices",
        user_network::a_users_network_has_its_stream_and_outlives_its_devices,
    ),
    (
        "a_users_network_that_ends_at_once_ends_the_machine_before_its_guest_runs",
        user_network::a_users_network_that_ends_at_once_ends_the_machine_before_its_guest_runs,
    ),
    ("a_users_network_ends_with_the_machine", user_network::a_users_network_ends_with_the_machine),
    ("it_is_raw_while_the_guest_runs", terminal::it_is_raw_while_the_guest_runs),
    ("it_is_restored_after_every_end", terminal::it_is_restored_after_every_end),
    ("it_is_restored_when_the_start_fails", terminal::it_is_restored_when_the_start_fails),
];

fn main() -> ExitCode {
    if let Some(ended) = stand_in::run() {
        return ended;
    }
    let _programs = machine::install();
    let tests: Vec<_> = TESTS.iter().map(|(name, test)| (name, std::thread::spawn(test))).collect();
    let mut failed = 0_usize;
    for (name, test) in tests {
        // What went wrong has been said by the panic.
        if test.join().is_err() {
            println!("FAILED {name}");
            failed = failed.saturating_add(1);
        }
    }
    println!("supervision: {} passed, {failed} failed", TESTS.len().saturating_sub(failed));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

const KERNEL: i32 = 4;
const SANDBOX: i32 = 6;
const CORE: i32 = 8;

fn the_guests_own_ends_have_their_codes() {
    for (act, code) in [("power-off", 0), ("reset", 9), ("crash", 10)] {
        let ended = Machine::start(act).end();
        assert_eq!(ended.code, Some(code), "{act}: {}", ended.log);
        assert!(ended.log.contains("vmm: confined: vmm-core (pid "), "{act}: {}", ended.log);
    }
    assert!(Machine::start("crash").end().log.contains("vmm: the guest crashed: triple fault\n"));
}

fn the_report_says_that_there_are_no_control_groups() {
    let ended = Machine::start("power-off").end();
    let report = ended.log.lines().find(|line| line.starts_with("vmm: confined: ")).unwrap_or_default();
    assert!(report.ends_with("), no cgroup (not delegated)"), "{}", ended.log);
}

fn a_directory_that_is_no_control_group_is_refused() {
    let ended = Machine::with("run", &["--cgroup=/proc"]).end();
    let said = "vmm: cannot make control groups in /proc: is no cgroup v2\n";
    assert_eq!((ended.code, ended.log.as_str()), (Some(SANDBOX), said));
}

fn a_core_is_given_what_the_hand_over_lists() {
    // KVM, one region of memory, the kernel.
    let ended = Machine::start("power-off").end();
    assert!(ended.log.contains("vmm-core: given 3 descriptors and 0 sockets\n"), "{}", ended.log);
}

fn a_core_that_fails_is_heard_in_one_line() {
    let ended = Machine::start("fail").end();
    assert_eq!(ended.code, Some(KERNEL), "{}", ended.log);
    assert_eq!(ended.log.lines().count(), 1, "{}", ended.log);
    assert!(ended.log.starts_with("vmm: cannot load the kernel: a stand-in"), "{}", ended.log);
    assert!(!ended.log.contains('\x1b'), "{}", ended.log);
}

fn a_core_that_dies_is_told_from_one_that_gives_up() {
    let gave_up = Machine::start("exit-at-once").end();
    assert_eq!(gave_up.code, Some(SANDBOX), "{}", gave_up.log);
    for act in ["abort-at-once", "die"] {
        let died = Machine::start(act).end();
        assert_eq!(died.code, Some(CORE), "{act}: {}", died.log);
        assert!(died.log.contains("vmm: the core died: killed by SIG"), "{act}: {}", died.log);
    }
}

fn a_core_that_breaks_the_rules_is_killed() {
    for act in ["counters-unasked", "ready-twice"] {
        let ended = Machine::start(act).end();
        assert_eq!(ended.code, Some(CORE), "{act}: {}", ended.log);
        assert!(ended.log.contains("vmm-core broke the rules"), "{act}: {}", ended.log);
    }
    let ended = Machine::start("hang-up").end();
    assert_eq!(ended.code, Some(CORE), "{}", ended.log);
}

fn a_flood_of_log_is_bounded() {
    let ended = Machine::start("flood").end();
    assert_eq!(ended.code, Some(0));
    assert!(ended.log.contains(" lines dropped)"), "nothing dropped of {} bytes", ended.log.len());
    assert!(ended.log.lines().all(|line| line.len() < 600), "a line is too long");
    assert!(!ended.log.contains('\x1b'));
    // A hundred lines at once and twenty a second: far below the hundred thousand written.
    assert!(ended.log.lines().count() < 50_000, "{} lines", ended.log.lines().count());
}

fn the_power_button_is_pressed_first_and_the_guest_is_killed_then() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut machine = Machine::start("obey");
        machine.wait_until_confined();
        machine.send(signal);
        let ended = machine.end();
        assert_eq!(ended.code, Some(0), "{signal}: {}", ended.log);

        let mut machine = Machine::with("ignore", &["--shutdown-timeout=0"]);
        machine.wait_until_confined();
        machine.send(signal);
        let ended = machine.end();
        assert_eq!(ended.code, Some((signal as i32).saturating_add(128)), "{signal}: {}", ended.log);
        assert!(ended.log.contains("did not power off within 0 s"), "{}", ended.log);
    }
}

fn a_second_signal_or_a_quit_kills_at_once() {
    let mut machine = Machine::with("ignore", &["--shutdown-timeout=100000"]);
    machine.wait_until_confined();
    machine.send(Signal::SIGTERM);
    machine.send(Signal::SIGINT);
    // The lower number is delivered first when both are pending.
    let ended = machine.end();
    assert!([Some(128 + 15), Some(128 + 2)].contains(&ended.code), "{:?}: {}", ended.code, ended.log);

    let mut machine = Machine::with("ignore", &["--shutdown-timeout=100000"]);
    machine.wait_until_confined();
    machine.send(Signal::SIGQUIT);
    assert_eq!(machine.end().code, Some(128 + 3));
}

fn a_core_killed_from_outside_is_reaped_and_named() {
    let mut machine = Machine::start("ignore");
    machine.wait_until_confined();
    machine.kill_children();
    let ended = machine.end();
    assert_eq!(ended.code, Some(CORE), "{}", ended.log);
    assert!(ended.log.contains("the core died: killed by SIGKILL"), "{}", ended.log);
}

fn a_launcher_that_is_killed_takes_its_children_along() {
    let mut machine = Machine::start("ignore");
    machine.wait_until_confined();
    let children = machine.children();
    assert_eq!(children.len(), 1);
    machine.send(Signal::SIGKILL);
    // Waits for the end of the log, which every process of the machine holds, too.
    assert_eq!(machine.end().code, None);
}

fn counters_are_one_line_of_json() {
    let mut machine = Machine::start("ignore");
    machine.wait_until_confined();
    machine.send(Signal::SIGUSR1);
    machine.wait_for("vmm: counters {\"exits\":3}\n");
    machine.send(Signal::SIGQUIT);
    machine.end();
}

fn each_machine_ends_with_nothing_left_open_in_the_folder() {
    let mut machine = Machine::start("ignore");
    let before = machine.files();
    machine.wait_until_confined();
    assert_eq!(machine.files(), before, "a file or socket was made");
    machine.send(Signal::SIGQUIT);
    machine.end();
}
