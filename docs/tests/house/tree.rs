//! The files of the tree, as text.

use std::io;
use std::path::Path;

use walkdir::{DirEntry, WalkDir};

/// Everything the rules look at: the text files of the project, without what was built or installed.
#[derive(Default)]
pub struct Tree {
    pub files: Vec<File>,
    /// All paths, folders and binary files included, relative to the root.
    pub paths: Vec<String>,
}

pub struct File {
    /// Relative to the root of the tree, with `/` between its parts.
    pub path: String,
    pub text: String,
}

impl Tree {
    pub fn read(root: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        for entry in WalkDir::new(root).sort_by_file_name().into_iter().filter_entry(belongs_to_project) {
            let entry = entry?;
            let Ok(path) = entry.path().strip_prefix(root) else {
                continue;
            };
            let path = path.to_string_lossy().into_owned();
            tree.paths.push(path.clone());
            if entry.file_type().is_file()
                && let Ok(text) = String::from_utf8(std::fs::read(entry.path())?)
            {
                tree.files.push(File { path, text });
            }
        }
        Ok(tree)
    }

    #[cfg(test)]
    pub fn of(files: &[(&str, &str)]) -> Self {
        let paths = files.iter().map(|(path, _)| (*path).to_owned()).collect();
        let files = files.iter().map(|(path, text)| File::new(path, text)).collect();
        Self { files, paths }
    }

    pub fn with_extension<'a>(&'a self, extension: &'a str) -> impl Iterator<Item = &'a File> {
        self.files.iter().filter(move |file| file.extension() == Some(extension))
    }

    pub fn exists(&self, path: &str) -> bool {
        self.paths.iter().any(|known| known == path)
    }
}

impl File {
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    pub fn extension(&self) -> Option<&str> {
        self.name().rsplit_once('.').map(|(_, extension)| extension)
    }

    /// The folder of the crate, or of whatever else stands at the root.
    pub fn top(&self) -> &str {
        self.path.split('/').next().unwrap_or(&self.path)
    }

    /// Whether the whole file is a test or serves one.
    pub fn is_test(&self) -> bool {
        self.path.split('/').any(|part| matches!(part, "tests" | "tests.rs" | "benches"))
            || ["_test.rs", "_tests.rs"].iter().any(|end| self.name().ends_with(end))
    }
}

fn belongs_to_project(entry: &DirEntry) -> bool {
    let hidden = |name: &str| name.starts_with('.') && !matches!(name, "." | ".." | ".ci");
    let name = entry.file_name().to_string_lossy();
    entry.depth() == 0 || !(name == "target" || name == "node_modules" || entry.file_type().is_dir() && hidden(&name))
}
