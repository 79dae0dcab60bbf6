use proptest::prelude::*;

use super::*;

const ZERO: Ended = Ended::Code { code: 0 };
const CANCEL: Event = Event::Asked(Force::Interrupt, StopReason::Cancelled);
const KILL: Event = Event::Asked(Force::Kill, StopReason::Shutdown);

fn flow(class: Class) -> Flow {
    Flow::new(class, 1_000, 100, 0)
}

#[test]
fn a_command_that_ends_by_itself_is_cleaned_up_and_reported() {
    let mut flow = flow(Class::Mutating);
    assert_eq!(flow.next(Event::MainEnded(ZERO), 5), [Action::KillTree]);
    assert_eq!(flow.next(Event::TreeEmpty, 6), [Action::Report]);
    assert!(flow.is_over());
    assert_eq!((flow.stop(), flow.was_forced()), (None, false));
}

#[test]
fn a_second_request_sends_no_second_interrupt_and_does_not_restart_the_grace() {
    let mut flow = flow(Class::Mutating);
    assert_eq!(flow.next(CANCEL, 10), [Action::Interrupt]);
    assert_eq!(flow.next(CANCEL, 60), []);
    let shutdown = Event::Asked(Force::Interrupt, StopReason::Shutdown);
    assert_eq!(flow.next(shutdown, 70), []);
    assert_eq!(flow.deadline_ms(), Some(110));
    assert_eq!(flow.next(Event::Time, 109), []);
    assert_eq!(flow.next(Event::Time, 110), [Action::KillTree]);
    assert!(flow.was_forced());
    assert_eq!(flow.stop(), Some(StopReason::Cancelled), "the first reason counts");
}

#[test]
fn a_timeout_after_an_interrupt_sends_no_second_one() {
    let mut flow = Flow::new(Class::Mutating, 1_000, 5_000, 0);
    assert_eq!(flow.next(CANCEL, 999), [Action::Interrupt]);
    assert_eq!(flow.next(Event::Time, 1_001), []);
    assert_eq!(flow.stop(), Some(StopReason::Cancelled));
}

#[test]
fn the_timeout_interrupts_with_its_own_reason() {
    let mut flow = flow(Class::Mutating);
    assert_eq!(flow.next(Event::Time, 999), []);
    assert_eq!(flow.next(Event::Time, 1_000), [Action::Interrupt]);
    assert_eq!(flow.stop(), Some(StopReason::Timeout));
}

#[test]
fn a_kill_goes_straight_to_the_tree() {
    let mut flow = flow(Class::Mutating);
    assert_eq!(flow.next(KILL, 1), [Action::KillTree]);
    assert_eq!(flow.next(KILL, 2), []);
    assert_eq!(flow.next(CANCEL, 3), []);
    assert_eq!(flow.next(Event::TreeEmpty, 4), [], "the main process was not seen to end");
    assert_eq!(flow.next(Event::MainEnded(ZERO), 5), []);
    assert_eq!(flow.next(Event::TreeEmpty, 6), [Action::Report]);
    assert!(!flow.was_interrupted());
}

#[test]
fn a_reading_command_ends_with_its_runner_and_a_mutating_one_does_not() {
    let mut reading = flow(Class::Reading);
    assert_eq!(reading.next(Event::RunnerGone, 1), [Action::Drain, Action::Interrupt]);
    assert_eq!(reading.stop(), Some(StopReason::RunnerGone));

    let mut mutating = flow(Class::Mutating);
    assert_eq!(mutating.next(Event::RunnerGone, 1), [Action::Drain]);
    assert_eq!(mutating.stop(), None);
    assert_eq!(mutating.next(Event::Time, 1_000), [Action::Interrupt], "the timeout still holds");
}

#[test]
fn an_interrupted_reading_command_gets_no_second_interrupt_when_the_runner_goes() {
    let mut flow = flow(Class::Reading);
    assert_eq!(flow.next(CANCEL, 1), [Action::Interrupt]);
    assert_eq!(flow.next(Event::RunnerGone, 2), [Action::Drain]);
}

fn any_event() -> impl Strategy<Value = Event> {
    let force = prop_oneof![Just(Force::Interrupt), Just(Force::Kill)];
    let reason = prop_oneof![
        Just(StopReason::Cancelled),
        Just(StopReason::Timeout),
        Just(StopReason::Shutdown),
        Just(StopReason::LeaseLost),
    ];
    prop_oneof![
        4 => (force, reason).prop_map(|(force, reason)| Event::Asked(force, reason)),
        1 => Just(Event::RunnerGone),
        1 => (0..3).prop_map(|code| Event::MainEnded(Ended::Code { code })),
        1 => Just(Event::TreeEmpty),
        4 => Just(Event::Time),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_there_is_one_interrupt_one_kill_and_one_report_in_this_order(
        mutating: bool,
        events in prop::collection::vec((any_event(), 0u64..400), 0..60),
    ) {
        let class = if mutating { Class::Mutating } else { Class::Reading };
        let mut flow = flow(class);
        let (mut now, mut seen) = (0, Vec::new());
        for (event, step) in events {
            now += step;
            seen.extend(flow.next(event, now));
        }
        let order: Vec<_> = seen.iter().filter(|a| **a != Action::Drain).copied().collect();
        let all = [Action::Interrupt, Action::KillTree, Action::Report];
        prop_assert!(
            order == all[..order.len()] || order == all[1..=order.len().min(2)],
            "{seen:?}"
        );
        prop_assert!(seen.iter().filter(|a| **a == Action::Drain).count() <= 1);
        prop_assert_eq!(flow.is_over(), seen.contains(&Action::Report));
    }

    #[test]
    fn time_alone_always_reaches_the_kill(grace in 0u64..10_000, timeout in 0u64..10_000) {
        let mut flow = Flow::new(Class::Mutating, timeout, grace, 7);
        let mut seen = Vec::new();
        while let Some(deadline) = flow.deadline_ms() {
            seen.extend(flow.next(Event::Time, deadline));
        }
        prop_assert_eq!(seen, [Action::Interrupt, Action::KillTree]);
    }
}
