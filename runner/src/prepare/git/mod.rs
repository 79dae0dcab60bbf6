//! Git sources: fetched shallow and, for a subfolder, sparse; then copied, so that nothing of git is left in the tree.
//!
//! What is submitted chooses an address, a name and a folder, and nothing else: hooks, filters, credential helpers,
//! redirects and other transports are off, and a submodule is fetched only when asked for, over https. See
//! `surroundings`.

mod address;
mod surroundings;

pub use address::{Address, Transport, is_reference};

use crate::command::{Command, Room};
use crate::egress::check_past_proxy;
use crate::off_loop::off_loop;
use crate::prepare::snapshot::GitSource;
use crate::run::Run;
use crate::sandbox::Access;
use crate::stop::Stop;
use crate::supervise::Class;
use crate::toolbox::Toolbox;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use tendril_templates::{Tree, TreePath};

/// Largest repository, in bytes on disk: what was fetched and what was checked out of it.
pub const MAX_REPOSITORY_BYTES: u64 = 512 * 1024 * 1024;

/// A repository in the work folder.
struct Repository {
    git: PathBuf,
    dir: PathBuf,
    env: BTreeMap<String, String>,
    address: Address,
    access: Access,
}

/// Fetches what the source names; returns its files and the commit.
///
/// # Errors
/// A refusal of what may not be fetched; else a failure with git's words.
pub async fn fetch(run: &mut Run, toolbox: &Toolbox, source: &GitSource) -> Result<(Tree, String), Stop> {
    let address = Address::parse(&source.url).map_err(|why| Stop::refused(format!("template.git: {why}")))?;
    let reference = source.reference.as_deref().unwrap_or("HEAD");
    if !is_reference(reference) {
        return Err(Stop::refused("template.ref: must be a branch, a tag or a whole commit id"));
    }
    let Some(git) = toolbox.git.clone() else {
        return Err(Stop::refused("template.git: there is no git on this runner; install it"));
    };
    let access = surroundings::access(run, &address);
    if address.transport == Transport::Ssh {
        let port = access.connect.first().copied().unwrap_or(22);
        let host = address.host.split(':').next().unwrap_or_default();
        check_past_proxy(run.config(), host, port)?;
    }
    let env = surroundings::environment(toolbox, run, &address, source.folder.is_some())?;
    let repository = Repository { git, dir: run.work.file("git"), env, address, access };
    run.say(format!("fetching {} at {reference}", repository.address));
    repository.check_out(run, reference, source).await?;
    let (dir, folder) = (repository.dir, source.folder.clone());
    let (tree, commit) = off_loop(move || read(&dir, folder.as_ref())).await?;
    run.say(format!("commit {commit}, {} files", tree.len()));
    Ok((tree, commit))
}

impl Repository {
    async fn check_out(&self, run: &mut Run, reference: &str, source: &GitSource) -> Result<(), Stop> {
        self.make().map_err(|e| Stop::disk("make", &self.dir, &e))?;
        let transport = self.address.transport;
        // An empty template: else git would copy the system's hooks.
        self.git(run, "init", transport, &["--quiet", "--template="]).await?;
        let url = self.address.to_string();
        self.git(run, "remote", transport, &["add", "--", "origin", &url]).await?;
        let mut fetch = vec!["--depth=1", "--no-tags", "--no-recurse-submodules", "--no-progress"];
        if let Some(folder) = &source.folder {
            self.narrow(folder).map_err(|e| Stop::disk("write to", &self.dir, &e))?;
            // Only what is checked out is fetched then, where the server can do that.
            fetch.push("--filter=blob:none");
        }
        fetch.extend(["--end-of-options", "origin", reference]);
        self.git(run, "fetch", transport, &fetch).await?;
        self.git(run, "checkout", transport, &["--quiet", "--force", "--detach", "FETCH_HEAD"]).await?;
        if source.submodules {
            let folder = source.folder.as_ref().map_or(".", TreePath::as_str);
            let update = ["update", "--init", "--recursive", "--checkout", "--depth=1", "--", folder];
            self.git(run, "submodule", Transport::Https, &update).await?;
        }
        Ok(())
    }

    fn make(&self) -> io::Result<()> {
        std::fs::create_dir(&self.dir)
    }

    /// Checks out this folder only.
    fn narrow(&self, folder: &TreePath) -> io::Result<()> {
        let info = self.dir.join(".git/info");
        std::fs::create_dir_all(&info)?;
        let escaped: String =
            (folder.as_str().chars()).flat_map(|c| "*?[".contains(c).then_some('\\').into_iter().chain([c])).collect();
        std::fs::write(info.join("sparse-checkout"), format!("/{escaped}/\n/.gitmodules\n"))
    }

    async fn git(&self, run: &mut Run, name: &'static str, transport: Transport, args: &[&str]) -> Result<(), Stop> {
        let env = surroundings::allowed(&self.env, transport);
        let mut command =
            Command::new(name, &self.git, self.dir.clone()).args([name]).args(args.iter().copied()).env(env);
        command.access = self.access.clone();
        command.room = Some(Room { dir: self.dir.clone(), bytes: MAX_REPOSITORY_BYTES });
        let finished = run.command(command).await?;
        if finished.overfull {
            return Err(Stop::refused(format!(
                "{} has more than {MAX_REPOSITORY_BYTES} bytes; name a folder of it in template.path",
                self.address
            )));
        }
        let words = finished.words().into_owned();
        finished.require_success("git", Class::Reading).map_err(|stop| self.explained(stop, name, &words))
    }

    fn explained(&self, stop: Stop, name: &str, words: &str) -> Stop {
        match stop {
            Stop::Failed { permanent: false, result, .. } => {
                let word = words.lines().find(|line| line.starts_with("fatal: ") || line.starts_with("error: "));
                let reason = format!("git {name} of {}: {}", self.address, word.unwrap_or("failed, see the log"));
                Stop::Failed { reason, permanent: false, result }
            }
            stop => stop,
        }
    }
}

/// Reads the files and the commit, and removes the repository.
fn read(dir: &Path, folder: Option<&TreePath>) -> Result<(Tree, String), Stop> {
    let head = std::fs::read_to_string(dir.join(".git/HEAD")).unwrap_or_default();
    let commit = head.trim();
    if commit.len() < 40 || !commit.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Stop::failed("git left no commit behind; see the log"));
    }
    let root = match folder {
        Some(folder) => within(dir, folder)?,
        None => dir.to_owned(),
    };
    let tree = Tree::read_dir(&root).map_err(|e| Stop::refused(format!("the files of commit {commit}: {e}")))?;
    if tree.is_empty() {
        return Err(Stop::refused(format!("commit {commit} has no files there; correct template.path")));
    }
    std::fs::remove_dir_all(dir).map_err(|e| Stop::disk("remove", dir, &e))?;
    Ok((tree, commit.to_owned()))
}

/// The folder within the repository, to which no link leads.
fn within(dir: &Path, folder: &TreePath) -> Result<PathBuf, Stop> {
    let mut path = dir.to_owned();
    for name in folder.as_str().split('/') {
        path.push(name);
        let is_folder = std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        if !is_folder {
            return Err(Stop::refused(format!("template.path: {folder} is no folder of that commit")));
        }
    }
    Ok(path)
}
