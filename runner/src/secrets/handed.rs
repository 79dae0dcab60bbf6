//! Handing secrets to one command, and taking back what can be.

use super::hidden::Hidden;
use super::reference::{As, Reference};
use crate::attempt_log::AttemptLog;
use crate::clock::BootTime;
use crate::command::Command;
use crate::logs::Secret;
use crate::off_loop::off_loop;
use crate::prepare::secrets::Keyring;
use crate::start::{LONGEST_WAIT, waits};
use crate::stop::Stop;
use crate::work::{Work, write_new};
use secrecy::ExposeSecret;
use serde_json::Value;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;
use tendril_broker::runner::Claimed;
use zeroize::Zeroizing;

/// Where values that are handed as files lie while their command runs, in the attempt's folder.
const FOLDER: &str = "secrets";
/// How long a source that is away is asked again for a command that runs already.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the commands of an attempt were given so far.
#[derive(Debug, Default)]
pub struct Handed {
    /// All values: what one command was given, another may print.
    known: Vec<Secret>,
}

impl Handed {
    /// The values of all references of a job: for whoever goes on with a command and does not know what it was given. A source
    /// that is away is asked again for a while: until it answers nothing of the command can be shown.
    ///
    /// # Errors
    /// One of them cannot be had.
    pub async fn all(keyring: &Keyring, snapshot: &Value, job: &str) -> Result<Vec<Secret>, Stop> {
        let (begun, mut waits) = (BootTime::now(), waits());
        loop {
            match Self::all_now(keyring, snapshot, job).await {
                Err(Stop::Failed { permanent: false, .. }) if begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(waits.next().unwrap_or(LONGEST_WAIT)).await;
                }
                known => return known,
            }
        }
    }

    async fn all_now(keyring: &Keyring, snapshot: &Value, job: &str) -> Result<Vec<Secret>, Stop> {
        let mut values = Vec::new();
        for reference in Reference::all(snapshot)?.into_iter().filter(|one| one.is_of(job)) {
            values.push(keyring.resolve(&reference).await?);
        }
        Ok(values)
    }

    /// Fetches what the command is to have, keeps it out of the log from now on, and gives it to the command.
    ///
    /// # Errors
    /// A refusal that names the variable, where the value should be, and what to do.
    pub async fn give(
        &mut self,
        (keyring, log): (&Arc<Keyring>, &Arc<AttemptLog>),
        (job, work): (&Claimed, &Work),
        mut command: Command,
    ) -> Result<Command, Stop> {
        let all = Reference::all(&job.snapshot)?;
        let wanted: Vec<&Reference> = all.iter().filter(|one| one.is_for(&job.job, command.name)).collect();
        if wanted.is_empty() {
            return Ok(command);
        }
        Reference::check_once(wanted.iter().copied())?;
        let mut values = Vec::new();
        for reference in &wanted {
            values.push(keyring.resolve(reference).await?);
        }
        // Before anything can be printed that has one of them in it.
        let is_known =
            |value: &Secret| self.known.iter().any(|one| one.value.expose_secret() == value.value.expose_secret());
        let new: Vec<Secret> = values.iter().filter(|value| !is_known(value)).cloned().collect();
        if !new.is_empty() {
            self.known.extend(new);
            let (keyring, log, snapshot, known) =
                (keyring.clone(), log.clone(), job.snapshot.clone(), self.known.clone());
            off_loop(move || keyring.guard_with(&log, &snapshot, &known)).await?;
        }
        for (reference, value) in wanted.into_iter().zip(&values) {
            let handed = match reference.handed {
                As::Env => Hidden::from(&value.value),
                As::File => {
                    let path = file(work, reference, value)?;
                    command.access.read.push(path.clone());
                    Hidden::from(path.display().to_string().as_str())
                }
            };
            command.env.remove(&reference.variable);
            command.secrets.insert(reference.variable.clone(), handed);
        }
        Ok(command)
    }

    /// Removes the files of a command that has ended.
    pub fn take_back(work: &Work) {
        let folder = work.file(FOLDER);
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, folder = %folder.display(), "files with secrets of a command that has ended could not be removed");
            }
            _ => {}
        }
    }
}

/// A file that only this user reads, and of others' commands none.
fn file(work: &Work, reference: &Reference, value: &Secret) -> Result<std::path::PathBuf, Stop> {
    let folder = work.file(FOLDER);
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Stop::disk("make", &folder, &error));
        }
        _ => {}
    }
    let path = folder.join(&reference.variable);
    // Of a command whose end nobody has seen.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Stop::disk("replace", &path, &error));
        }
        _ => {}
    }
    let text = value.value.expose_secret();
    // Of a text of several lines the last one has an end.
    let end = if text.contains('\n') { "\n" } else { "" };
    write_new(&path, Zeroizing::new(format!("{text}{end}")).as_bytes())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;
    use uuid::Uuid;

    #[test]
    fn a_file_that_a_lost_command_left_is_replaced_and_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let work = Work::create(dir.path(), Uuid::from_u128(1)).unwrap();
        let one = json!({"secrets": [{"variable": "KEY", "from": "env", "name": "K", "as": "file"}]});
        let reference = Reference::all(&one).unwrap().remove(0);
        let mut path = None;
        // Tried: the same variable twice, with nothing taken back between the two.
        for value in ["the first one", "rotated"] {
            let secret = Secret::new("secret KEY", value);
            let written = file(&work, &reference, &secret).unwrap();
            assert_eq!(std::fs::read_to_string(&written).unwrap(), value);
            assert_eq!(std::fs::metadata(&written).unwrap().permissions().mode() & 0o777, 0o600);
            path = Some(written);
        }
        Handed::take_back(&work);
        assert!(!path.unwrap().exists());
    }
}
