//! The schema's migrations: applied, printed, compared.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;
use sqlx::migrate::{Migrate, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};

use crate::refusal::{Error, Refusal};

/// Where the versions that were applied are written down.
const TABLE: &str = "tendril_core._sqlx_migrations";

/// Two programs that migrate a fresh database at once meet at the schema's name: one waits, fails and looks again.
const TRIES_OF_A_RACE: usize = 3;

/// How long each try waits for each lock; as long again is left to others before the next.
///
/// Who waits for us while we wait for him is ended by the server after a second (`deadlock_timeout`): so we give way before that. At the
/// end we wait for longer than a second, which is what makes an autovacuum give way.
const PATIENCE: [Duration; 24] = {
    let mut patience = [Duration::from_millis(500); 24];
    let mut last = patience.len() - 4;
    while last < patience.len() {
        patience[last] = Duration::from_secs(3);
        last += 1;
    }
    patience
};

const PREPARE: &str = r#"-- prepare migrations
create schema if not exists tendril_core;
create table if not exists tendril_core._sqlx_migrations (
  version         bigint      primary key,
  description     text        not null,
  installed_on    timestamptz not null default now(),
  success         boolean     not null,
  checksum        bytea       not null,
  execution_time  bigint      not null
);
comment on table  tendril_core._sqlx_migrations is 'Migrations that were applied; written by tendril-broker migrate, or by the printed script.';
comment on column tendril_core._sqlx_migrations.version is 'Number of the migration.';
comment on column tendril_core._sqlx_migrations.description is 'Its name.';
comment on column tendril_core._sqlx_migrations.installed_on is 'When it was applied.';
comment on column tendril_core._sqlx_migrations.success is 'Always true: a migration that fails leaves nothing.';
comment on column tendril_core._sqlx_migrations.checksum is 'SHA-384 of its text.';
comment on column tendril_core._sqlx_migrations.execution_time is 'Nanoseconds that it took.';
"#;

/// Which migrations a database has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SchemaState {
    /// Newest migration that was applied; `None` without a schema.
    pub version: Option<i64>,
    /// Newest migration of this program.
    pub known: i64,
    /// What this program would apply.
    pub pending: Vec<i64>,
}

impl SchemaState {
    /// Refuses a schema that lacks what this program needs. A newer one is served: changes are additive.
    ///
    /// # Errors
    /// [`Error::SchemaOlder`].
    pub fn require(&self) -> Result<(), Error> {
        if self.pending.is_empty() {
            return Ok(());
        }
        Err(Error::SchemaOlder { pending: self.pending.clone() })
    }
}

/// The migrations of this program; their versions lie in schema `tendril_core`, so that nothing needs `public`.
pub fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!();
    migrator.dangerous_set_table_name(TABLE);
    // A lock on the table does it: advisory locks may be taken away from PUBLIC.
    migrator.set_locking(false);
    migrator
}

fn newest(migrator: &Migrator) -> i64 {
    migrator.iter().map(|m| m.version).max().unwrap_or(0)
}

/// Applies what is missing, all in one transaction; returns the versions that were applied now. Others may be at work: who holds
/// what the migrations need is waited for a little, again and again, for a minute or so.
///
/// # Errors
/// [`Error::SchemaNewer`], [`Error::MigrationChanged`], and what the database refuses; then nothing was applied.
pub async fn migrate(connection: &mut PgConnection) -> Result<Vec<i64>, Error> {
    migrate_patiently(connection, &PATIENCE).await
}

/// The same with as many tries as there are durations, each of which is how long that try waits for each lock.
///
/// # Errors
/// As [`migrate`].
pub async fn migrate_patiently(connection: &mut PgConnection, patience: &[Duration]) -> Result<Vec<i64>, Error> {
    let mut tries = 0;
    loop {
        let wait = patience.get(tries).copied().unwrap_or_default();
        tries += 1;
        let refusal = match migrate_once(connection, wait).await {
            Err(Error::Refused(refusal)) => refusal,
            done => return done,
        };
        match refusal.sqlstate.as_str() {
            "23505" if tries < TRIES_OF_A_RACE => {}
            DEADLOCK | LOCK_TIMEOUT if tries < patience.len() => tokio::time::sleep(wait).await,
            DEADLOCK | LOCK_TIMEOUT => return Err(Error::Refused(Box::new(too_busy(*refusal, tries)))),
            _ => return Err(Error::Refused(refusal)),
        }
    }
}

const DEADLOCK: &str = "40P01";
const LOCK_TIMEOUT: &str = "55P03";

fn too_busy(refusal: Refusal, tries: usize) -> Refusal {
    Refusal {
        message: format!("others hold what the migrations change, in each of {tries} tries; nothing was applied: {}", refusal.message),
        hint: Some(
            "`select pid, usename, application_name, xact_start, query from pg_stat_activity where datname = current_database() order by xact_start` \
             names them, oldest first: wait for a dump or a report, end what was forgotten, and migrate again"
                .into(),
        ),
        ..refusal
    }
}

/// While migrations hold what runners need nobody is judged by the silence: expiry stands still without a pulse, and the gap renews
/// all leases.
const HOLD_PULSE: &str = "-- hold the pulse
do $$ begin
  if to_regclass('tendril_core.pulse') is not null then
    perform from tendril_core.pulse for update;
  end if;
end $$";

async fn migrate_once(connection: &mut PgConnection, patience: Duration) -> Result<Vec<i64>, Error> {
    let mut transaction = connection.begin().await?;
    match apply(&mut transaction, patience).await {
        Ok(applied) => {
            transaction.commit().await?;
            Ok(applied)
        }
        Err(error) => {
            // Only dropped it would be rolled back with the next use of the session, and hold its locks until then.
            drop(transaction.rollback().await);
            Err(error)
        }
    }
}

async fn apply(transaction: &mut PgConnection, patience: Duration) -> Result<Vec<i64>, Error> {
    let migrator = migrator();
    // Asked first: who has no right to create schemas should still learn that there is nothing to do.
    if !has_table(transaction).await? {
        transaction.execute(PREPARE).await.map_err(|error| name_the_right(error.into()))?;
    }
    // Another migration is waited for however long it takes: nobody else is held up by that.
    transaction.execute("-- lock migrations\nlock table tendril_core._sqlx_migrations in exclusive mode").await?;
    let state = compare(transaction, &migrator).await?;
    if let Some(found) = state.version.filter(|found| *found > state.known) {
        let known = state.known;
        return Err(Error::SchemaNewer { found, known });
    }
    let patience = format!("-- patience\nset local lock_timeout = '{}ms'", patience.as_millis());
    transaction.execute(AssertSqlSafe(patience)).await?;
    transaction.execute(HOLD_PULSE).await?;
    migrator.run_direct(None, transaction, false).await?;
    Ok(state.pending)
}

/// Only one right can be missing here.
fn name_the_right(error: Error) -> Error {
    match error {
        Error::Refused(mut refusal) if refusal.sqlstate == "42501" => {
            refusal.hint = Some("GRANT CREATE ON DATABASE ... TO the role that runs the migrations".into());
            Error::Refused(refusal)
        }
        other => other,
    }
}

async fn has_table(connection: &mut PgConnection) -> Result<bool, Error> {
    let found = sqlx::query_scalar!(
        r#"-- has migrations table
        select to_regclass('tendril_core._sqlx_migrations') is not null as "found!""#
    );
    Ok(found.fetch_one(connection).await?)
}

async fn compare(connection: &mut PgConnection, migrator: &Migrator) -> Result<SchemaState, Error> {
    let applied = connection.list_applied_migrations(TABLE).await?;
    let has = |version: i64| applied.iter().any(|m| m.version == version);
    let pending = migrator.iter().map(|m| m.version).filter(|v| !has(*v));
    Ok(SchemaState {
        version: applied.iter().map(|m| m.version).max(),
        known: newest(migrator),
        pending: pending.collect(),
    })
}

/// Which migrations the database has, and which it lacks.
///
/// # Errors
/// What the database refuses: only the owner of the schema may look.
pub async fn state(connection: &mut PgConnection) -> Result<SchemaState, Error> {
    let migrator = migrator();
    if has_table(connection).await? {
        return compare(connection, &migrator).await;
    }
    Ok(SchemaState { version: None, known: newest(&migrator), pending: migrator.iter().map(|m| m.version).collect() })
}

/// What a script says before all else.
const SCRIPT: &str = "-- Schema of tendril-broker. Run all of it in one transaction, as a role with CREATEROLE and CREATE on the database.
-- Where some of it was applied before, leave those migrations out, and nothing else: what stands before the first one keeps runners
-- from being taken for dead meanwhile. When it ends with 55P03 (lock timeout) or 40P01 (deadlock) nothing was applied: run it again.

-- Who waits longer for a lock holds up whoever comes after.
set local lock_timeout = '3s';

";

/// All migrations as one script, for people who keep their own. It also writes down what was applied, so that
/// `migrate` and `doctor` see the same as after a `migrate`. Run it in one transaction.
pub fn script() -> String {
    let mut script = [SCRIPT, PREPARE, "\n", HOLD_PULSE, ";\n"].concat();
    for migration in migrator().iter() {
        let (version, name) = (migration.version, &migration.description);
        let mut checksum = String::new();
        for byte in migration.checksum.iter() {
            let _ = write!(checksum, "{byte:02x}");
        }
        let _ = write!(
            script,
            "\n-- migration {version:04}: {name}\n{sql}\n\
             insert into tendril_core._sqlx_migrations (version, description, success, checksum, execution_time)\n  \
             values ({version}, '{name}', true, '\\x{checksum}', 0);\n",
            sql = migration.sql.as_str().trim_end(),
        );
    }
    script
}
