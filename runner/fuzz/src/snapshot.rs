//! What a portal has submitted.

use serde_json::Value;
use tendril_runner::prepare::snapshot::{Snapshot, Source, State};
use tendril_runner::secrets::{Reference, Source as Kept};
use tendril_templates::{MAX_FILES, Tree};

/// A snapshot that is taken leads nowhere outside its folders, names no option, and sets no variable that programs go by.
pub fn snapshot(data: &[u8]) {
    let Ok(json) = serde_json::from_slice::<Value>(data) else { return };
    if let Ok(snapshot) = Snapshot::read(&json) {
        match &snapshot.source {
            Some(Source::Named { name, .. }) => assert!(!name.contains(['/', '.', '\0']) && !name.is_empty(), "{name}"),
            Some(Source::Git(git)) => assert!(git.folder.as_ref().is_none_or(|folder| is_inside(folder.as_str()))),
            Some(Source::Inline(files)) => {
                if let Ok(tree) = Tree::from_inline(files, "files") {
                    assert!(tree.len() <= MAX_FILES && tree.iter().all(|(path, _)| is_inside(path.as_str())));
                    let folded: std::collections::BTreeSet<_> =
                        tree.iter().map(|(path, _)| path.as_str().to_lowercase()).collect();
                    assert_eq!(folded.len(), tree.len(), "two names that some file systems take for one");
                }
            }
            None => {}
        }
        match &snapshot.state {
            State::Local { path, .. } => assert!(is_inside(path.as_str())),
            State::Remote { kind, .. } => {
                assert!(kind.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'))
            }
            State::Thrown | State::Own => {}
        }
        assert!(
            snapshot.workspace.as_ref().is_none_or(|name| !name.starts_with('-') && !name.contains(['/', '.', ' ']))
        );
    }
    for reference in Reference::all(&json).into_iter().flatten() {
        let name = &reference.variable;
        let is_proxy = name.to_ascii_uppercase().ends_with("_PROXY");
        assert!(!name.starts_with("LD_") && !is_proxy && name != "PATH" && !name.contains(['=', '\0']), "{name}");
        if let Kept::Vault { path, .. } = &reference.source {
            assert!(is_inside(path) && !path.contains(['?', '#', '%']), "{path}");
        }
    }
}

fn is_inside(path: &str) -> bool {
    !path.is_empty() && !path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}
