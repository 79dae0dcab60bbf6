//! Writers that wait for room, and a collector that takes little, much or nothing.

use super::*;
use crate::logs::Secret;
use crate::testing::claimed;
use tendril_broker::runner::Lease;
use time::Date;
use uuid::Uuid;

/// Sooner than anybody loses patience.
const SOON: Duration = Duration::from_secs(10);

fn log(intake: &Arc<Intake>) -> AttemptLog {
    log_of(intake, 1000)
}

fn log_of(intake: &Arc<Intake>, attempt_buffer_bytes: usize) -> AttemptLog {
    let lease = Lease { attempt_id: Uuid::from_u128(1), fence: 1 };
    let whose = Whose { deployment_id: Uuid::nil(), lease, claim_day: Date::MIN, job: "a".into(), ordinal: 1 };
    let settings = Logs { attempt_buffer_bytes, ..Logs::default() };
    AttemptLog::new(Arc::new(whose), 0, &settings, intake.clone())
}

async fn was_told(signal: &Notify) -> bool {
    has_come(&mut Box::pin(signal.notified())).await
}

/// Asked once.
async fn has_come(what: &mut (impl Future + Unpin)) -> bool {
    tokio::select! {
        biased;
        _ = what => true,
        () = std::future::ready(()) => false,
    }
}

#[test]
fn a_secret_that_was_shortened_does_not_show_in_what_tendril_says() {
    let log = log(&Arc::new(Intake::new(1 << 20, 1 << 20)));
    let (secrets, _) = Secrets::new(&[Secret::new("inputs.password", "correct horse battery staple")]).unwrap();
    log.redact(Arc::new(secrets));
    log.say("tendril: no such user: correct horse bat… (see above)");
    let said: String = log.collect(u64::MAX, Look::AtAll).chunks.into_iter().map(|chunk| chunk.text).collect();
    assert_eq!(said, "tendril: no such user: [redacted]… (see above)\n");
}

#[test]
fn loud_logs_whom_the_spool_has_no_room_for_leave_room_to_quiet_ones() {
    let intake = Arc::new(Intake::new(16 * 1024, 1 << 20));
    let loud: Vec<_> = (0..5).map(|_| log_of(&intake, 1 << 20)).collect();
    let quiet = log_of(&intake, 1 << 20);
    // In turn, for as long as any of them finds room; nothing is ever taken.
    while loud
        .iter()
        .filter(|log| log.has_room())
        .inspect(|log| log.push(Stream::Stdout, b"a line of some length\n"))
        .count()
        > 0
    {}
    assert!(quiet.has_room() && intake.left() > 1000, "{} bytes are left", intake.left());
    quiet.push(Stream::Stdout, b"a line\n");
    assert!(quiet.has_room());
}

#[tokio::test(flavor = "current_thread")]
async fn those_who_wait_are_let_in_one_after_the_other_and_not_beyond_the_room_that_there_is() {
    let intake = Arc::new(Intake::new(10_000, 1 << 20));
    let full = log_of(&intake, 1 << 20);
    full.push(Stream::Stdout, "a line of some length\n".repeat(500).as_bytes());
    assert_eq!(intake.left(), 0);
    let served = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (log, served) = (log_of(&intake, 1 << 20), served.clone());
        waiting.spawn(async move {
            let let_in = log.room(BootTime::now()).await;
            // What it came for is done later, as by a reader who waits for its turn.
            tokio::task::yield_now().await;
            log.push(Stream::Stdout, &[b'x'; 3000]);
            log.push(Stream::Stdout, b"\n");
            served.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            drop(let_in);
            log
        });
    }
    let settle = async || {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        served.load(std::sync::atomic::Ordering::Relaxed)
    };
    assert_eq!(settle().await, 0);
    full.collect(u64::MAX, Look::AtAll);
    intake.turned();
    assert_eq!(settle().await, 4, "10,000 bytes have room for three of them, and one more begins");
    while let Some(Ok(log)) = waiting.try_join_next() {
        log.collect(u64::MAX, Look::AtAll);
    }
    intake.turned();
    assert_eq!(settle().await, 8);
}

#[tokio::test]
async fn one_who_is_called_and_goes_away_calls_the_next() {
    let intake = Arc::new(Intake::new(1000, 1 << 20));
    let logs: Vec<_> = (0..3).map(|_| log_of(&intake, 1 << 20)).collect();
    logs[0].push(Stream::Stdout, "a line of some length\n".repeat(100).as_bytes());
    let mut first = Box::pin(logs[1].room(BootTime::now()));
    let mut second = Box::pin(logs[2].room(BootTime::now()));
    assert!(!has_come(&mut first).await && !has_come(&mut second).await, "there is no room");
    logs[0].collect(u64::MAX, Look::AtAll);
    intake.turned();
    drop(first);
    let let_in = tokio::time::timeout(SOON, second).await.expect("the first has gone, and the second is not called");
    // Tried: two are called one after the other by one turn, the second by the first.
    logs[0].push(Stream::Stdout, "a line of some length\n".repeat(100).as_bytes());
    drop(let_in);
    let mut first = Box::pin(logs[1].room(BootTime::now()));
    let mut second = Box::pin(logs[2].room(BootTime::now()));
    assert!(!has_come(&mut first).await && !has_come(&mut second).await, "there is no room");
    logs[0].collect(u64::MAX, Look::AtAll);
    intake.turned();
    drop(tokio::time::timeout(SOON, first).await.expect("the first is called"));
    drop(tokio::time::timeout(SOON, second).await.expect("the first has come and gone, and the second is not called"));
}

#[tokio::test]
async fn who_waits_hears_that_the_spool_is_full_and_that_nobody_takes_the_log_any_more() {
    let intake = Arc::new(Intake::new(1000, 1 << 20));
    let settings = Logs { attempt_buffer_bytes: 1 << 20, stall_s: 0, ..Logs::default() };
    let new = || AttemptLog::new(Arc::new(Whose::of(&claimed(1))), 0, &settings, intake.clone());
    let (impatient, closed) = (new(), new());
    for log in [&impatient, &closed] {
        log.push(Stream::Stdout, "a line of some length\n".repeat(100).as_bytes());
    }
    assert_eq!(intake.left(), 0);
    let mut waits = [Box::pin(impatient.room(BootTime::now())), Box::pin(closed.room(BootTime::now()))];
    for wait in &mut waits {
        assert!(!has_come(wait).await, "there is no room, and nobody knows yet why");
    }
    let [impatient_waits, closed_waits] = waits;
    // A turn that finds the spool full takes nothing, so nobody is called in.
    assert!(impatient.collect(0, Look::AtAll).chunks.is_empty());
    intake.turned();
    drop(tokio::time::timeout(SOON, impatient_waits).await.expect("with stall_s = 0 nobody waits for a full spool"));
    closed.close(None);
    drop(tokio::time::timeout(SOON, closed_waits).await.expect("nobody waits for a log that is closed"));
}

#[test]
fn one_that_waits_no_more_goes_on_while_others_fill_the_memory_and_leaves_room_itself() {
    let intake = Arc::new(Intake::new(16 * 1024, 1 << 20));
    let (loud, quiet) = (log_of(&intake, 1 << 20), log_of(&intake, 1 << 20));
    loud.push(Stream::Stdout, "a line of some length\n".repeat(1000).as_bytes());
    assert_eq!(intake.left(), 0);
    quiet.inner().stalled = true;
    assert!(quiet.collect(0, Look::AtAll).chunks.is_empty());
    assert!(quiet.has_room(), "it would wait anew for each of its reads");
    // Tried: far more than there is room for, by one that does not wait.
    loud.collect(u64::MAX, Look::AtAll);
    quiet.push(Stream::Stdout, "a line of some length\n".repeat(10_000).as_bytes());
    assert!(intake.left() >= 7 * 1024, "{} bytes are left", intake.left());
    assert!(quiet.counters().refused_bytes > 0);
    quiet.collect(u64::MAX, Look::AtAll);
    assert!(!quiet.inner().stalled);
}

#[test]
fn a_look_at_what_is_ripe_does_not_take_a_full_spool_for_one_with_room() {
    let log = log_of(&Arc::new(Intake::new(1 << 20, 1 << 20)), 1 << 20);
    log.push(Stream::Stdout, b"the beginning of a chunk\n");
    assert!(log.collect(0, Look::AtAll).is_more && log.inner().full);
    assert!(!log.collect(0, Look::AtRipe).is_more && log.inner().full);
    log.collect(u64::MAX, Look::AtAll);
    assert!(!log.inner().full);
}

#[tokio::test]
async fn who_waits_for_a_full_spool_does_not_make_the_collector_turn_without_a_rest() {
    let intake = Arc::new(Intake::new(1 << 20, 1 << 20));
    let log = log(&intake);
    log.push(Stream::Stdout, "a line of some length\n".repeat(100).as_bytes());
    let mut room = Box::pin(log.room(BootTime::now()));
    let mut turns_asked_for = 0;
    for _ in 0..3 {
        assert!(!has_come(&mut room).await, "nothing was taken");
        turns_asked_for += usize::from(was_told(&intake.urgent).await);
        // What a turn does that finds the spool full.
        assert!(log.collect(0, Look::AtAll).chunks.is_empty());
        intake.turned();
    }
    assert_eq!(turns_asked_for, 1);
    log.collect(u64::MAX, Look::AtAll);
    intake.turned();
    drop(tokio::time::timeout(SOON, room).await.expect("there is room"));
    assert!(!intake.take_paused().is_zero(), "how long it waited is counted");
}
