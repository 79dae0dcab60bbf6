//! The one door for log rows: what it lets in, what it refuses, and who waits for whom.

use serde_json::{Value, json};
use sqlx::Connection;
use tendril_broker::portal::{Event, Watch};

use crate::fleet::{Claimed, Fleet, Runner, copy_as, exec, id, one, reading, refusal, row, run, sqlstate};

/// A runner with two jobs in hand and its log writer taken over.
pub async fn at_work(fleet: &mut Fleet) -> (Runner, Claimed, Claimed) {
    fleet.deploy_jobs(&[reading("a"), reading("b")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim(2).await;
    runner.take_over().await;
    (runner, claimed[0].clone(), claimed[1].clone())
}

/// Reasons by attempt of a refused batch.
pub fn reasons(error: sqlx::Error) -> Vec<(String, i64)> {
    let refusal = refusal(error);
    assert_eq!(refusal.sqlstate, "TD009", "{refusal:?}");
    let detail: Value = serde_json::from_str(&refusal.detail.unwrap()).unwrap();
    let mut reasons: Vec<_> = detail
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["reason"].as_str().unwrap().to_owned(), r["stored"].as_i64().unwrap()))
        .collect();
    reasons.sort();
    reasons
}

#[tokio::test]
async fn batches_are_stored_once_in_order_and_read_by_position() {
    let mut fleet = Fleet::new().await;
    let (mut runner, a, b) = at_work(&mut fleet).await;
    runner.copy(&[row(&a, 0, 1, "one\ntwo\n"), row(&b, 0, 0, "other\n"), row(&a, 2, 2, "three\n")]).await.unwrap();
    runner.append(&a, 3, 5, "four\n").await.unwrap();
    let page = |position: Value| {
        format!(
            "select coalesce(string_agg(seq || '-' || seq_to || '=' || log_chunk, '|' order by seq), '')
               from tendril.logs_after('{}', '{position}') where job = 'a'",
            a.deployment_id
        )
    };
    let all: String = one(&mut fleet.portal, &page(json!({}))).await;
    assert_eq!(all, "0-1=one\ntwo\n|2-2=three\n|3-5=four\n");
    let rest: String = one(&mut fleet.portal, &page(json!({a.attempt_id.to_string(): 2}))).await;
    assert_eq!(rest, "3-5=four\n");
    // The same rows from the table itself, stamped with the runner's cluster.
    let root: i64 = one(
        &mut fleet.portal,
        &format!("select count(*) from tendril.deployment_logs where cluster_id = '{}'", fleet.cluster.id),
    )
    .await;
    assert_eq!(root, 4);
    for bad in [json!([]), json!("x"), json!({a.attempt_id.to_string(): "x"}), json!({a.attempt_id.to_string(): 1.5})] {
        assert_eq!(sqlstate(&mut fleet.portal, &page(bad.clone())).await, "TD001", "{bad}");
    }
}

#[tokio::test]
async fn a_batch_is_refused_as_a_whole_with_every_reason_and_the_stored_positions() {
    let mut fleet = Fleet::new().await;
    let (mut runner, a, b) = at_work(&mut fleet).await;
    runner.append(&a, 0, 4, "xxxxx").await.unwrap();
    // Tried: a hole behind what is stored, a hole within, a gap at the beginning.
    assert_eq!(reasons(runner.append(&a, 6, 6, "x").await.unwrap_err()), [("position".into(), 4)]);
    let holed = [row(&a, 5, 5, "x"), row(&a, 7, 7, "x"), row(&b, 1, 1, "x")];
    assert_eq!(reasons(runner.copy(&holed).await.unwrap_err()), [("gap".into(), 4), ("position".into(), -1)]);
    // Rows that overlap without the same key.
    assert_eq!(reasons(runner.append(&a, 3, 9, "xxxxxxx").await.unwrap_err()), [("position".into(), 4)]);
    // The same row twice comes before the check: the runner asks for the positions then.
    assert_eq!(refusal(runner.append(&a, 0, 4, "xxxxx").await.unwrap_err()).sqlstate, "23505");
    let stored: i64 = one(
        &mut runner.session,
        &format!("select stored from tendril.log_positions('{}') where attempt_id = '{}'", runner.writer, a.attempt_id),
    )
    .await;
    assert_eq!(stored, 4);
    // Numbers that go backwards within a row.
    assert_eq!(refusal(runner.append(&a, 6, 5, "x").await.unwrap_err()).sqlstate, "23514");
    runner.copy(&[row(&a, 5, 5, "x"), row(&b, 0, 0, "x")]).await.unwrap();
}

#[tokio::test]
async fn forged_rows_are_refused_and_look_like_absent_ones() {
    let mut fleet = Fleet::new().await;
    let (mut runner, a, b) = at_work(&mut fleet).await;
    let two = fleet.database.cluster("two").await;
    let mut stranger = fleet.runner_of(&two, &["kind=exec"]).await;
    stranger.take_over().await;
    let mut sibling = fleet.runner().await;
    sibling.take_over().await;
    type Forge = fn(&mut Claimed);
    let forged: [(&str, Forge); 6] = [
        ("attempt", |c| c.attempt_id = id()),
        ("fence", |c| c.fence += 1),
        ("deployment", |c| c.deployment_id = id()),
        ("day", |c| c.claim_day = c.claim_day.next_day().unwrap()),
        ("job", |c| c.job = "b".into()),
        ("ordinal", |c| c.ordinal = 2),
    ];
    for (what, forge) in forged {
        let mut row_of = a.clone();
        forge(&mut row_of);
        // Alone, and hidden between good rows.
        assert_eq!(
            reasons(runner.append(&row_of, 0, 0, "x").await.unwrap_err()),
            [("unknown".into(), -1)],
            "forged {what}"
        );
        let batch = [row(&b, 0, 0, "x"), row(&row_of, 0, 0, "x"), row(&b, 1, 1, "x")];
        assert_eq!(reasons(runner.copy(&batch).await.unwrap_err()), [("unknown".into(), -1)], "forged {what}");
    }
    // Another cluster's attempt, and a sibling's of one's own cluster: only whose writer it is may append.
    for other in [&mut stranger, &mut sibling] {
        assert_eq!(reasons(other.append(&a, 0, 0, "x").await.unwrap_err()), [("unknown".into(), -1)]);
    }
    // Another day far away has no partition.
    let mut far = a.clone();
    far.claim_day = "2020-01-01".parse_date();
    assert_eq!(refusal(runner.append(&far, 0, 0, "x").await.unwrap_err()).sqlstate, "23514");
    let stored: i64 = one(&mut fleet.operator, "select count(*) from tendril.deployment_logs").await;
    assert_eq!(stored, 0);
}

trait ParseDate {
    fn parse_date(&self) -> sqlx::types::time::Date;
}

impl ParseDate for str {
    fn parse_date(&self) -> sqlx::types::time::Date {
        let parts: Vec<u16> = self.split('-').map(|part| part.parse().unwrap()).collect();
        let month = u8::try_from(parts[1]).unwrap().try_into().unwrap();
        sqlx::types::time::Date::from_calendar_date(parts[0].into(), month, u8::try_from(parts[2]).unwrap()).unwrap()
    }
}

#[tokio::test]
async fn a_batch_must_say_whose_it_is_and_be_of_the_newest_epoch_and_session() {
    let mut fleet = Fleet::new().await;
    let (mut runner, a, _) = at_work(&mut fleet).await;
    let good = format!("{}:{}", runner.writer, runner.epoch);
    let foreign = fleet.runner().await.writer;
    for writer in [
        "",
        "nonsense",
        &format!("{foreign}:1"),
        &format!("{}:7", runner.writer),
        &format!("{}:0", runner.writer),
        &format!("{}:", runner.writer),
    ] {
        let mut transaction = runner.session.begin().await.unwrap();
        let error = copy_as(&mut transaction, writer, &[row(&a, 0, 0, "x")]).await.unwrap_err();
        assert_eq!(refusal(error).sqlstate, "TD009", "{writer:?}");
    }
    // The right word from another session of the same cluster.
    let mut session = fleet.database.runner(fleet.cluster.token.reveal()).await;
    let mut transaction = session.begin().await.unwrap();
    let error = copy_as(&mut transaction, &good, &[row(&a, 0, 0, "x")]).await.unwrap_err();
    let detail = refusal(error).detail.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&detail).unwrap(), json!({"writer": "superseded"}));
    runner.append(&a, 0, 0, "x").await.unwrap();
}

#[tokio::test]
async fn a_closed_log_takes_nothing_and_an_end_is_an_end() {
    let mut fleet = Fleet::new().await;
    let (mut runner, a, b) = at_work(&mut fleet).await;
    runner.append(&a, 0, 2, "xxx").await.unwrap();
    // The finish may come before the last rows.
    runner.report(&a, json!({"outcome": "success", "log_end": 3})).await;
    runner.report(&b, json!({"outcome": "success", "log_end": -1})).await;
    assert_eq!(fleet.database.duty("log_windows").await, 1, "b printed nothing and is complete");
    assert_eq!(reasons(runner.append(&a, 3, 4, "xx").await.unwrap_err()), [("beyond_end".into(), 2)]);
    runner.append(&a, 3, 3, "x").await.unwrap();
    assert_eq!(fleet.database.duty("log_windows").await, 1);
    assert_eq!(reasons(runner.append(&a, 4, 4, "x").await.unwrap_err()), [("closed".into(), 3)]);
    let states: Vec<String> = fleet.state(a.deployment_id).await.logs.into_iter().map(|l| l.log_state).collect();
    assert_eq!(states, ["complete", "complete"]);
}

#[tokio::test]
async fn a_lost_attempt_may_append_until_its_window_closes() {
    let mut fleet = Fleet::new().await;
    let (mut runner, a, _) = at_work(&mut fleet).await;
    fleet.lose(&runner).await;
    runner.append(&a, 0, 0, "what I saw").await.unwrap();
    assert_eq!(fleet.database.duty("log_windows").await, 0, "its end is not known");
    run(&mut fleet.operator, "update tendril_core.attempts set superseded_at = clock_timestamp() - interval '25 h'")
        .await;
    assert_eq!(fleet.database.duty("log_windows").await, 2);
    assert_eq!(reasons(runner.append(&a, 1, 1, "x").await.unwrap_err()), [("closed".into(), 0)]);
}

#[tokio::test]
async fn logs_that_wait_do_not_hide_those_that_can_be_closed() {
    let mut fleet = Fleet::new().await;
    let jobs: Vec<Value> = (0..200).map(|n| reading(&format!("j{n}"))).collect();
    fleet.deploy_jobs(&jobs).await;
    fleet.deploy_jobs(&[reading("last")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim(201).await;
    let last = claimed.into_iter().find(|claimed| claimed.job == "last").unwrap();
    fleet.lose(&runner).await;
    // 201 logs whose end nobody has told, and one that is told.
    runner.finish(&last, "success").await;
    assert_eq!(fleet.database.duty("log_windows").await, 1);
}

#[tokio::test]
async fn a_takeover_ends_the_ghost_and_what_it_had_not_committed() {
    let mut fleet = Fleet::new().await;
    let (mut ghost, a, _) = at_work(&mut fleet).await;
    // A session that its client has given up on, with rows of an uncommitted COPY.
    let writer = format!("{}:{}", ghost.writer, ghost.epoch);
    run(&mut ghost.session, "begin").await;
    copy_as(&mut ghost.session, &writer, &[row(&a, 0, 0, "from the ghost")]).await.unwrap();
    let session = fleet.database.runner(fleet.cluster.token.reveal()).await;
    let mut heir = Runner { session, id: ghost.id, writer: ghost.writer, claim_no: 1, epoch: 0 };
    heir.take_over().await;
    assert_eq!(heir.epoch, ghost.epoch + 1);
    heir.append(&a, 0, 0, "sent again").await.unwrap();
    assert!(sqlx::raw_sql("commit").execute(&mut ghost.session).await.is_err(), "the ghost's session is ended");
    let text: String = one(&mut fleet.portal, "select string_agg(log_chunk, '|') from tendril.deployment_logs").await;
    assert_eq!(text, "sent again");
}

#[tokio::test]
async fn a_takeover_of_somebody_elses_writer_is_refused_and_ends_nobody() {
    let mut fleet = Fleet::new().await;
    let (mut runner, a, _) = at_work(&mut fleet).await;
    let two = fleet.database.cluster("two").await;
    let mut stranger = fleet.runner_of(&two, &["kind=exec"]).await;
    assert_eq!(
        sqlstate(&mut stranger.session, &format!("select tendril.log_takeover('{}')", runner.writer)).await,
        "TD002"
    );
    let none: i64 =
        one(&mut stranger.session, &format!("select count(*) from tendril.log_positions('{}')", runner.writer)).await;
    assert_eq!(none, 0);
    runner.append(&a, 0, 0, "x").await.unwrap();
}

#[tokio::test]
async fn one_tenants_open_copy_blocks_nobody_even_with_anothers_ids() {
    let mut fleet = Fleet::new().await;
    let (mut runner, a, _) = at_work(&mut fleet).await;
    let two = fleet.database.cluster("two").await;
    let mut stranger = fleet.runner_of(&two, &["kind=exec"]).await;
    stranger.take_over().await;
    // Rows with the victim's ids are on their way; the check comes at the end of the COPY, which does not come.
    run(&mut stranger.session, "begin").await;
    run(
        &mut stranger.session,
        &format!("select set_config('tendril.writer', '{}:{}', true)", stranger.writer, stranger.epoch),
    )
    .await;
    let mut copy = stranger.session.copy_in_raw(crate::fleet::COPY).await.unwrap();
    let rows: String = (0..2000).map(|seq| row(&a, seq, seq, "theirs")).collect();
    copy.send(rows.as_bytes()).await.unwrap();
    // The victim's own rows with the same attempt and numbers, a new partition, readers, and the operator.
    run(&mut runner.session, "set statement_timeout = '5s'; set lock_timeout = '5s'").await;
    runner.append(&a, 0, 0, "ours").await.unwrap();
    run(
        &mut fleet.operator,
        "set statement_timeout = '5s'; update tendril_core.settings set partitions_ahead = partitions_ahead + 1",
    )
    .await;
    assert_eq!(fleet.database.duty("partitions").await, 1);
    let seen: String = one(&mut fleet.portal, "select string_agg(log_chunk, '|') from tendril.deployment_logs").await;
    assert_eq!(seen, "ours");
    let error = copy.finish().await.unwrap_err();
    assert_eq!(reasons(error), [("unknown".into(), -1)]);
}

#[tokio::test]
async fn the_check_takes_no_lock_that_makes_a_heartbeat_wait() {
    let mut fleet = Fleet::new().await;
    fleet.deploy_jobs(&[reading("a"), reading("b")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim(2).await;
    let (a, b) = (&claimed[0], &claimed[1]);
    // The log writer has a session of its own, and a batch in it that is checked and not committed.
    let session = fleet.database.runner(fleet.cluster.token.reveal()).await;
    let mut logs = Runner { session, id: runner.id, writer: runner.writer, claim_no: 0, epoch: 0 };
    logs.take_over().await;
    run(&mut logs.session, "begin").await;
    let writer = format!("{}:{}", logs.writer, logs.epoch);
    copy_as(&mut logs.session, &writer, &[row(a, 0, 0, "x")]).await.unwrap();
    run(&mut runner.session, "set statement_timeout = '5s'").await;
    let reply = runner.heartbeat(&[a, b]).await;
    assert_eq!(reply["held"].as_array().unwrap().len(), 2);
    assert_eq!(fleet.database.duty("log_windows").await, 0);
    run(&mut logs.session, "commit").await;
}

#[tokio::test]
async fn a_gap_is_a_row_of_its_own() {
    let mut fleet = Fleet::new().await;
    let (mut runner, a, _) = at_work(&mut fleet).await;
    run(
        &mut runner.session,
        &format!("begin; select set_config('tendril.writer', '{}:{}', true)", runner.writer, runner.epoch),
    )
    .await;
    let sql = format!(
        "insert into tendril.log_inbox (deployment_id, attempt_id, fence, claim_day, job, attempt, seq, seq_to, stream, log_chunk, ts, gap_kind, gap_bytes)
         values ('{}', '{}', {}, '{}', 'a', 1, 0, 9, 'stdout', '', now(), 'capped', 12345)",
        a.deployment_id, a.attempt_id, a.fence, a.claim_day
    );
    run(&mut runner.session, &sql).await;
    run(&mut runner.session, "commit").await;
    let gap: String =
        one(&mut fleet.portal, &format!("select gap_kind || gap_bytes from tendril.logs_after('{}')", a.deployment_id))
            .await;
    assert_eq!(gap, "capped12345");
}

#[tokio::test]
async fn artifacts_are_stored_once_and_bounded() {
    let mut fleet = Fleet::new().await;
    fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    let a = runner.claim_one().await;
    let put = |name: &str, data: &str| {
        format!("select tendril.runner_artifact_put('{}', {}, '{name}', 'text/plain', {data})", a.attempt_id, a.fence)
    };
    let first: uuid::Uuid = one(&mut runner.session, &put("plan", "'one'")).await;
    let again: uuid::Uuid = one(&mut runner.session, &put("plan", "'two'")).await;
    assert_eq!(first, again);
    let get = format!(
        "select convert_from(data, 'UTF8') || '/' || sha256 from tendril.runner_artifact_get('{}', 'plan')",
        a.attempt_id
    );
    let stored: String = one(&mut runner.session, &get).await;
    assert_eq!(stored, "one/7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed");
    for (bad, code) in [
        (put("Plan", "'x'"), "TD001"),
        (put("../x", "'x'"), "TD001"),
        (put("large", "convert_to(repeat('x', 33554433), 'UTF8')"), "TD011"),
        (format!("select tendril.runner_artifact_put('{}', 0, 'x', 'x', 'x')", a.attempt_id), "TD002"),
        (format!("select tendril.runner_artifact_get('{}', 'none')", a.attempt_id), "TD002"),
    ] {
        assert_eq!(sqlstate(&mut runner.session, &bad).await, code, "{}", &bad[..90]);
    }
    for n in 1..32 {
        run(&mut runner.session, &put(&format!("n{n}"), "'x'")).await;
    }
    assert_eq!(sqlstate(&mut runner.session, &put("one-too-many", "'x'")).await, "TD011");
    run(&mut runner.session, &put("plan", "'three'")).await;
}

#[tokio::test]
async fn whoever_watches_learns_of_a_jobs_end_after_its_last_line() {
    let mut fleet = Fleet::new().await;
    let (mut runner, a, b) = at_work(&mut fleet).await;
    runner.append(&a, 0, 0, "first\n").await.unwrap();
    let mut watch = Watch::new(a.deployment_id);
    let told = |events: Vec<Event>| -> Vec<String> {
        let words = events.iter().map(|event| match event {
            Event::Status(state) => state.status.clone(),
            Event::Job(job) => format!("{} {}", job.name, job.state),
            Event::Log(chunk) => chunk.log_chunk.trim_end().to_owned(),
            Event::Away(error, _) => error.to_string(),
            Event::End(ending) => format!("end, logs complete: {}", ending.logs_complete),
        });
        words.collect()
    };
    let begun = told(watch.next(&mut fleet.portal).await.unwrap());
    assert_eq!(begun, ["PROCESSING", "a STARTED", "b STARTED", "first"]);

    // Both have ended, but rows of one are still on their way.
    runner.finish(&b, "success").await;
    runner.report(&a, json!({"outcome": "success", "log_end": 2})).await;
    runner.append(&a, 1, 1, "second\n").await.unwrap();
    assert_eq!(told(watch.next(&mut fleet.portal).await.unwrap()), ["second"]);
    runner.append(&a, 2, 2, "third\n").await.unwrap();
    let ended = told(watch.next(&mut fleet.portal).await.unwrap());
    assert_eq!(ended, ["third", "SUCCESS", "a SUCCESS", "b SUCCESS", "end, logs complete: true"]);
}
