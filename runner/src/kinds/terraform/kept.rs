//! The files as a plan has left them, for its apply.

use crate::kinds::terraform::site::LOCK_FILE;
use crate::off_loop::off_loop;
use crate::prepare::backend::BACKEND_FILE;
use crate::run::Run;
use crate::stop::Stop;
use std::path::{Path, PathBuf};
use tendril_templates::{File, Tree, TreeError, TreePath};

/// The tree with the lock file, and with what data sources have written for the apply to read. When that is more than a
/// tree may hold, without the latter, and the log says so.
///
/// # Errors
/// A failed job.
pub async fn tree_after_plan(run: &Run, before: Tree, dir: PathBuf) -> Result<Tree, Stop> {
    let (after, trouble) = off_loop(move || match Tree::read_dir(&dir).and_then(|after| without_backend(&after)) {
        Ok(after) => Ok((after, None)),
        Err(error) => {
            let after = with_lock_file(&before, &dir).map_err(|e| Stop::refused(e.to_string()))?;
            Ok((after, Some(error)))
        }
    })
    .await?;
    if let Some(trouble) = trouble {
        run.say(format!("what the plan has written beside its files is not kept for the apply: {trouble}"));
    }
    Ok(after)
}

fn without_backend(tree: &Tree) -> Result<Tree, TreeError> {
    copied(tree, |path| path.as_str() != BACKEND_FILE)
}

fn with_lock_file(tree: &Tree, dir: &Path) -> Result<Tree, TreeError> {
    let Ok(bytes) = std::fs::read(dir.join(LOCK_FILE)) else { return copied(tree, |_| true) };
    let mut whole = copied(tree, |path| path.as_str() != LOCK_FILE)?;
    whole.insert(TreePath::new(LOCK_FILE)?, File { bytes, executable: false })?;
    Ok(whole)
}

fn copied(tree: &Tree, wanted: impl Fn(&TreePath) -> bool) -> Result<Tree, TreeError> {
    let mut copy = Tree::new();
    for (path, file) in tree.iter().filter(|(path, _)| wanted(path)) {
        copy.insert(path.clone(), file.clone())?;
    }
    Ok(copy)
}
