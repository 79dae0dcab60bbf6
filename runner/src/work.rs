//! The work folder of one attempt.

use crate::remove;
use crate::stop::Stop;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// An attempt's own folder: `<state_dir>/work/<attempt>/`, readable by this user only.
#[derive(Clone, Debug)]
pub struct Work {
    root: PathBuf,
}

impl Work {
    /// Makes the folder and its parts: `tree` (the job's files), `home`, `tmp`, `records`.
    ///
    /// # Errors
    /// The system's error; also when the folder is there already, since an attempt is run once.
    pub fn create(state_dir: &Path, attempt: Uuid) -> io::Result<Self> {
        let all = state_dir.join("work");
        private().recursive(true).create(&all)?;
        // Terraform's plugins put unix sockets under TMPDIR, whose paths must stay below 108 bytes: hence short names.
        let root = all.join(attempt.simple().to_string());
        private().create(&root)?;
        for part in ["home", "tmp", "records"] {
            private().create(root.join(part))?;
        }
        Ok(Self { root })
    }

    /// The folder that an earlier process has made.
    pub fn found(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where the job's files go; made by whoever writes them.
    pub fn tree(&self) -> PathBuf {
        self.root.join("tree")
    }

    /// HOME of the commands.
    pub fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    /// TMPDIR of the commands.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// A file beside the tree, which no command is pointed to unless asked.
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Writes a new file beside the tree, readable by this user only; returns its path.
    ///
    /// # Errors
    /// A failed job, when the disk refuses.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, Stop> {
        let path = self.file(name);
        write_new(&path, bytes)?;
        Ok(path)
    }

    /// Folder of a command's exit record; `number` counts the attempt's commands.
    pub fn record(&self, number: usize, name: &str) -> PathBuf {
        self.root.join("records").join(format!("{number:02}-{name}"))
    }

    /// Removes the folder with all that is in it. It may take a while, and so has a thread of its own.
    ///
    /// # Errors
    /// The system's error.
    pub async fn remove(&self) -> io::Result<()> {
        let root = self.root.clone();
        tokio::task::spawn_blocking(move || remove::folder(&root)).await.map_err(io::Error::other)?
    }
}

/// Writes a file of the runner's own that must not be there yet, readable by this user only.
///
/// # Errors
/// A failed job, when the disk refuses.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Stop> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes)).map_err(|e| Stop::disk("write", path, &e))
}

fn private() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn a_work_folder_is_private_made_once_and_removed_whole() {
        let state = tempfile::tempdir().unwrap();
        let work = Work::create(state.path(), Uuid::from_u128(7)).unwrap();
        let mode = std::fs::metadata(work.tmp()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert_eq!(Work::create(state.path(), Uuid::from_u128(7)).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        std::fs::create_dir_all(work.tree().join("deep")).unwrap();
        std::fs::write(work.tree().join("deep/file"), "x").unwrap();
        std::fs::set_permissions(work.tree().join("deep"), Permissions::from_mode(0o500)).unwrap();
        work.remove().await.unwrap();
        assert_eq!(std::fs::read_dir(state.path().join("work")).unwrap().count(), 0);
    }
}
