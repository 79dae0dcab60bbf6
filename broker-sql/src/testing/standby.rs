//! What it takes on a server to have a standby that commits wait for.

use sqlx::Connection;
use sqlx::postgres::PgConnection;

/// A superuser's session on a server.
pub struct Primary(PgConnection);

impl Primary {
    /// Connects.
    ///
    /// # Errors
    /// No such server, or no such superuser.
    pub async fn of(superuser_url: &str) -> sqlx::Result<Self> {
        PgConnection::connect(superuser_url).await.map(Self)
    }

    /// Where its data lies.
    ///
    /// # Errors
    /// The session is gone.
    pub async fn data_directory(&mut self) -> sqlx::Result<String> {
        sqlx::query_scalar("show data_directory").fetch_one(&mut self.0).await
    }

    /// From now on no commit is answered that a standby does not have.
    ///
    /// # Errors
    /// The session is gone, or no superuser's.
    pub async fn commit_with_standby(&mut self) -> sqlx::Result<()> {
        sqlx::raw_sql("alter system set synchronous_standby_names = '*'").execute(&mut self.0).await?;
        sqlx::raw_sql("select pg_reload_conf()").execute(&mut self.0).await.map(drop)
    }

    /// From now on no commit waits for a standby.
    ///
    /// # Errors
    /// The session is gone, or no superuser's.
    pub async fn commit_alone(&mut self) -> sqlx::Result<()> {
        sqlx::raw_sql("alter system reset synchronous_standby_names").execute(&mut self.0).await?;
        sqlx::raw_sql("select pg_reload_conf()").execute(&mut self.0).await.map(drop)
    }

    /// For a standby: gets nothing more from its primary.
    ///
    /// # Errors
    /// The session is gone, or no superuser's.
    pub async fn stop_following(&mut self) -> sqlx::Result<()> {
        sqlx::raw_sql("alter system set primary_conninfo = ''").execute(&mut self.0).await?;
        sqlx::raw_sql("select pg_reload_conf()").execute(&mut self.0).await.map(drop)
    }

    /// Whether a standby follows; with `waited_for` also whether commits wait for it.
    ///
    /// # Errors
    /// The session is gone.
    pub async fn is_followed(&mut self, waited_for: bool) -> sqlx::Result<bool> {
        let sql = "select exists (select from pg_stat_replication where state = 'streaming' and (sync_state = 'sync' or not $1))";
        sqlx::query_scalar(sql).bind(waited_for).fetch_one(&mut self.0).await
    }

    /// How many sessions of runners are there.
    ///
    /// # Errors
    /// The session is gone.
    pub async fn runners_sessions(&mut self) -> sqlx::Result<i64> {
        let sql = "select count(*) from pg_stat_activity where application_name like 'tendril-runner %'";
        sqlx::query_scalar(sql).fetch_one(&mut self.0).await
    }
}
