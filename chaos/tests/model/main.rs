//! The protocol between runners and broker as a model that is searched exhaustively: every order of what may happen, with
//! crashes, pauses, lost and late messages, calls that are committed although nobody waits for them any more, and leases
//! that run out at the worst moment.
//!
//! It is small on purpose: what docs/PROTOCOL.md says of claim, start, heartbeat, expiry, finish and adoption, for jobs that
//! all change one state, and nothing of logs, needs and approvals. Its properties are the promises that the checker of
//! real histories judges by, too.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that finds nothing has nothing to go on with, and says how much it searched"
)]

mod broker;
mod process;
mod properties;
mod protocol;
mod search;
mod state;

use protocol::Bug;
use search::{found, search};

#[test]
fn two_runners_and_two_jobs_keep_every_promise_whatever_happens() {
    // More by command: each further fault makes it some fifteen times larger.
    let asked = std::env::var("TENDRIL_MODEL_FAULTS").ok().and_then(|count| count.parse().ok());
    for (jobs, faults) in [([true, true], 2), ([true, false], 1), ([false, false], 1)] {
        let faults = asked.unwrap_or(faults);
        let states = search(&jobs, faults);
        println!("{states} states with {faults} faults, jobs that change the world: {jobs:?}");
        assert!(states > 1000, "{states}");
    }
}

#[test]
fn a_start_and_a_finish_without_a_fence_check_are_found() {
    let way = found(Bug::NoFenceCheck, &[true, true], 3);
    assert!(way.contains("superseded") && way.contains("Expire"), "{way}");
}

#[test]
fn a_check_that_takes_no_lock_is_found() {
    let way = found(Bug::CheckWithoutLock, &[true, true], 3);
    assert!(way.contains("StartUnlocked") && way.contains("Expire"), "{way}");
}

#[test]
fn a_timer_that_frees_the_key_of_a_started_job_is_found() {
    let way = found(Bug::TimerFreesStartedKey, &[true, true], 3);
    assert!(way.contains("Expire"), "{way}");
}
