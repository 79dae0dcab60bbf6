//! The session through which runners store log rows: what becomes of a batch that was given up or refused, and what the
//! session is good for after it.

use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::PgConnection;
use sqlx::types::time::{Date, OffsetDateTime};
use tendril_broker::connect::{Address, Connector};
use tendril_broker::runner::{BrokerError, Lease, LogRow, LogWriter, Written};
use tendril_broker::token::AgentToken;

use crate::fleet::{Claimed, Fleet, Runner, id, one, reading, run};

const PATIENCE: Duration = Duration::from_secs(60);
/// Nobody waits so long for a row that somebody holds.
const SHORT: Duration = Duration::from_millis(50);

/// How runners of the fleet's cluster reach the broker.
fn connector(fleet: &Fleet) -> Connector {
    let token: AgentToken = fleet.cluster.token.reveal().parse().unwrap();
    let url = fleet.database.runner_url(fleet.cluster.token.reveal());
    let (_, host) = url.rsplit_once('@').unwrap();
    Address::parse(&format!("postgres://{host}")).unwrap().connector(&token).unwrap()
}

/// A runner with two jobs in hand.
async fn at_work(fleet: &mut Fleet) -> (Runner, Claimed, Claimed) {
    fleet.deploy_jobs(&[reading("a"), reading("b")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim(2).await;
    (runner, claimed[0].clone(), claimed[1].clone())
}

/// Records of an attempt, each in a row of its own, that say their number.
struct Lines<'a> {
    of: &'a Claimed,
    first: i64,
    texts: Vec<String>,
}

impl<'a> Lines<'a> {
    fn new(of: &'a Claimed, numbers: std::ops::Range<i64>) -> Self {
        Self { of, first: numbers.start, texts: numbers.map(|number| format!("line {number}\n")).collect() }
    }

    fn rows(&self) -> Vec<LogRow<'_>> {
        let row = |(number, text)| {
            let of = self.of;
            LogRow {
                deployment_id: of.deployment_id,
                lease: Lease { attempt_id: of.attempt_id, fence: of.fence },
                claim_day: of.claim_day,
                job: &of.job,
                attempt: of.ordinal,
                seq: number,
                seq_to: number,
                stream: "stdout",
                text,
                ts: OffsetDateTime::UNIX_EPOCH,
                gap_kind: None,
                gap_bytes: None,
            }
        };
        (self.first..).zip(self.texts.iter().map(String::as_str)).map(row).collect()
    }
}

/// What is stored of an attempt, in its order, and how many rows that is.
async fn stored(fleet: &mut Fleet, of: &Claimed) -> (String, i64) {
    let of = format!("from tendril.deployment_logs where attempt_id = '{}'", of.attempt_id);
    let text = format!("select coalesce(string_agg(log_chunk, '' order by seq), '') {of}");
    (one(&mut fleet.portal, &text).await, one(&mut fleet.portal, &format!("select count(*) {of}")).await)
}

/// Keeps all log writers' rows until its transaction ends: no batch passes its check, and no session takes a writer over.
async fn hold_writers(fleet: &Fleet) -> PgConnection {
    let mut holder = fleet.database.operator().await;
    run(&mut holder, "begin; select from tendril_core.log_writers for no key update").await;
    holder
}

/// Until so many sessions are where `what` says.
async fn until(fleet: &mut Fleet, count: i64, what: &str) {
    let sql = format!(
        "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and {what}"
    );
    let seen = async {
        while one::<i64>(&mut fleet.operator, &sql).await != count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("not {count} sessions: {what}"));
}

const CHECKED: &str = "query like '-- log_copy%' and wait_event_type = 'Lock'";
const TAKING_OVER: &str = "query like '-- log_takeover%' and wait_event_type = 'Lock'";
const LOG_SESSIONS: &str = "application_name like 'tendril-runner logs%'";

/// When the writer's row is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Release {
    /// Before the next session begins, which comes when nothing is left of the one before.
    LongBefore,
    /// Before the next session begins, which comes at once.
    Before,
    /// While the next session waits for it.
    After,
}

/// Sends a batch that cannot pass, and gives it up: when its patience ends, wherever it is by then, or once all of it is at
/// the server, the COMMIT too, and waits in the check.
async fn give_up(fleet: &mut Fleet, mut session: LogWriter, rows: &[LogRow<'_>], at_the_check: bool) {
    if at_the_check {
        tokio::select! {
            written = session.write(rows, 10 * PATIENCE) => panic!("nobody may pass: {written:?}"),
            () = until(fleet, 1, CHECKED) => {}
        }
    } else {
        let error = session.write(rows, SHORT).await.unwrap_err();
        assert!(matches!(error, BrokerError::Unavailable(_)) && error.is_passing(), "{error}");
    }
}

#[tokio::test]
async fn rows_of_a_batch_that_was_given_up_stand_once_and_in_order_whenever_its_commit_gets_through() {
    // Tried: the six ways in which a batch can be given up and the row that it waits for be let go.
    for (release, at_the_check) in
        [Release::LongBefore, Release::Before, Release::After].into_iter().flat_map(|one| [(one, false), (one, true)])
    {
        let mut fleet = Fleet::new().await;
        let (runner, a, _) = at_work(&mut fleet).await;
        let connector = connector(&fleet);
        let mut ghost = LogWriter::take_over(&connector, runner.writer).await.unwrap();
        assert_eq!(ghost.write(&Lines::new(&a, 0..2).rows(), PATIENCE).await.unwrap(), Written::Stored);

        let holder = hold_writers(&fleet).await;
        give_up(&mut fleet, ghost, &Lines::new(&a, 2..5).rows(), at_the_check).await;
        let mut heir = match release {
            Release::LongBefore => {
                holder.close().await.unwrap();
                until(&mut fleet, 0, LOG_SESSIONS).await;
                let rows = stored(&mut fleet, &a).await.1;
                assert!(rows == 5 || rows == 2 && !at_the_check, "the commit was on its way: {rows} rows");
                LogWriter::take_over(&connector, runner.writer).await.unwrap()
            }
            Release::Before => {
                holder.close().await.unwrap();
                LogWriter::take_over(&connector, runner.writer).await.unwrap()
            }
            Release::After => {
                let taking = tokio::spawn(async move { LogWriter::take_over(&connector, runner.writer).await });
                until(&mut fleet, 1, TAKING_OVER).await;
                until(&mut fleet, 1, LOG_SESSIONS).await;
                holder.close().await.unwrap();
                let heir = taking.await.unwrap().unwrap();
                assert_eq!(stored(&mut fleet, &a).await.1, 2, "its session was ended, and the commit with it");
                heir
            }
        };
        goes_on(&mut fleet, &mut heir, &a, 8).await;
        let expected = (Lines::new(&a, 0..8).texts.concat(), 8);
        assert_eq!(stored(&mut fleet, &a).await, expected, "{release:?}, {at_the_check}");
    }
}

/// Asks how far the log is stored, as after anything unclear, and writes what is missing of so many lines.
async fn goes_on(fleet: &mut Fleet, session: &mut LogWriter, of: &Claimed, lines: i64) {
    let positions = session.positions().await.unwrap();
    let position = positions.iter().find(|position| position.lease.attempt_id == of.attempt_id).unwrap();
    assert_eq!(position.stored + 1, stored(fleet, of).await.1, "nothing comes in behind the answer");
    let rest = Lines::new(of, position.stored + 1..lines);
    assert_eq!(session.write(&rest.rows(), PATIENCE).await.unwrap(), Written::Stored);
}

#[tokio::test]
async fn a_session_whose_batch_was_refused_takes_the_next_one() {
    let mut fleet = Fleet::new().await;
    let (runner, a, b) = at_work(&mut fleet).await;
    let mut session = LogWriter::take_over(&connector(&fleet), runner.writer).await.unwrap();
    let mut expected = 0;
    let mut good = async |session: &mut LogWriter, fleet: &mut Fleet| {
        let lines = Lines::new(&b, expected..expected + 2);
        expected += 2;
        assert_eq!(session.write(&lines.rows(), PATIENCE).await.unwrap(), Written::Stored);
        assert_eq!(stored(fleet, &b).await, (Lines::new(&b, 0..expected).texts.concat(), expected));
    };
    good(&mut session, &mut fleet).await;

    // Tried: a row of an attempt that nobody has, beside good ones: refused by the check, TD009.
    let stranger = Claimed { attempt_id: id(), ..a.clone() };
    let (good_rows, foreign) = (Lines::new(&b, 2..4), Lines::new(&stranger, 0..1));
    let written = session.write(&[good_rows.rows(), foreign.rows()].concat(), PATIENCE).await.unwrap();
    let Written::Refused(refused) = written else { panic!("{written:?}") };
    let [refused] = refused.as_slice() else { panic!("{refused:?}") };
    assert_eq!((refused.attempt_id, refused.reason.as_str(), refused.stored), (stranger.attempt_id, "unknown", -1));
    good(&mut session, &mut fleet).await;

    // Tried: a row of a day without a partition, refused while the COPY goes on: 23514. Many rows follow it, so that its
    // client is still sending when the server has said no.
    let old = Claimed { claim_day: Date::from_ordinal_date(2001, 1).unwrap(), ..a.clone() };
    for rows in [1, 20_000] {
        let (late, rest) = (Lines::new(&old, 0..1), Lines::new(&a, 0..rows));
        let written = session.write(&[late.rows(), rest.rows()].concat(), PATIENCE).await.unwrap();
        assert!(matches!(&written, Written::Rewind(reason) if reason.contains("partition")), "{written:?}");
        good(&mut session, &mut fleet).await;
    }

    // Tried: rows that are stored already, 23505.
    let written = session.write(&Lines::new(&b, 0..3).rows(), PATIENCE).await.unwrap();
    assert!(matches!(&written, Written::Rewind(reason) if reason.contains("duplicate key")), "{written:?}");
    good(&mut session, &mut fleet).await;
    assert_eq!(stored(&mut fleet, &a).await.1, 0, "nothing of what was refused");
}
