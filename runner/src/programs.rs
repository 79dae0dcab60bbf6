//! Programs on this machine.

use nix::unistd::{AccessFlags, access};
use std::path::{Path, PathBuf};

/// The first program of that name in the absolute folders of a PATH.
pub fn lookup(name: &str, search_path: &str) -> Option<PathBuf> {
    let folders = search_path.split(':').map(Path::new).filter(|folder| folder.is_absolute());
    folders.map(|folder| folder.join(name)).find(|path| is_program(path))
}

/// Whether it is a file that may be executed.
pub fn is_program(path: &Path) -> bool {
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
