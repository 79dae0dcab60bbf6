//! State that an engine could not save: kept, and shown.

use crate::kinds::terraform::ERRORED_STATE_ARTIFACT;
use crate::off_loop::off_loop;
use crate::prepare::backend::ERRORED_STATE_FILE;
use crate::run::Run;
use crate::stop::Stop;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const MEDIA_TYPE: &str = "application/vnd.terraform.state+json";
/// A larger file is not read, in bytes: it stays where it is. (The broker's own limit is smaller.)
const MAX_STATE_BYTES: u64 = 256 * 1024 * 1024;

/// Where state is that could not be saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rescued {
    /// The broker has it, as an artifact.
    Stored,
    /// Only this runner's disk has it.
    OnDisk(PathBuf),
}

impl std::fmt::Display for Rescued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stored => write!(f, "the state could not be saved, artifact {ERRORED_STATE_ARTIFACT} holds it"),
            Self::OnDisk(path) => {
                write!(f, "the state could not be saved, it lies on the runner as {}", path.display())
            }
        }
    }
}

/// Looks for state that the engine could not save, and keeps it as an artifact. Until the broker has it, it lies in a
/// folder that outlives the attempt's own; where not even that can be made, the attempt's own folder stays.
pub async fn errored_state(run: &mut Run, tree: &Path) -> Option<Rescued> {
    let found = tree.join(ERRORED_STATE_FILE);
    let attempt = run.job.lease.attempt_id;
    let safe = run.config().state_dir.join("rescued").join(attempt.simple().to_string());
    let moved = if is_file(&found) {
        let (from, to) = (found.clone(), safe.clone());
        off_loop(move || set_aside(&from, &to).map_err(|e| Stop::failed(e.to_string()))).await
    } else {
        // By an earlier process, which was lost before the broker had it.
        let aside = safe.join(ERRORED_STATE_FILE);
        if !is_file(&aside) {
            return None;
        }
        Ok(aside)
    };
    let place = match &moved {
        Ok(path) => path.clone(),
        Err(stop) => {
            run.say(format!("the unsaved state could not be set aside: {}", stop.reason()));
            found
        }
    };
    run.say("the engine could not save its state; it is not lost:");
    match store(run, &place).await {
        Ok(()) => {
            run.say(format!(
                "  artifact {ERRORED_STATE_ARTIFACT} of attempt {attempt} holds it. Once the backend works again, put it \
                 back from the folder of the configuration: terraform state push {ERRORED_STATE_FILE}"
            ));
            if moved.is_ok() {
                drop(std::fs::remove_dir_all(&safe));
            }
            Some(Rescued::Stored)
        }
        Err(stop) => {
            run.say(format!("  {}", stop.reason()));
            run.say(format!(
                "  it lies on the runner as {}. Once the backend works again, put it back: terraform state push {}",
                place.display(),
                place.display()
            ));
            if moved.is_err() {
                run.keep_folder();
            }
            Some(Rescued::OnDisk(place))
        }
    }
}

fn is_file(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file())
}

async fn store(run: &Run, path: &Path) -> Result<(), Stop> {
    let from = path.to_owned();
    let state = off_loop(move || read(&from).map_err(|e| Stop::failed(format!("cannot read {}: {e}", from.display()))));
    run.keep(ERRORED_STATE_ARTIFACT, MEDIA_TYPE, &state.await?).await
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::metadata(path)?.len() {
        bytes if bytes > MAX_STATE_BYTES => Err(io::Error::other(format!("it has {bytes} bytes"))),
        _ => std::fs::read(path),
    }
}

/// Moves the file to a folder of its own, and waits until the disk has it.
fn set_aside(from: &Path, folder: &Path) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let to = folder.join(ERRORED_STATE_FILE);
    std::fs::rename(from, &to)?;
    // It lies there now, whatever a disk in trouble says to this.
    let synced = File::open(&to).and_then(|file| file.sync_all()).and_then(|()| File::open(folder)?.sync_all());
    if let Err(error) = synced {
        tracing::warn!(%error, path = %to.display(), "unsaved state may not survive a power cut");
    }
    Ok(to)
}
