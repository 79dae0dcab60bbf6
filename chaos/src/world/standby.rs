//! A streaming standby of the server, without which no commit is answered, and its promotion.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use tendril_broker::testing::standby::Primary;

use super::server::Server;

const LOOKS: usize = 300;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// It follows.
pub struct Standby {
    primary: PathBuf,
    own: PathBuf,
}

impl Standby {
    /// Makes a standby, and returns once commits wait for it.
    ///
    /// # Errors
    /// The machine does not do as it is told.
    pub async fn of(server: &Server) -> anyhow::Result<Self> {
        let url = server.superuser_url("postgres");
        let mut server_itself = Primary::of(&url).await.context("cannot look at the server")?;
        let primary = server_itself.data_directory().await?;
        let own = format!("{primary}-standby");
        server
            .run(
                "pg_basebackup",
                &["--pgdata", &own, "--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--dbname", &url],
            )
            .await?;
        // Back soon after a crash of the server: commits wait for it.
        let port = format!("-p {} -c wal_retrieve_retry_interval=200ms", free_port()?);
        let log = format!("{own}.log");
        server
            .run("pg_ctl", &["--pgdata", &own, "--log", &log, "--options", &port, "--silent", "--wait", "start"])
            .await?;
        server_itself.commit_with_standby().await?;
        for _ in 0..LOOKS {
            if server_itself.is_followed().await? {
                return Ok(Self { primary: primary.into(), own: own.into() });
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        bail!("the standby does not follow, see {log}");
    }

    /// Ends it unused.
    ///
    /// # Errors
    /// The machine does not do as it is told.
    pub async fn stop(self, server: &Server) -> anyhow::Result<()> {
        let own = self.own.display().to_string();
        server.run("pg_ctl", &["--pgdata", &own, "--silent", "--mode=immediate", "stop"]).await
    }

    /// Promotes it at the address of the server, which is down.
    ///
    /// # Errors
    /// The machine does not do as it is told.
    pub async fn takes_over(self, server: &Server) -> anyhow::Result<()> {
        let own = self.own.display().to_string();
        server.run("pg_ctl", &["--pgdata", &own, "--silent", "--mode=fast", "stop"]).await?;
        std::fs::remove_dir_all(&self.primary).context("cannot remove the old primary")?;
        std::fs::rename(&self.own, &self.primary).context("cannot put the standby in its place")?;
        server.resume().await?;
        server.run("pg_ctl", &["--pgdata", &self.primary.display().to_string(), "--silent", "--wait", "promote"]).await
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
