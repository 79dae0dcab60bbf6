//! A small disk for the database's log rows, or for its journal, which can be filled to the brim and emptied again.
//!
//! It is a tmpfs in a mount namespace of this process's own, so that it goes with us whatever happens. That takes root.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::bail;
use nix::sys::statvfs::statvfs;
use tokio::process::Command;

/// What the disk takes; memory is used for what is on it only.
const BYTES: u64 = 512 << 20;
/// What is left free of a full one: rows go in until it is gone.
const LEFT_BYTES: u64 = 200 << 10;
const BALLAST: &str = "ballast";

/// The disk.
#[derive(Debug)]
pub struct Room {
    mount: PathBuf,
}

/// Continues in a mount namespace of our own, where we are root and are in none yet.
///
/// # Errors
/// `unshare` cannot be run.
pub fn go_where_it_can_be() -> io::Result<()> {
    if !nix::unistd::geteuid().is_root() || Room::can_be() {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    arguments.next();
    Err(std::process::Command::new("unshare").arg("--mount").arg(std::env::current_exe()?).args(arguments).exec())
}

impl Room {
    /// Whether there can be one here.
    pub fn can_be() -> bool {
        let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
        nix::unistd::geteuid().is_root() && namespace("self") != namespace("1")
    }

    /// A new one for that purpose, for the server that has this backend.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub async fn new(purpose: &str, backend: i32) -> anyhow::Result<Self> {
        let owner = fs::metadata(format!("/proc/{backend}"))?.uid();
        let mount = std::env::temp_dir().join(format!("tendril-chaos-{purpose}-{}", std::process::id()));
        fs::create_dir_all(&mount)?;
        let options = format!("size={BYTES},uid={owner},mode=0700");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tendril"]).arg(&mount).status().await?;
        if !mounted.success() {
            bail!("mount: {mounted}");
        }
        Ok(Self { mount })
    }

    /// Where a tablespace goes.
    pub fn folder(&self) -> String {
        self.mount.display().to_string()
    }

    /// Fills it up.
    ///
    /// # Errors
    /// The system's error.
    pub fn take(&self) -> io::Result<()> {
        let stat = statvfs(&self.mount)?;
        let free = stat.blocks_available() * stat.fragment_size();
        let ballast = vec![0; usize::try_from(free.saturating_sub(LEFT_BYTES)).unwrap_or(0)];
        match fs::write(self.mount.join(BALLAST), ballast) {
            // The server has taken the rest meanwhile: full it is.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
            written => written,
        }
    }

    /// Empties it again, but for what the server has put there.
    ///
    /// # Errors
    /// The system's error.
    pub fn give(&self) -> io::Result<()> {
        fs::remove_file(self.mount.join(BALLAST))
    }

    /// Takes it away, once the server has ended.
    pub async fn remove(&self) {
        // At the latest it goes with our namespace.
        let _ = Command::new("umount").arg("--lazy").arg(&self.mount).status().await;
        let _ = fs::remove_dir(&self.mount);
    }
}
