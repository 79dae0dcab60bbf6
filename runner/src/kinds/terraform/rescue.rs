//! State that an engine could not save: kept, and shown.

use crate::kinds::terraform::ERRORED_STATE_ARTIFACT;
use crate::prepare::backend::ERRORED_STATE_FILE;
use crate::prepare::source::off_loop;
use crate::run::Run;
use crate::stop::Stop;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const MEDIA_TYPE: &str = "application/vnd.terraform.state+json";

/// Looks for state that the engine could not save, and keeps it as an artifact. Until the broker has it, it lies in a
/// folder that outlives the attempt's own. True when there was any and the broker has it.
pub async fn errored_state(run: &Run, tree: &Path) -> bool {
    let found = tree.join(ERRORED_STATE_FILE);
    if !found.is_file() {
        return false;
    }
    let attempt = run.job.lease.attempt_id;
    let safe = run.config().state_dir.join("rescued").join(attempt.simple().to_string());
    let (from, to) = (found.clone(), safe.clone());
    let moved = off_loop(move || set_aside(&from, &to).map_err(|e| Stop::failed(e.to_string()))).await;
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
            true
        }
        Err(stop) => {
            run.say(format!("  {}", stop.reason()));
            run.say(format!(
                "  it lies on the runner as {}. Once the backend works again, put it back: terraform state push {}",
                place.display(),
                place.display()
            ));
            false
        }
    }
}

async fn store(run: &Run, path: &Path) -> Result<(), Stop> {
    let from = path.to_owned();
    let state = off_loop(move || {
        std::fs::read(&from).map_err(|e| Stop::failed(format!("cannot read {}: {e}", from.display())))
    });
    run.keep(ERRORED_STATE_ARTIFACT, MEDIA_TYPE, &state.await?).await
}

/// Moves the file to a folder of its own, and waits until the disk has it.
fn set_aside(from: &Path, folder: &Path) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let to = folder.join(ERRORED_STATE_FILE);
    std::fs::rename(from, &to)?;
    File::open(&to)?.sync_all()?;
    File::open(folder)?.sync_all()?;
    Ok(to)
}
