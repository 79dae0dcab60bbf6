//! A disk of the database's journal that is full: Postgres gives up at once, and cannot stay up until there is room.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use tendril_broker::Address;
use tendril_broker::testing::history;
use tokio::process::Command;
use tokio::time::Instant;

use super::room::Room;
use crate::chance::Chance;
use crate::world::Server;

/// Postgres has given up by then: the segments that it keeps for later are used up.
const PATIENCE: Duration = Duration::from_secs(15);
/// It is back by itself by then, once there is room; else somebody has to start it, as after any failed recovery.
const BY_ITSELF: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A journal on a disk of its own.
#[derive(Debug)]
pub struct Journal {
    /// The disk.
    pub room: Room,
    /// Where the server says what happens to it.
    log: PathBuf,
}

impl Journal {
    /// Moves the journal of a server that is stopped to this disk; the server's own log lies beside its data.
    ///
    /// # Errors
    /// It cannot be copied.
    pub async fn move_to(room: Room, data: &Path) -> anyhow::Result<Self> {
        let journal = data.join("pg_wal");
        let copied = Command::new("cp").arg("-a").arg(journal.join(".")).arg(room.folder()).status().await?;
        if !copied.success() {
            bail!("cp of the journal: {copied}");
        }
        std::fs::remove_dir_all(&journal)?;
        std::os::unix::fs::symlink(room.folder(), &journal)?;
        Ok(Self { room, log: data.with_file_name("log") })
    }

    /// How often it has given up for want of room.
    fn panics(&self) -> anyhow::Result<usize> {
        let said = std::fs::read(&self.log)?;
        let said = String::from_utf8_lossy(&said);
        Ok(said.lines().filter(|line| line.contains("PANIC") && line.contains("No space left")).count())
    }
}

/// Fills the disk until Postgres has given up, and makes room again after a while. Returns what was done.
///
/// # Errors
/// Postgres goes on without room, or does not come back with it.
pub async fn fill(
    journal: &Journal,
    server: &Server,
    superuser: &Address,
    chance: &mut Chance,
) -> anyhow::Result<String> {
    let (room, before) = (&journal.room, journal.panics()?);
    room.take()?;
    let begun = Instant::now();
    while write(superuser).await {
        if begun.elapsed() > PATIENCE {
            bail!("Postgres writes on although its journal's disk is full");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let gave_up_ms = begun.elapsed().as_millis();
    let away_ms = chance.between(500, 4000);
    tokio::time::sleep(Duration::from_millis(away_ms)).await;
    room.give()?;
    let by_itself = is_back(superuser, BY_ITSELF).await;
    if !by_itself {
        server.resume().await?;
        if !is_back(superuser, PATIENCE).await {
            bail!("Postgres is not back");
        }
    }
    let panics = journal.panics()? - before;
    if panics == 0 {
        bail!("Postgres was away, and not for want of room");
    }
    Ok(format!(
        "the journal's disk was full: Postgres gave up after {gave_up_ms} ms, {panics} times, and had no room for {away_ms} ms \
         more; it came back {}",
        if by_itself { "by itself" } else { "when it was started" }
    ))
}

/// Uses up a segment of the journal; whether the server has borne it.
async fn write(superuser: &Address) -> bool {
    match superuser.connect("tendril-chaos").await {
        Ok(mut session) => history::use_up_journal(&mut session).await.is_ok(),
        Err(_) => false,
    }
}

async fn is_back(superuser: &Address, patience: Duration) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        if write(superuser).await {
            return true;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    false
}
