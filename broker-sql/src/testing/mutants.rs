//! Mistakes that are put into the functions of one database on purpose, to see that whoever checks it finds them.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor};

use crate::refusal::Error;

/// Ends both waits: long enough that a lease may run out meanwhile, and seldom enough that work goes on.
const WAIT: &str = "perform pg_sleep(case when random() < 0.5 then 4 else 0 end);\n  ";
const START_WRITES: &str = "with started as (";
const FINISH_WRITES: &str = "update tendril_core.attempts a set ended_at = clock_timestamp(), outcome = ";

/// A mistake, or what only looks like one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mutant {
    /// A start and a finish do not ask whether their attempt is the current one.
    NoFenceCheck,
    /// A start and a finish check first, wait, and write then, with no lock from the one to the other.
    CheckWithoutLock,
    /// The same wait under the locks that belong there: slow, and right.
    SlowChecks,
    /// A lease that runs out frees the key of what had started.
    TimerFreesStartedKey,
}

/// In this function, this text, of which there is one, becomes that one.
struct Change {
    function: &'static str,
    from: &'static str,
    to: String,
}

impl Mutant {
    fn changes(self) -> Vec<Change> {
        let change = |function, from, to: &str| Change { function, from, to: to.to_owned() };
        let wait = |function, before: &'static str| change(function, before, &format!("{WAIT}{before}"));
        let slow = || {
            vec![wait("tendril_core.start_attempts", START_WRITES), wait("tendril_core.end_attempts", FINISH_WRITES)]
        };
        match self {
            Self::NoFenceCheck => vec![
                change(
                    "tendril_core.start_attempts",
                    "when c.attempt_id is null then",
                    "when j.state in ('SUCCESS', 'FAILED', 'CANCELLED', 'SKIPPED') then",
                ),
                change(
                    "tendril_core.start_attempts",
                    "when j.state_key is not null and not exists (",
                    "when false and not exists (",
                ),
                change(
                    "tendril.runner_finish",
                    "if not exists (select from tendril_core.current_attempts c where c.attempt_id = a.id) then",
                    "if (v.j).state in ('SUCCESS', 'FAILED', 'CANCELLED', 'SKIPPED') then",
                ),
            ],
            Self::CheckWithoutLock => {
                let mut changes = slow();
                changes.extend([
                    change(
                        "tendril.runner_start",
                        "for key share of x for update of d for update of j for update of a;",
                        ";",
                    ),
                    change("tendril.runner_start_all", "order by x.runner_id for key share;", "order by x.runner_id;"),
                    change("tendril_core.start_attempts", "order by h.state_key for share;", "order by h.state_key;"),
                    change("tendril.runner_finish_all", "order by h.state_key for update;", "order by h.state_key;"),
                    change("tendril.runner_finish_all", "order by w.id for update;", "order by w.id;"),
                    change(
                        "tendril.runner_start_all",
                        "for key share of x skip locked for update of d skip locked for update of j skip locked for update of a skip locked);",
                        ");",
                    ),
                    change(
                        "tendril.runner_finish_all",
                        "for update of d skip locked for update of j skip locked for update of a skip locked);",
                        ");",
                    ),
                    change("tendril_core.address", "d.id = a.deployment_id for update;", "d.id = a.deployment_id;"),
                    change("tendril_core.address", "t.id = a.job_id for update;", "t.id = a.job_id;"),
                    change("tendril_core.address", "t.id = p_attempt for update;", "t.id = p_attempt;"),
                ]);
                changes
            }
            Self::SlowChecks => slow(),
            Self::TimerFreesStartedKey => vec![change(
                "tendril_core.lose",
                "if v_job.state = 'STARTED' and v_job.mutating then",
                "if v_job.state = 'STARTED' and v_job.mutating then\n    perform tendril_core.free_key(a.id, a.fence);",
            )],
        }
    }

    /// Puts it into this database.
    ///
    /// # Errors
    /// Only an owner of the functions may.
    ///
    /// # Panics
    /// The text that is to be changed is not there once: the function has become another one, and the mutant must follow.
    pub async fn put_into(self, owner: &mut PgConnection) -> Result<(), Error> {
        for Change { function, from, to } in self.changes() {
            let text: String = sqlx::query_scalar("select pg_get_functiondef($1::regproc)")
                .bind(function)
                .fetch_one(&mut *owner)
                .await?;
            assert_eq!(text.matches(from).count(), 1, "what {self:?} changes in {function}: {from}");
            owner.execute(AssertSqlSafe(text.replace(from, &to))).await?;
        }
        Ok(())
    }
}
