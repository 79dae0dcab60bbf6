//! The server and a streaming standby of it, which take turns: two data folders, at two ports.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tendril_broker::testing::standby::Primary;

use super::server::Server;
use crate::processes;

const LOOKS: usize = 300;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Where a standby takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At the address of the server that it replaces.
    Same,
    /// At its own, which clients have to find.
    Own,
}

/// A data folder and the port that its server listens at.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    data: PathBuf,
    port: u16,
}

/// The servers of a world.
pub struct Pair {
    /// The first of them, and the way to their programs.
    pub server: Server,
    primary: Member,
    standby: Option<Member>,
    /// Where the next standby listens.
    spare_port: u16,
    made: usize,
}

impl Pair {
    /// Of this server alone, so far.
    ///
    /// # Errors
    /// The server cannot be asked, or has no port.
    pub async fn of(server: Server) -> anyhow::Result<Self> {
        let data = Primary::of(&server.superuser_url("postgres")).await?.data_directory().await?;
        let port = server.place().rsplit_once(':').context("the server has no port")?.1.parse()?;
        let spare_port = free_port()?;
        Ok(Self { server, primary: Member { data: data.into(), port }, standby: None, spare_port, made: 0 })
    }

    /// The ports that the primary may be at, now or later; the first one's first.
    pub fn ports(&self) -> [u16; 2] {
        [self.primary.port, self.standby.as_ref().map_or(self.spare_port, |standby| standby.port)]
    }

    /// A superuser's way to the primary.
    #[cfg(test)]
    pub fn primary_url(&self) -> String {
        self.url(&self.primary)
    }

    /// Has a standby follow, and commits wait for it.
    ///
    /// # Errors
    /// The machine does not do as it is told.
    pub async fn is_followed(&mut self) -> anyhow::Result<()> {
        let mut primary = Primary::of(&self.url(&self.primary)).await.context("cannot look at the primary")?;
        if self.standby.is_none() {
            // What the standby copies is what it is set to when it is promoted: nobody follows it then.
            primary.commit_alone().await?;
            self.make_standby().await?;
        }
        primary.commit_with_standby().await?;
        for _ in 0..LOOKS {
            if primary.is_followed(true).await? {
                return Ok(());
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        bail!("the standby does not follow, see {}", log_of(&self.primary.data))
    }

    async fn make_standby(&mut self) -> anyhow::Result<()> {
        let url = self.url(&self.primary);
        self.made += 1;
        let home = self.primary.data.parent().context("the data folder has no parent")?;
        let standby = Member { data: home.join(format!("data-{}", self.made)), port: self.spare_port };
        let data = standby.data.display().to_string();
        let copy = ["--pgdata", &data, "--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--dbname", &url];
        self.server.run("pg_basebackup", &copy).await?;
        self.start(&standby).await?;
        self.standby = Some(standby);
        Ok(())
    }

    /// Ends the primary as a crash would.
    ///
    /// # Errors
    /// The machine does not do as it is told.
    pub async fn crash(&self) -> anyhow::Result<()> {
        self.stop_member(&self.primary, "immediate").await
    }

    /// Starts the primary again.
    ///
    /// # Errors
    /// The machine does not do as it is told.
    pub async fn resume(&self) -> anyhow::Result<()> {
        self.start(&self.primary).await
    }

    /// From now on the standby gets nothing, and nobody waits for that.
    ///
    /// # Errors
    /// The machine does not do as it is told.
    pub async fn cut_off_standby(&mut self) -> anyhow::Result<()> {
        let standby = self.standby.as_ref().context("nobody follows")?;
        let mut primary = Primary::of(&self.url(&self.primary)).await?;
        primary.commit_alone().await?;
        Primary::of(&self.url(standby)).await?.stop_following().await?;
        for _ in 0..LOOKS {
            if !primary.is_followed(false).await? {
                return Ok(());
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        bail!("the standby still follows")
    }

    /// Promotes the standby. The primary is down and is removed, or is frozen and returned.
    ///
    /// # Errors
    /// The machine does not do as it is told.
    pub async fn take_over(&mut self, place: Place) -> anyhow::Result<()> {
        let mut standby = self.standby.take().context("nobody follows")?;
        std::fs::remove_dir_all(&self.primary.data).context("cannot remove the old primary")?;
        self.spare_port = self.primary.port;
        if place == Place::Same {
            self.stop_member(&standby, "fast").await?;
            self.spare_port = std::mem::replace(&mut standby.port, self.primary.port);
            self.start(&standby).await?;
        }
        self.primary = standby;
        self.promote(&self.primary).await
    }

    /// Promotes the standby although the primary only says nothing. Returns that one.
    ///
    /// # Errors
    /// The machine does not do as it is told.
    pub async fn take_over_from_the_silent(&mut self) -> anyhow::Result<Astray> {
        let standby = self.standby.take().context("nobody follows")?;
        self.promote(&standby).await?;
        let old = std::mem::replace(&mut self.primary, standby);
        self.spare_port = free_port()?;
        Ok(Astray(old))
    }

    /// The process that the primary's others come from.
    ///
    /// # Errors
    /// It does not run.
    pub fn first_process(&self) -> anyhow::Result<i32> {
        first_process(&self.primary)
    }

    /// Stops the primary's processes where they are: its connections stay open, and nobody answers.
    ///
    /// # Errors
    /// The machine does not do as it is told.
    pub fn freeze(&self) -> anyhow::Result<()> {
        signal_all(&self.primary, Signal::SIGSTOP)
    }

    /// An old primary that goes on, and does not know that it has been replaced.
    ///
    /// # Errors
    /// The machine does not do as it is told.
    pub fn goes_on(&self, astray: &Astray) -> anyhow::Result<()> {
        signal_all(&astray.0, Signal::SIGCONT)
    }

    /// Ends it for good; the next standby takes its place.
    ///
    /// # Errors
    /// The machine does not do as it is told.
    pub async fn is_fenced(&mut self, astray: Astray) -> anyhow::Result<()> {
        self.stop_member(&astray.0, "immediate").await?;
        std::fs::remove_dir_all(&astray.0.data)?;
        self.spare_port = astray.0.port;
        Ok(())
    }

    /// Ends all servers, and removes their data.
    ///
    /// # Errors
    /// What `./dev` says.
    pub async fn stop(&self) -> anyhow::Result<()> {
        for member in [Some(&self.primary), self.standby.as_ref()].into_iter().flatten() {
            let _ = signal_all(member, Signal::SIGCONT);
            let _ = self.stop_member(member, "immediate").await;
        }
        self.server.stop().await
    }

    fn url(&self, member: &Member) -> String {
        self.server.superuser_url_at(member.port, "postgres")
    }

    async fn start(&self, member: &Member) -> anyhow::Result<()> {
        let data = member.data.display().to_string();
        // Back soon after a crash of the primary: commits wait for it.
        let settings = format!("-p {} -c wal_retrieve_retry_interval=200ms", member.port);
        let log = log_of(&member.data);
        let arguments = ["--pgdata", &data, "--log", &log, "--options", &settings, "--silent", "--wait", "start"];
        self.server.run("pg_ctl", &arguments).await
    }

    async fn promote(&self, member: &Member) -> anyhow::Result<()> {
        let data = member.data.display().to_string();
        self.server.run("pg_ctl", &["--pgdata", &data, "--silent", "--wait", "promote"]).await
    }

    async fn stop_member(&self, member: &Member, mode: &str) -> anyhow::Result<()> {
        let (data, mode) = (member.data.display().to_string(), format!("--mode={mode}"));
        self.server.run("pg_ctl", &["--pgdata", &data, "--silent", &mode, "stop"]).await
    }
}

/// An old primary that was not stopped.
#[derive(Debug)]
pub struct Astray(Member);

fn log_of(data: &Path) -> String {
    format!("{}.log", data.display())
}

/// The first of them is told first when it goes on, last when it is to stop: it looks after the others.
fn signal_all(member: &Member, signal: Signal) -> anyhow::Result<()> {
    let first = first_process(member)?;
    kill(Pid::from_raw(first), signal).context("cannot signal the server; is it another user's?")?;
    for child in processes::children_of(first) {
        let _ = kill(Pid::from_raw(child), signal);
    }
    Ok(())
}

fn first_process(member: &Member) -> anyhow::Result<i32> {
    let file = std::fs::read_to_string(member.data.join("postmaster.pid")).context("it does not run")?;
    Ok(file.lines().next().unwrap_or_default().trim().parse()?)
}

/// Below the range that the kernel hands out, so that it stays free while nobody listens there.
fn free_port() -> anyhow::Result<u16> {
    let first = 21_000 + u16::try_from(std::process::id() % 9000)?;
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (first..first + 1000).find(free).context("no port is free")
}
