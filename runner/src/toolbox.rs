//! What this machine has for jobs: programs and environment, looked up once at the start.

use crate::config::Config;
use crate::engines::Engines;
use crate::prepare::environment;
use nix::unistd::{AccessFlags, access};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Programs and environment of this machine.
#[derive(Clone, Debug, Default)]
pub struct Toolbox {
    /// Terraform and OpenTofu.
    pub engines: Engines,
    /// Git, for git sources.
    pub git: Option<PathBuf>,
    /// Infracost.
    pub infracost: Option<PathBuf>,
    /// Variables that every job sees: what `tools.pass_env` and `tools.env` allow, and PATH.
    pub env: BTreeMap<String, String>,
}

impl Toolbox {
    /// Looks for everything that the settings name, else on the runner's own PATH. `own` is the runner's environment.
    pub async fn find(config: &Config, own: &BTreeMap<String, String>) -> Self {
        let search_path = own.get("PATH").map_or("", String::as_str);
        let infracost = match &config.infracost.path {
            Some(path) => Some(path.clone()).filter(|path| is_program(path)),
            None => lookup("infracost", search_path),
        };
        Self {
            engines: Engines::detect(&config.tools, search_path).await,
            git: lookup("git", search_path),
            infracost,
            env: environment::allowed(&config.tools, own),
        }
    }
}

/// The first program of that name in the absolute folders of a PATH.
pub fn lookup(name: &str, search_path: &str) -> Option<PathBuf> {
    let folders = search_path.split(':').map(Path::new).filter(|folder| folder.is_absolute());
    folders.map(|folder| folder.join(name)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.is_file() && access(path, AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_an_executable_file_in_an_absolute_folder() {
        assert!(lookup("sh", "/nowhere:/usr/bin:/bin").is_some_and(|path| path.ends_with("sh")));
        assert_eq!(lookup("sh", "bin:."), None);
        assert_eq!(lookup("bin", "/usr:/"), None, "a folder is no program");
        assert_eq!(lookup("passwd", "/etc"), None, "not executable");
    }
}
