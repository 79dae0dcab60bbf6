//! Closed logs to archive, and days long ago.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;
use tendril_broker::archive::{self, Archive, Archived, Sizes};
use tendril_broker::portal::logs::{LogChunk, LogReader};
use uuid::Uuid;

use crate::fleet::{Claimed, Fleet, Runner, id, one, reading, row, run};

/// Frames and pages so small that a short log has several.
pub const SMALL: Sizes = Sizes { frame: 2000, page: 3000, part: 1 << 20 };

/// Text that compresses badly, in lines, with what JSON has to escape.
pub fn text(seed: u64, lines: usize) -> Vec<String> {
    let mut state = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let line = |number| format!("{number} \u{1b}[32m\"ä\" {:016x}{:016x}{:016x}\u{1b}[0m\n", next(), next(), next());
    (0..lines).map(line).collect()
}

/// 20 KB that hardly compress.
pub fn noise(seed: i64) -> String {
    let mut state = u64::try_from(seed + 1).unwrap().wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'0' + u8::try_from(state >> 32 & 63).unwrap())
    };
    let text: String = (0..20_000).map(next).collect();
    text.replace('\\', "/") + "\n"
}

/// A runner that has claimed one reading job and may append.
pub async fn at_work(fleet: &mut Fleet) -> (Runner, Claimed) {
    fleet.deploy_jobs(&[reading("a")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    runner.take_over().await;
    (runner, claimed)
}

/// A closed log of so many lines; two lines to a row.
pub async fn closed_log(fleet: &mut Fleet, lines: usize) -> Claimed {
    let (mut runner, claimed) = at_work(fleet).await;
    print(&mut runner, &claimed, lines).await;
    close(fleet, &mut runner, &claimed, lines).await;
    claimed
}

/// Stores so many lines, two to a row.
pub async fn print(runner: &mut Runner, claimed: &Claimed, lines: usize) {
    let lines = text(u64::try_from(claimed.fence).unwrap(), lines);
    let mut seq = 0;
    let mut rows = Vec::new();
    for pair in lines.chunks(2) {
        let to = seq + i64::try_from(pair.len()).unwrap() - 1;
        rows.push(row(claimed, seq, to, &pair.concat().replace('\\', "\\\\")));
        seq = to + 1;
    }
    if !rows.is_empty() {
        runner.copy(&rows).await.unwrap();
    }
}

/// Finishes and closes it.
pub async fn close(fleet: &Fleet, runner: &mut Runner, claimed: &Claimed, lines: usize) {
    let end = i64::try_from(lines).unwrap() - 1;
    runner.report(claimed, serde_json::json!({"outcome": "success", "log_end": end})).await;
    assert_eq!(fleet.database.duty("log_windows").await, 1);
}

pub async fn pool(fleet: &Fleet) -> PgPool {
    PgPool::connect(&fleet.database.url()).await.unwrap()
}

/// Archives all that is due.
pub async fn archive_all(fleet: &Fleet, archive: &Archive, sizes: Sizes) -> Vec<Archived> {
    let pool = pool(fleet).await;
    let mut done = Vec::new();
    loop {
        let claim = id();
        let logs = archive::claim(&pool, claim, std::time::Duration::from_secs(600), 1).await.unwrap();
        let Some(log) = logs.first() else {
            pool.close().await;
            return done;
        };
        done.push(archive::archive(&pool, archive, log, claim, sizes).await.unwrap());
    }
}

/// All of a deployment's log as a reader gets it.
pub async fn read_all(fleet: &mut Fleet, mut reader: LogReader) -> (Vec<LogChunk>, LogReader) {
    let mut all = Vec::new();
    loop {
        let (chunks, more) = reader.next(&mut fleet.portal).await.unwrap();
        all.extend(chunks);
        if !more {
            return (all, reader);
        }
    }
}

/// What two readings have to agree in.
pub fn told(chunks: &[LogChunk]) -> Vec<String> {
    chunks.iter().map(|chunk| serde_json::to_string(chunk).unwrap()).collect()
}

/// Makes an attempt's log, open or closed, one of so many days ago.
pub async fn age(fleet: &mut Fleet, claimed: &mut Claimed, days: i64) -> String {
    let day: String = one(
        &mut fleet.operator,
        &format!("select to_char((clock_timestamp() at time zone 'UTC')::date - {days}, 'YYYY-MM-DD')"),
    )
    .await;
    let name = format!("tendril_core.log_day_{}", day.replace('-', ""));
    let exists: bool = one(&mut fleet.operator, &format!("select to_regclass('{name}') is not null")).await;
    if !exists {
        let make = format!(
            "create table {name} (like tendril.log_inbox including defaults including constraints including comments);
             alter table tendril.log_inbox attach partition {name} for values from ('{day}') to (date '{day}' + 1)"
        );
        run(&mut fleet.operator, &make).await;
    }
    let attempt = claimed.attempt_id;
    for table in ["tendril_core.attempts", "tendril.log_inbox", "tendril_core.log_archives"] {
        let column = if table.ends_with("attempts") { "id" } else { "attempt_id" };
        run(&mut fleet.operator, &format!("update {table} set claim_day = '{day}' where {column} = '{attempt}'")).await;
    }
    claimed.claim_day =
        sqlx::query_scalar(AssertSqlSafe(format!("select date '{day}'"))).fetch_one(&mut fleet.operator).await.unwrap();
    name
}

/// Lets a replica look for days to remove now.
pub async fn removal_is_due(fleet: &mut Fleet) {
    run(&mut fleet.operator, "update tendril_core.log_upkeep set removal_at = '-infinity'").await;
}

/// Says where logs go, as `serve` does.
pub async fn announce(fleet: &mut Fleet) {
    run(&mut fleet.operator, "select tendril_core.archive_announce('s3://logs/p')").await;
}

pub async fn state_of(fleet: &mut Fleet, attempt: Uuid) -> String {
    one(&mut fleet.operator, &format!("select state from tendril_core.log_archives where attempt_id = '{attempt}'"))
        .await
}
