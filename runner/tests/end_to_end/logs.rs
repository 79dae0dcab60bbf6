//! The log pipeline against a real Postgres, without the rest of the runner.

use crate::fleet::{Fleet, until};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use tendril_broker::runner::{Broker, Claimed, Outcome, Registration, Report};
use tendril_runner::attempt_log::AttemptLog;
use tendril_runner::collect::Collector;
use tendril_runner::config::Logs;
use tendril_runner::logs::Stream;
use tendril_runner::metrics::Metrics;
use tendril_runner::ship::Shipper;
use tendril_runner::spool::{Limits, Spool};
use tendril_runner::{chance, clock};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What stands between a job's pipe and the broker.
struct Pipeline {
    spool: Arc<Spool>,
    collector: Arc<Collector>,
    shipper: Shipper,
}

impl Pipeline {
    fn new(dir: &Path) -> Self {
        Self::with(dir, Logs::default().limits())
    }

    fn with(dir: &Path, limits: Limits) -> Self {
        let settings = Logs::default();
        let (spool, _) = Spool::open_dir(dir, limits, chance::id(), clock::wall()).expect("a spool");
        let (spool, metrics) = (Arc::new(spool), Arc::new(Metrics::default()));
        Self {
            collector: Arc::new(Collector::new(settings.clone(), spool.clone(), metrics.clone())),
            shipper: Shipper::new(settings, spool.clone(), metrics),
            spool,
        }
    }

    /// Sends all that the logs have.
    async fn drain(&self, fleet: &Fleet) {
        let end = CancellationToken::new();
        end.cancel();
        let connector = fleet.connector();
        let work = async {
            self.collector.clone().run(end.clone()).await;
            self.shipper.run(&connector, end.clone()).await;
        };
        let shipped = tokio::time::timeout(fleet.patience(), work).await;
        assert!(shipped.is_ok(), "it sends the same rows for ever");
    }
}

/// Claims jobs of one deployment as a runner that has this log writer.
async fn claim<const JOBS: usize>(fleet: &Fleet, writer: Uuid) -> (Uuid, [Claimed; JOBS]) {
    let slots = i32::try_from(JOBS).expect("a few");
    let broker = Broker::new(fleet.connector(), chance::id(), 2).expect("a broker");
    let registration = Registration {
        name: "shipper".into(),
        version: "0".into(),
        place: None,
        labels: vec!["kind=exec".into()],
        slots: slots.unsigned_abs(),
        log_writer: writer,
    };
    broker.register(&registration).await.expect("registered");
    let job = |number| json!({"name": format!("job-{number}"), "kind": "exec", "reading": true, "argv": ["true"]});
    let jobs: Vec<_> = (0..JOBS).map(job).collect();
    let deployment = fleet.submit(&json!({"jobs": jobs})).await;
    let claimed = broker.claim(1, i32::try_from(JOBS).expect("a few")).await.expect("claimed");
    (deployment, claimed.try_into().expect("all"))
}

fn print(log: &AttemptLog, text: &str) {
    log.push(Stream::Stdout, text.as_bytes());
    log.finish();
}

#[tokio::test]
async fn rows_of_a_day_that_is_stored_no_more_do_not_keep_the_others_from_theirs() {
    let (fleet, folder) = (Fleet::new().await, TempDir::new().expect("a folder"));
    let pipeline = Pipeline::new(folder.path());
    let (deployment, [mut old, new]) = claim::<2>(&fleet, pipeline.spool.writer()).await;
    // Claimed long ago: its partition is gone, and Postgres refuses the whole batch before any check looks at it. A day is
    // removed when all its logs are closed.
    old.claim_day = time::Date::from_calendar_date(2001, time::Month::January, 1).expect("a day");
    let close =
        format!("update tendril_core.attempts set log_state = 'incomplete' where id = '{}'", old.lease.attempt_id);
    fleet.operate(&close).await;
    print(&pipeline.collector.open(&old), "too late\n");
    print(&pipeline.collector.open(&new), "in time\n");
    pipeline.drain(&fleet).await;
    assert_eq!(fleet.log(deployment).await, "in time\n");
}

#[tokio::test]
async fn rows_of_a_day_that_nobody_has_prepared_yet_wait_for_it_and_do_not_keep_the_others_from_theirs() {
    let (fleet, folder) = (Fleet::new().await, TempDir::new().expect("a folder"));
    let pipeline = Pipeline::new(folder.path());
    let (deployment, [mut early, other]) = claim::<2>(&fleet, pipeline.spool.writer()).await;
    // As if nobody had looked after the database for a week: today's partition is not there.
    early.claim_day = time::Date::from_calendar_date(2001, time::Month::January, 1).expect("a day");
    let attempt = early.lease.attempt_id;
    fleet.operate(&format!("update tendril_core.attempts set claim_day = '2001-01-01' where id = '{attempt}'")).await;
    print(&pipeline.collector.open(&early), "waited\n");
    print(&pipeline.collector.open(&other), "stored\n");
    let prepared = async {
        fleet.lines(deployment, 1).await;
        assert_eq!(fleet.log(deployment).await, "stored\n");
        assert_eq!(pipeline.spool.level().logs, 1, "nothing is given up");
        fleet
            .operate(
                "create table tendril_core.log_day_20010101 (like tendril.log_inbox including defaults including constraints);
                 alter table tendril.log_inbox attach partition tendril_core.log_day_20010101
                   for values from ('2001-01-01') to ('2001-01-02')",
            )
            .await;
    };
    // The runner ends, and sends what it has.
    tokio::join!(pipeline.drain(&fleet), prepared);
    assert_eq!(fleet.chunks(deployment).await.len(), 2);
    assert!(fleet.log(deployment).await.contains("waited\n"));
}

#[tokio::test]
async fn a_prompt_is_shown_although_nothing_was_printed_before_it() {
    let (fleet, folder) = (Fleet::new().await, TempDir::new().expect("a folder"));
    let pipeline = Pipeline::new(folder.path());
    let (_, [claimed]) = claim(&fleet, pipeline.spool.writer()).await;
    let ask = async {
        pipeline.collector.open(&claimed).push(Stream::Stdout, b"Are you sure? ");
        pipeline.spool.filled.notified().await;
    };
    // The collector rests already when the first job begins.
    let shown = async {
        tokio::select! {
            biased;
            () = pipeline.collector.clone().run(CancellationToken::new()) => unreachable!("nobody ends it"),
            () = ask => {}
        }
    };
    assert!(tokio::time::timeout(fleet.patience(), shown).await.is_ok(), "nobody looks after it");
    assert_eq!(pipeline.spool.take(1000)[0].chunk.text, "Are you sure? ");
}

#[tokio::test]
async fn a_broker_that_refuses_all_rows_is_given_time_between_sessions() {
    let (fleet, folder) = (Fleet::new().await, TempDir::new().expect("a folder"));
    let pipeline = Pipeline::new(folder.path());
    let (_, [claimed]) = claim(&fleet, pipeline.spool.writer()).await;
    fleet.refuse_logs().await;
    print(&pipeline.collector.open(&claimed), "nobody takes it\n");
    let begun = tokio::time::Instant::now();
    let (end, connector) = (CancellationToken::new(), fleet.connector());
    tokio::select! {
        () = pipeline.collector.clone().run(end.clone()) => unreachable!("it ends when it is told to"),
        () = pipeline.shipper.run(&connector, end.clone()) => unreachable!("it ends when it is told to"),
        () = fleet.log_sessions(4) => {}
    }
    // Three waits of at least 0.2, 0.4 and 0.8 s.
    assert!(begun.elapsed() >= tokio::time::Duration::from_millis(1400), "{:?}", begun.elapsed());
    assert_eq!(pipeline.spool.level().logs, 1, "nothing is given up");
}

/// Counts COPYs into the inbox, also those that are refused, and keeps of each that is not what it brought.
const COUNTING: &str = "
    create sequence public.copies;
    create table public.brought (copy bigint, attempt_id uuid, text text);
    create function public.count_copy() returns trigger language plpgsql security definer as $$ begin
        perform nextval('public.copies'); return null; end $$;
    create function public.keep_copy() returns trigger language plpgsql security definer as $$ begin
        insert into public.brought select currval('public.copies'), attempt_id, string_agg(log_chunk, '' order by seq)
          from batch group by 2; return null; end $$;
    create trigger a_count before insert on tendril.log_inbox for each statement execute function public.count_copy();
    create trigger z_keep after insert on tendril.log_inbox referencing new table as batch
        for each statement execute function public.keep_copy();";

#[tokio::test]
async fn a_batch_that_is_refused_costs_the_logs_beside_the_refused_ones_one_more_flush() {
    let (fleet, folder) = (Fleet::new().await, TempDir::new().expect("a folder"));
    let pipeline = Pipeline::new(folder.path());
    let (deployment, claimed) = claim::<5>(&fleet, pipeline.spool.writer()).await;
    let logs = claimed.each_ref().map(|one| pipeline.collector.open(one));
    let [closed, foreign, superseded, rewound, good] = claimed.each_ref().map(|one| one.lease.attempt_id);
    fleet.operate(COUNTING).await;
    let collect = async |text: &str, of: &[Arc<AttemptLog>]| {
        of.iter().for_each(|log| log.push(Stream::Stdout, text.as_bytes()));
        let end = CancellationToken::new();
        end.cancel();
        pipeline.collector.clone().run(end).await;
    };
    let script = async {
        // The session is there, and has heard how far each log is stored.
        collect("first\n", &logs).await;
        fleet.lines(deployment, 5).await;
        // What it cannot know. Tried: a log closed by its window; one that became another writer's; one whose attempt went on
        // under another fence; one of whose rows the database lost, as after a failover.
        let other = Uuid::from_u128(1);
        fleet
            .operate(&format!(
                "update tendril_core.attempts set log_state = 'incomplete' where id = '{closed}';
                 insert into tendril_core.log_writers (id, cluster_id, epoch, pid, backend_start)
                   select '{other}', cluster_id, 1, 0, now() from tendril_core.log_writers limit 1;
                 update tendril_core.attempts set log_writer = '{other}' where id = '{foreign}';
                 update tendril_core.attempts set fence = fence + 1000 where id = '{superseded}';
                 delete from tendril.log_inbox where attempt_id = '{rewound}'"
            ))
            .await;
        // One batch is held in the check until the next one is whole.
        let locks = fleet.lock_logs().await;
        collect("plug\n", &logs[4..]).await;
        fleet.waits_for_a_lock("log_copy").await;
        collect("second\n", &logs).await;
        locks.release().await;
        until("the good log's line", async || fleet.log(deployment).await.contains("plug\nsecond\n").then_some(()))
            .await;
    };
    let connector = fleet.connector();
    tokio::select! {
        () = pipeline.shipper.run(&connector, CancellationToken::new()) => unreachable!("nobody tells it to end"),
        () = script => {}
    }
    let plug = fleet.copy_that_brought(good, "plug\n").await;
    assert_eq!(fleet.copy_that_brought(good, "second\n").await, plug + 2, "one was refused, the next one was not");
    let gap = "[tendril: output is missing here: it was lost before it was stored for good]\n";
    assert_eq!(fleet.copy_that_brought(rewound, &format!("{gap}second\n")).await, plug + 2, "with the rewound log");
    let mut stored = BTreeMap::<Uuid, String>::new();
    for (attempt, chunk) in fleet.chunks(deployment).await {
        stored.entry(attempt).or_default().push_str(&chunk);
    }
    assert!([closed, foreign, superseded].iter().all(|refused| stored[refused] == "first\n"), "{stored:?}");
    assert_eq!(stored[&good], "first\nplug\nsecond\n");
}

#[tokio::test]
async fn many_loud_attempts_are_stored_whole_and_in_turn() {
    let (fleet, folder) = (Fleet::new().await, TempDir::new().expect("a folder"));
    let pipeline = Pipeline::new(folder.path());
    let (deployment, claimed) = claim::<2>(&fleet, pipeline.spool.writer()).await;
    let text: String = (0..30_000).map(|n| format!("line {n:08} of many, with some length to it\n")).collect();
    for one in &claimed {
        print(&pipeline.collector.open(one), &text);
    }
    pipeline.drain(&fleet).await;
    let mut by_attempt = BTreeMap::<Uuid, String>::new();
    for (attempt, chunk) in fleet.chunks(deployment).await {
        by_attempt.entry(attempt).or_default().push_str(&chunk);
    }
    assert!(by_attempt.len() == 2 && by_attempt.values().all(|stored| *stored == text));
    assert_eq!(pipeline.spool.level().logs, 0, "nothing is left of what is stored");
}

#[tokio::test]
async fn a_loud_log_is_sent_to_its_end_when_the_quiet_ones_beside_it_have_no_more() {
    let (fleet, folder) = (Fleet::new().await, TempDir::new().expect("a folder"));
    let pipeline = Pipeline::new(folder.path());
    let (deployment, [loud, quiet @ ..]) = claim::<5>(&fleet, pipeline.spool.writer()).await;
    let lines: String = (0..20_000).map(|n| format!("line {n:08}\n")).collect();
    print(&pipeline.collector.open(&loud), &lines);
    quiet.iter().for_each(|one| print(&pipeline.collector.open(one), "quiet\n"));
    // All of it is in the spool; nothing comes behind it that would wake who sends, as after a runner's last job.
    let end = CancellationToken::new();
    end.cancel();
    pipeline.collector.clone().run(end).await;
    let connector = fleet.connector();
    tokio::select! {
        () = pipeline.shipper.run(&connector, CancellationToken::new()) => panic!("nobody told it to end"),
        () = fleet.lines(deployment, 20_004) => {}
    }
}

#[tokio::test]
async fn what_finds_no_room_in_the_spool_at_the_end_waits_for_it() {
    let (fleet, folder) = (Fleet::new().await, TempDir::new().expect("a folder"));
    let limits = Limits { disk_bytes: 17 << 20, ..Logs::default().limits() };
    let pipeline = Pipeline::with(folder.path(), limits);
    let (deployment, claimed) = claim::<3>(&fleet, pipeline.spool.writer()).await;
    let text = format!("{}\n", "x".repeat(8000)).repeat(1100);
    for one in &claimed {
        print(&pipeline.collector.open(one), &text);
    }
    let (end, collected, connector) = (CancellationToken::new(), CancellationToken::new(), fleet.connector());
    end.cancel();
    let collect = async {
        pipeline.collector.clone().run(end).await;
        collected.cancel();
    };
    let all = async { tokio::join!(collect, pipeline.shipper.run(&connector, collected.clone())) };
    assert!(tokio::time::timeout(fleet.patience(), all).await.is_ok(), "room is never found");
    assert_eq!(fleet.log(deployment).await.len(), 3 * text.len());
}

#[tokio::test]
async fn what_one_process_captured_the_next_one_stores_under_the_old_attempts() {
    let (fleet, folder) = (Fleet::new().await, TempDir::new().expect("a folder"));
    let (deployment, first_line);
    {
        let pipeline = Pipeline::new(folder.path());
        let claimed;
        (deployment, claimed) = claim::<2>(&fleet, pipeline.spool.writer()).await;
        let logs = claimed.each_ref().map(|one| pipeline.collector.open(one));
        logs[0].push(Stream::Stdout, b"stored before\n");
        pipeline.drain(&fleet).await;
        first_line = fleet.log(deployment).await;
        // Collected, but never shipped: the process is gone. One log has ended, one has not.
        logs[0].push(Stream::Stdout, b"only on disk\n");
        print(&logs[1], "ended on disk\n");
        let end = CancellationToken::new();
        end.cancel();
        pipeline.collector.clone().run(end).await;
        logs[0].push(Stream::Stdout, b"never collected\n");
    }
    assert_eq!(first_line, "stored before\n");
    let pipeline = Pipeline::new(folder.path());
    pipeline.drain(&fleet).await;
    let mut rows = fleet.chunks(deployment).await;
    rows.sort();
    let texts: Vec<&str> = rows.iter().map(|(_, text)| text.as_str()).collect();
    let gap = "[tendril: output is missing here: it was lost before it was stored for good]\n";
    let mut expected = vec!["stored before\n", "only on disk\n", gap, "ended on disk\n"];
    expected.sort_unstable();
    let mut sorted = texts.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, expected, "nothing twice, nothing lost that was on disk, and the gap says what was not");
    assert_eq!(pipeline.spool.level().logs, 0);
}

#[tokio::test]
async fn readers_learn_at_once_what_a_destroyed_spool_took_of_logs_that_had_ended() {
    let (fleet, folder) = (Fleet::new().await, TempDir::new().expect("a folder"));
    let pipeline = Pipeline::new(folder.path());
    let broker = Broker::new(fleet.connector(), chance::id(), 2).expect("a broker");
    let (deployment, claimed) = claim::<2>(&fleet, pipeline.spool.writer()).await;
    let logs = claimed.each_ref().map(|one| pipeline.collector.open(one));
    logs[0].push(Stream::Stdout, b"stored\n");
    pipeline.drain(&fleet).await;
    // Both reports are committed before the last lines are; then all segments are gone.
    print(&logs[0], "never sent\nnor this\n");
    print(&logs[1], "nothing of this one\n");
    for (one, log_end) in claimed.iter().zip([2, 0]) {
        let report = Report {
            outcome: Outcome::Success,
            log_end,
            child_dead: true,
            error: None,
            permanent: false,
            result: serde_json::Value::Null,
            commands: serde_json::Value::Null,
        };
        broker.finish(&one.lease, &report).await.expect("finished");
    }
    drop((pipeline, logs));
    for file in std::fs::read_dir(folder.path()).expect("the spool") {
        let path = file.expect("a file").path();
        if path.extension().is_some_and(|name| name == "seg") {
            std::fs::remove_file(path).expect("removed");
        }
    }
    Pipeline::new(folder.path()).drain(&fleet).await;
    assert_eq!(fleet.whole_log(deployment).await, "stored\n");
    let mut rows = fleet.chunks(deployment).await;
    rows.retain(|(_, text)| text.contains("it was lost before it was stored for good"));
    assert_eq!(rows.len(), 2, "a gap in each log");
}

#[tokio::test]
async fn a_killed_runners_last_lines_are_sent_by_the_next_process_of_its_place() {
    let fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    let gate = fleet.gate();
    let first = json!({"jobs": [{"name": "first", "kind": "exec", "reading": true, "argv": ["true"]}]});
    fleet.ended(fleet.submit(&first).await).await;
    let locks = fleet.lock_logs().await;
    let script = format!("seq -f 'line %g' 1000; read go < {}", gate.path());
    let deployment =
        fleet.submit(&json!({"jobs": [{"name": "cut", "kind": "exec", "argv": ["/bin/bash", "-c", script]}]})).await;
    runner.spooled("line 1000\n").await;
    runner.killed().await;
    assert_eq!(fleet.log(deployment).await, "", "nothing of it was stored yet");
    locks.release().await;
    let mut next = fleet.runner("a", &[]).await;
    next.said("an earlier process has left log text").await;
    fleet.lines(deployment, 1000).await;
    let expected: String = (1..=1000).map(|n| format!("line {n}\n")).collect();
    assert_eq!(fleet.log(deployment).await, expected);
    gate.open();
    next.end().await;
}

#[tokio::test]
async fn a_second_process_of_the_same_folder_is_refused() {
    let fleet = Fleet::new().await;
    let first = fleet.runner("a", &[]).await;
    let mut second = fleet.second("a");
    assert!(!second.exited().await.success());
    let said = second.all_said();
    assert!(said.contains("state_dir: another runner uses") && said.contains("give each its own"), "{said}");
    first.end().await;
    // With the first one the lock is gone, too.
    fleet.runner("a", &[]).await.end().await;
}

#[tokio::test]
async fn a_runner_that_stored_all_leaves_nothing_to_the_next_process() {
    let fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    let job = json!({"jobs": [{"name": "first", "kind": "exec", "reading": true, "argv": ["/bin/echo", "hello"]}]});
    let deployment = fleet.submit(&job).await;
    fleet.ended(deployment).await;
    assert_eq!(fleet.whole_log(deployment).await, "hello\n");
    runner.end().await;
    let next = fleet.runner("a", &[]).await;
    assert!(!next.all_said().contains("an earlier process"), "{}", next.all_said());
    next.end().await;
}

#[tokio::test]
async fn a_line_of_a_hundred_megabytes_is_stored_up_to_the_cap_with_its_end_and_takes_little_memory() {
    let fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    // What it takes without the line.
    let small = json!({"jobs": [{"name": "small", "kind": "exec", "argv": ["/bin/echo", "hello"]}]});
    fleet.ended(fleet.submit(&small).await).await;
    let before = runner.peak_memory_bytes();
    // Tried: a line of 100 MB through a pipe, without its line feed to the last.
    let script = "head -c 100000000 /dev/zero | tr '\\0' x; printf 'the end'";
    let long = json!({"name": "long", "kind": "exec", "argv": ["/bin/sh", "-c", script]});
    let deployment = fleet.submit(&json!({"jobs": [long]})).await;
    assert_eq!(fleet.ended(deployment).await["status"], "SUCCESS");
    let log = fleet.whole_log(deployment).await;
    let grown = runner.peak_memory_bytes() - before;
    assert!(grown < 90_000_000, "the line was never in memory as a whole: {grown} bytes");
    let limits = Logs::default();
    let (beginning, rest) = log.split_once('[').expect("a gap");
    let (gap, end) = rest.split_once("]\n").expect("a gap");
    let cap = usize::try_from(limits.cap_bytes).expect("a size");
    assert!(beginning.len() <= cap && beginning.len() > cap - 20_000, "{} bytes", beginning.len());
    assert!(beginning.bytes().all(|byte| byte == b'x'));
    let missing = 100_000_007 - beginning.len() - end.len();
    assert!(gap.contains(&missing.to_string()), "{gap}, and {missing} bytes are missing");
    let all_of_it = limits.cap_tail_bytes;
    assert!(end.ends_with("xthe end") && end.len() <= all_of_it && end.len() > all_of_it - 20_000, "{}", end.len());
    let notices = fleet.chunks(deployment).await;
    assert_eq!(notices.iter().filter(|(_, text)| text.contains("The job goes on")).count(), 1);
    runner.end().await;
}

#[tokio::test]
async fn a_job_over_its_log_quota_goes_on_and_its_log_is_whole_up_to_the_notice() {
    let fleet = Fleet::new().await;
    fleet.set_log_quota(1_000_000).await;
    let runner = fleet.runner("a", &[]).await;
    let script = "seq -f 'line %08g of many, with some length to it' 100000; echo the end";
    let quiet = json!({"name": "quiet", "kind": "exec", "argv": ["/bin/echo", "hello"], "needs": ["loud"]});
    let loud = json!({"name": "loud", "kind": "exec", "argv": ["/bin/bash", "-c", script]});
    let deployment = fleet.submit(&json!({"jobs": [loud, quiet]})).await;
    assert_eq!(fleet.ended(deployment).await["status"], "SUCCESS");
    // That it is whole up to its end is what this waits for.
    let log = fleet.whole_log(deployment).await;
    let printed: String = (1..=100_000).map(|n| format!("line {n:08} of many, with some length to it\n")).collect();
    let loud = log.strip_suffix("hello\n").expect("the other job's log");
    assert!(loud.len() <= 1_000_000 && printed.starts_with(loud), "{} bytes", loud.len());
    let rows = fleet.chunks(deployment).await;
    let notices = rows.iter().filter(|(_, text)| text.contains("the quota of log text is used up")).count();
    assert_eq!(notices, 1);
    runner.end().await;
}
