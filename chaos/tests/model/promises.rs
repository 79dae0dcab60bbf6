//! That the promises hold, and that each mistake that was made on purpose breaks one.

use stateright::{Expectation, Model};
use tendril_chaos::check::Promise;

use crate::protocol::{Bug, Protocol};
use crate::search::{found, search};

#[test]
fn what_the_search_judges_by_are_promises_of_the_checker_and_of_the_specification() {
    let protocol = Protocol { places: 2, jobs: vec![true], faults: 0, limit: 2, bug: None };
    let kept = protocol.properties().into_iter().filter(|property| property.expectation == Expectation::Always);
    let mut promises: Vec<&str> = kept.map(|property| property.name.split(": ").next().unwrap_or_default()).collect();
    promises.dedup();
    // The limit is the model's alone: real histories have no concurrency keys.
    assert_eq!(promises.pop(), Some("Limit"));
    let of_the_checker = [Promise::I1, Promise::I3, Promise::I4, Promise::I10, Promise::End];
    assert_eq!(promises, of_the_checker.map(|promise| format!("{promise:?}")));
    let specification = include_str!("../../../docs/SPECIFICATION.md");
    for promise in promises.iter().filter(|promise| promise.starts_with('I')) {
        assert!(specification.contains(&format!("\n| {promise} ")), "{promise} has a line of its own");
    }
}

#[test]
fn two_runners_and_two_jobs_keep_every_promise_whatever_happens() {
    // More by command: each further fault makes it some fifteen times larger.
    let asked = std::env::var("TENDRIL_MODEL_FAULTS").ok().and_then(|count| count.parse().ok());
    let each = [
        ([true, true], 2, 2),
        ([true, false], 2, 1),
        ([false, false], 2, 1),
        ([true, false], 1, 1),
        ([false, false], 1, 1),
    ];
    for (jobs, limit, faults) in each {
        let faults = asked.unwrap_or(faults);
        let states = search(&jobs, limit, faults);
        println!("{states} states with {faults} faults, {limit} at once, jobs that change the world: {jobs:?}");
        assert!(states > 1000, "{states}");
    }
}

#[test]
fn a_start_and_a_finish_without_a_fence_check_are_found() {
    let way = found(Bug::NoFenceCheck, &[true, true], 2, 3);
    assert!(way.contains("superseded") && way.contains("Expire"), "{way}");
}

#[test]
fn a_check_that_takes_no_lock_is_found() {
    let way = found(Bug::CheckWithoutLock, &[true, true], 2, 3);
    assert!(way.contains("StartUnlocked") && way.contains("Expire"), "{way}");
}

#[test]
fn a_timer_that_frees_the_key_of_a_started_job_is_found() {
    let way = found(Bug::TimerFreesStartedKey, &[true, true], 2, 3);
    assert!(way.contains("Expire"), "{way}");
}

#[test]
fn a_limit_that_forgets_those_whose_holder_is_silent_is_found() {
    let way = found(Bug::SilentLeavesItsPlace, &[true, false], 1, 2);
    assert!(way.contains("Limit") && way.contains("Expire"), "{way}");
}
