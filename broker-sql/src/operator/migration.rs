//! The schema's migrations: applied, printed, compared.

use std::fmt::Write;

use serde::Serialize;
use sqlx::migrate::{Migrate, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};

use crate::refusal::Error;

/// Where the versions that were applied are written down.
const TABLE: &str = "tendril_core._sqlx_migrations";

/// Two programs that migrate a fresh database at once meet at the schema's name: one waits, fails and looks again.
const TRIES: usize = 3;

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

/// Applies what is missing, all in one transaction; returns the versions that were applied now.
///
/// # Errors
/// [`Error::SchemaNewer`], [`Error::MigrationChanged`], and what the database refuses; then nothing was applied.
pub async fn migrate(connection: &mut PgConnection) -> Result<Vec<i64>, Error> {
    let mut tries = 1;
    loop {
        match migrate_once(connection).await {
            Err(Error::Refused(refusal)) if refusal.sqlstate == "23505" && tries < TRIES => {
                tries += 1;
            }
            done => return done,
        }
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

async fn migrate_once(connection: &mut PgConnection) -> Result<Vec<i64>, Error> {
    let migrator = migrator();
    let mut transaction = connection.begin().await?;
    // Asked first: who has no right to create schemas should still learn that there is nothing to do.
    if !has_table(&mut transaction).await? {
        transaction.execute(PREPARE).await.map_err(|error| name_the_right(error.into()))?;
    }
    transaction.execute("-- lock migrations\nlock table tendril_core._sqlx_migrations in exclusive mode").await?;
    let state = compare(&mut transaction, &migrator).await?;
    if let Some(found) = state.version.filter(|found| *found > state.known) {
        let known = state.known;
        return Err(Error::SchemaNewer { found, known });
    }
    transaction.execute(HOLD_PULSE).await?;
    migrator.run_direct(None, &mut *transaction, false).await?;
    transaction.commit().await?;
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

/// All migrations as one script, for people who keep their own. It also writes down what was applied, so that
/// `migrate` and `doctor` see the same as after a `migrate`. Run it in one transaction.
pub fn script() -> String {
    let mut script = String::from(
        "-- Schema of tendril-broker. Run all of it in one transaction, as a role with CREATEROLE and CREATE on the database.\n\n",
    );
    script.push_str(PREPARE);
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
