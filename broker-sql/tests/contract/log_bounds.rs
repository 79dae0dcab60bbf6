//! What a row of a log may hold, and how much of them a cluster may store.

use serde_json::{Value, json};

use crate::fleet::{Claimed, Fleet, Runner, copy_as, one, reading, refusal, row, run};
use crate::logs::{at_work, reasons};

/// A row of every column, as COPY has it.
fn full(claimed: &Claimed, numbers: (i64, i64), text: &str, ts: &str, gap: (&str, &str)) -> String {
    let (seq, seq_to) = numbers;
    let start = row(claimed, seq, seq_to, text);
    let start = start.trim_end().rsplit_once('\t').unwrap().0.to_owned();
    format!("{start}\t{ts}\t{}\t{}\n", gap.0, gap.1)
}

const NOW: &str = "2026-01-01T00:00:00Z";
const NO_GAP: (&str, &str) = ("\\N", "\\N");

async fn copy_full(runner: &mut Runner, rows: &[String]) -> Result<(), sqlx::Error> {
    use sqlx::Connection;
    let mut transaction = runner.session.begin().await?;
    let writer = format!("{}:{}", runner.writer, runner.epoch);
    sqlx::query("select set_config('tendril.writer', $1, true)").bind(writer).execute(&mut *transaction).await?;
    let sql = crate::fleet::COPY.replace(", ts)", ", ts, gap_kind, gap_bytes)");
    let mut copy = transaction.copy_in_raw(&sql).await?;
    copy.send(rows.concat().as_bytes()).await?;
    copy.finish().await?;
    transaction.commit().await
}

#[tokio::test]
async fn a_row_that_no_honest_runner_makes_is_refused_and_the_other_streams_land() {
    let mut fleet = Fleet::new().await;
    let (mut runner, a, b) = at_work(&mut fleet).await;
    let long = "x".repeat(69_633);
    let pieces = "x".repeat(20_481);
    let note = "x".repeat(1025);
    let tried = [
        ("no text", (0, 0), "", NOW, NO_GAP),
        ("more records than bytes", (0, 9), "x", NOW, NO_GAP),
        ("numbers that a JSON reader cannot hold", (0, 9_007_199_254_740_991), "x", NOW, ("lost", "\\N")),
        ("the largest there is", (0, i64::MAX), "x", NOW, NO_GAP),
        ("the same", (i64::MAX, i64::MAX), "", NOW, ("lost", "\\N")),
        ("more than a chunk", (0, 9), &long, NOW, NO_GAP),
        ("more than a record", (0, 0), &pieces, NOW, NO_GAP),
        ("a time that no reader can hold", (0, 0), "x", "infinity", NO_GAP),
        ("the same", (0, 0), "x", "-infinity", NO_GAP),
        ("a time of another age", (0, 0), "x", "20000-01-01", NO_GAP),
        ("bytes missing of what is there", (0, 0), "x", NOW, ("\\N", "5")),
        ("a gap that is a text", (0, 0), &note, NOW, ("lost", "\\N")),
        ("a gap that gives bytes back", (0, 0), "", NOW, ("lost", "-1")),
        ("an unknown gap", (0, 0), "", NOW, ("because", "\\N")),
    ];
    for (what, numbers, text, ts, gap) in tried {
        let bad = full(&a, numbers, text, ts, gap);
        let batch = [full(&b, (0, 0), "x", NOW, NO_GAP), bad];
        let refused = reasons(copy_full(&mut runner, &batch).await.unwrap_err());
        assert_eq!(refused, [("malformed".to_owned(), -1)], "{what}");
    }
    // What an honest one makes at its bounds.
    let piece = "x".repeat(16_384);
    let chunk = "x".repeat(65_536);
    for (numbers, text, gap) in [
        ((0, 0), piece.as_str(), NO_GAP),
        ((1, 4), &chunk, NO_GAP),
        ((5, 6), "a\n", NO_GAP),
        ((7, 7), "[output lost]\n", ("overflow", "12")),
        ((8, 5_000_000_000), "", ("corrupt", "\\N")),
    ] {
        copy_full(&mut runner, &[full(&a, numbers, text, NOW, gap)]).await.unwrap();
    }
}

async fn set(fleet: &mut Fleet, settings: &str) {
    run(&mut fleet.operator, &format!("update tendril_core.settings set {settings}")).await;
}

fn quota_gap(claimed: &Claimed, seq: i64) -> String {
    full(claimed, (seq, seq), "[the rest is not stored: quota]\n", NOW, ("quota", "\\N"))
}

#[tokio::test]
async fn an_attempt_over_its_quota_is_refused_closed_by_one_gap_and_shown() {
    let mut fleet = Fleet::new().await;
    let (mut runner, a, b) = at_work(&mut fleet).await;
    set(&mut fleet, "log_attempt_bytes = 100000").await;
    let piece = "x".repeat(16_000);
    for seq in 0..6 {
        runner.append(&a, seq, seq, &piece).await.unwrap();
    }
    let batch = [row(&b, 0, 0, "other\n"), row(&a, 6, 6, &piece)];
    for _ in 0..2 {
        assert_eq!(reasons(runner.copy(&batch).await.unwrap_err()), [("quota".to_owned(), 5)]);
    }
    // What still fits is let in, to the byte.
    runner.append(&a, 6, 6, &"x".repeat(4000)).await.unwrap();
    assert_eq!(reasons(runner.append(&a, 7, 7, "x").await.unwrap_err()), [("quota".to_owned(), 6)]);
    // One gap closes it; the other stream's rows come with it. A gap with more behind it is none.
    let behind = [quota_gap(&a, 7), full(&a, (8, 8), "", NOW, ("lost", "\\N"))];
    assert_eq!(reasons(copy_full(&mut runner, &behind).await.unwrap_err()), [("quota".to_owned(), 6)]);
    copy_full(&mut runner, &[full(&b, (0, 0), "other\n", NOW, NO_GAP), quota_gap(&a, 7)]).await.unwrap();
    for rows in [[row(&a, 8, 8, "x")], [row(&a, 8, 8, "")]] {
        assert_eq!(reasons(runner.copy(&rows).await.unwrap_err())[0].1, 7);
    }
    assert_eq!(reasons(copy_full(&mut runner, &[quota_gap(&a, 8)]).await.unwrap_err()), [("quota".to_owned(), 7)]);
    let status: Value =
        one(&mut fleet.portal, &format!("select tendril.status('{}') -> 'logs'", a.deployment_id)).await;
    let over = |claimed: &Claimed| {
        let log = status.as_array().unwrap().iter().find(|log| log["attempt_id"] == json!(claimed.attempt_id));
        log.unwrap()["over_quota_at"].is_string()
    };
    assert_eq!((over(&a), over(&b)), (true, false));
    // The finish names the gap as the end, and the log is whole.
    runner.report(&a, json!({"outcome": "success", "log_end": 7})).await;
    assert_eq!(fleet.database.duty("log_windows").await, 1);
}

#[tokio::test]
async fn a_clusters_quota_of_the_day_counts_all_its_writers_and_nobody_elses() {
    let mut fleet = Fleet::new().await;
    let (mut runner, a, b) = at_work(&mut fleet).await;
    fleet.deploy_jobs(&[reading("c")]).await;
    let mut sibling = fleet.runner().await;
    sibling.take_over().await;
    let c = sibling.claim_one().await;
    set(&mut fleet, "log_day_bytes = 30000").await;
    let text = "x".repeat(10_000);
    runner.append(&a, 0, 0, &text).await.unwrap();
    sibling.append(&c, 0, 0, &text).await.unwrap();
    let batch = [row(&a, 1, 1, &text), row(&b, 0, 0, "x")];
    let both = [("quota".to_owned(), -1), ("quota".to_owned(), 0)];
    assert_eq!(reasons(runner.copy(&batch).await.unwrap_err()), both);
    // A gap that closes is let in, with nothing else.
    copy_full(&mut runner, &[quota_gap(&a, 1)]).await.unwrap();
    // What was refused did not count: the sibling may use what is left.
    sibling.append(&c, 1, 1, &text).await.unwrap();
    // It is looked at once per 1024th part of the quota that a writer stores.
    let some = "x".repeat(100);
    assert_eq!(reasons(sibling.append(&c, 2, 2, &some).await.unwrap_err()), [("quota".to_owned(), 1)]);
    // Another cluster, and the next day.
    let two = fleet.database.cluster("two").await;
    let mut stranger = fleet.runner_of(&two, &["kind=exec"]).await;
    stranger.take_over().await;
    let insert = format!(
        "insert into tendril.deployments (cluster_id, config_snapshot) values ('{}', '{}')",
        two.id,
        json!({"jobs": [reading("d")]})
    );
    run(&mut fleet.portal, &insert).await;
    let d = stranger.claim_one().await;
    stranger.append(&d, 0, 0, &text).await.unwrap();
    run(&mut fleet.operator, "update tendril_core.log_volume set day = day - 1").await;
    runner.append(&b, 0, 0, "x").await.unwrap();
    // None at all.
    set(&mut fleet, "log_day_bytes = 0, log_attempt_bytes = 0").await;
    runner.append(&b, 1, 1, &text).await.unwrap();
}

#[tokio::test]
async fn counting_costs_an_attempt_few_row_versions_however_often_it_writes() {
    let mut fleet = Fleet::new().await;
    let (mut runner, a, _) = at_work(&mut fleet).await;
    set(&mut fleet, "log_attempt_bytes = 100000000").await;
    for seq in 0..200 {
        runner.append(&a, 40 * seq, 40 * seq + 39, &"x\n".repeat(40)).await.unwrap();
    }
    let counted: i64 =
        one(&mut fleet.operator, "select count(*) + coalesce(max(bytes), 0) from tendril_core.log_usage").await;
    assert!(counted > 0, "8000 records could be 160 MB, so they were counted");
    let bytes: i64 = one(&mut fleet.operator, "select bytes from tendril_core.log_volume").await;
    assert_eq!(bytes, 200 * 80);
    // Nothing is forgotten while the log is open, and not kept when it is closed.
    fleet.database.duty("log_usage").await;
    assert_eq!(one::<i64>(&mut fleet.operator, "select count(*) from tendril_core.log_usage").await, 1);
    runner.report(&a, json!({"outcome": "success", "log_end": 7999})).await;
    fleet.database.duty("log_windows").await;
    assert_eq!(fleet.database.duty("log_usage").await, 1);
}

#[tokio::test]
async fn the_retry_after_midnight_is_the_same_row() {
    let mut fleet = Fleet::new().await;
    let (mut runner, a, b) = at_work(&mut fleet).await;
    // Claimed yesterday: the partition is that day's, whenever it is sent and whatever its ts.
    run(&mut fleet.operator, "update tendril_core.attempts set claim_day = claim_day - 1").await;
    let yesterday =
        |claimed: &Claimed| Claimed { claim_day: claimed.claim_day.previous_day().unwrap(), ..claimed.clone() };
    let (before, other) = (yesterday(&a), yesterday(&b));
    let at = |claimed: &Claimed, ts: &str| full(claimed, (0, 0), "x", ts, NO_GAP);
    copy_full(&mut runner, &[at(&before, "2026-01-01T23:59:59Z")]).await.unwrap();
    let again = copy_full(&mut runner, &[at(&before, "2026-01-02T00:00:01Z"), at(&other, NOW)]).await.unwrap_err();
    assert_eq!(refusal(again).sqlstate, "23505");
    // Tried: the day of sending as the partition.
    assert_eq!(reasons(copy_full(&mut runner, &[at(&a, NOW)]).await.unwrap_err()), [("unknown".to_owned(), -1)]);
    copy_full(&mut runner, &[at(&other, NOW)]).await.unwrap();
    let stored: i64 = one(&mut fleet.operator, "select count(*) from tendril.deployment_logs").await;
    assert_eq!(stored, 2);
}

#[tokio::test]
async fn what_was_superseded_and_closed_is_listed_beside_what_is_foreign_and_all_others_land() {
    let mut fleet = Fleet::new().await;
    fleet.deploy_jobs(&["a", "b", "c", "d"].map(reading)).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim(4).await;
    runner.take_over().await;
    let [a, b, c, d] = claimed.as_slice() else { panic!("{claimed:?}") };
    let mut foreign = a.clone();
    foreign.attempt_id = crate::fleet::id();
    runner.append(b, 0, 0, "x").await.unwrap();
    let close = format!(
        "update tendril_core.attempts set superseded_at = clock_timestamp(), log_state = 'incomplete' where id = '{}'",
        b.attempt_id
    );
    run(&mut fleet.operator, &close).await;
    let good = [row(c, 0, 0, "x"), row(d, 0, 0, "x")];
    let bad = [row(&foreign, 0, 0, "x"), row(b, 1, 1, "x"), row(a, 3, 3, "x")];
    let refused = reasons(runner.copy(&[good.as_slice(), &bad].concat()).await.unwrap_err());
    let listed = [("closed".to_owned(), 0), ("position".to_owned(), -1), ("unknown".to_owned(), -1)];
    assert_eq!(refused, listed);
    // One more flush.
    runner.copy(&good).await.unwrap();
}

#[tokio::test]
async fn a_writer_of_another_cluster_is_no_writer() {
    let mut fleet = Fleet::new().await;
    let (mut runner, a, _) = at_work(&mut fleet).await;
    let two = fleet.database.cluster("two").await;
    let mut stranger = fleet.runner_of(&two, &["kind=exec"]).await;
    stranger.take_over().await;
    // Tried: each other's writer and epoch, with rows of its own and of the other; a number that no epoch can be.
    for writer in [
        format!("{}:{}", stranger.writer, stranger.epoch),
        format!("{}:999999999999999999", runner.writer),
        format!("{}:-1", runner.writer),
    ] {
        run(&mut runner.session, "begin").await;
        let error = copy_as(&mut runner.session, &writer, &[row(&a, 0, 0, "x")]).await.unwrap_err();
        assert_eq!(refusal(error).sqlstate, "TD009", "{writer}");
        run(&mut runner.session, "rollback").await;
    }
    run(&mut stranger.session, "begin").await;
    let writer = format!("{}:{}", runner.writer, runner.epoch);
    let error = copy_as(&mut stranger.session, &writer, &[row(&a, 0, 0, "x")]).await.unwrap_err();
    assert_eq!(refusal(error).sqlstate, "TD009");
    run(&mut stranger.session, "rollback").await;
    runner.append(&a, 0, 0, "x").await.unwrap();
}

#[tokio::test]
async fn an_open_copy_of_a_ghost_cannot_land_and_holds_nobody_up() {
    let mut fleet = Fleet::new().await;
    let (mut ghost, a, b) = at_work(&mut fleet).await;
    // Its client has gone, in the middle of a COPY: rows are with the server, and no end.
    run(&mut ghost.session, "begin").await;
    let writer = format!("{}:{}", ghost.writer, ghost.epoch);
    run(&mut ghost.session, &format!("select set_config('tendril.writer', '{writer}', true)")).await;
    let mut copy = ghost.session.copy_in_raw(crate::fleet::COPY).await.unwrap();
    let rows: String = (0..2000).map(|seq| row(&a, seq, seq, "from the ghost\n")).collect();
    copy.send(rows.as_bytes()).await.unwrap();
    let session = fleet.database.runner(fleet.cluster.token.reveal()).await;
    let mut heir = Runner { session, id: ghost.id, writer: ghost.writer, claim_no: 1, epoch: 0 };
    run(&mut heir.session, "set statement_timeout = '5s'").await;
    heir.take_over().await;
    heir.copy(&[row(&a, 0, 0, "sent again\n"), row(&b, 0, 0, "x\n")]).await.unwrap();
    assert!(copy.finish().await.is_err(), "the ghost's session is ended");
    // Taken over once more by the same session: batches of the epoch before are a ghost's, too.
    let old = heir.epoch;
    heir.take_over().await;
    run(&mut heir.session, "begin").await;
    let forged = format!("{}:{old}", heir.writer);
    let error = copy_as(&mut heir.session, &forged, &[row(&a, 1, 1, "x")]).await.unwrap_err();
    assert_eq!(refusal(error).sqlstate, "TD009");
    run(&mut heir.session, "rollback").await;
    let text: String =
        one(&mut fleet.portal, "select string_agg(log_chunk, '' order by job) from tendril.deployment_logs").await;
    assert_eq!(text, "sent again\nx\n");
}

#[tokio::test]
async fn log_text_is_kept_by_lz4_where_the_server_has_it_and_a_day_in_use_is_left_alone() {
    let mut fleet = Fleet::new().await;
    let has_lz4 = "select 'lz4' = any (enumvals) from pg_settings where name = 'default_toast_compression'";
    let has_lz4: bool = one(&mut fleet.operator, has_lz4).await;
    let days = "from pg_partition_tree('tendril.log_inbox') t join pg_attribute a on a.attrelid = t.relid and a.attname = 'log_chunk' where t.isleaf";
    let by_lz4 = format!("select count(*) filter (where a.attcompression = 'l') {days}");
    let all: i64 = one(&mut fleet.operator, &format!("select count(*) {days}")).await;
    assert_eq!(one::<i64>(&mut fleet.operator, &by_lz4).await, if has_lz4 { all } else { 0 });

    let further = "update tendril_core.settings set partitions_ahead = partitions_ahead + 2; select tendril_core.ensure_partitions()";
    run(&mut fleet.operator, further).await;
    assert_eq!(one::<i64>(&mut fleet.operator, &by_lz4).await, if has_lz4 { all + 2 } else { 0 });

    // The migration once more, on days as they were before it, while somebody stores rows of today.
    let before = format!(
        "do $$ declare d regclass; begin for d in select t.relid {days} loop
           execute format('alter table %s alter log_chunk set compression pglz', d); end loop; end $$"
    );
    run(&mut fleet.operator, &before).await;
    let mut storing = fleet.database.operator().await;
    let today = "'tendril_core.log_day_' || to_char(clock_timestamp() at time zone 'UTC', 'YYYYMMDD')";
    let hold = format!("begin; do $$ begin execute 'lock table ' || {today} || ' in row exclusive mode'; end $$");
    run(&mut storing, &hold).await;
    run(&mut fleet.operator, include_str!("../../migrations/0031_log_compression.sql")).await;
    assert_eq!(one::<i64>(&mut fleet.operator, &by_lz4).await, if has_lz4 { all + 1 } else { 0 });
}
