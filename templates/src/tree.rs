//! A set of files that is safe to write anywhere: what a job runs on.

mod digest;
mod disk;
mod path;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde_json::Value;
use thiserror::Error;

pub use digest::TreeDigest;
pub use path::{MAX_PATH_BYTES, MAX_PATH_SEGMENTS, MAX_SEGMENT_BYTES, PathError, PathFault, TreePath};

/// Files in one tree.
pub const MAX_FILES: usize = 2_000;
/// Bytes of one file (4 MiB).
pub const MAX_FILE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of all files of a tree together (32 MiB).
pub const MAX_TREE_BYTES: usize = 32 * 1024 * 1024;

/// Files by their relative path, within the limits of this module. Holds no links, devices or empty folders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    files: BTreeMap<TreePath, File>,
    /// Every file and folder by its folded name, so that no file system can merge two of them.
    names: BTreeMap<String, Name>,
    total_bytes: usize,
}

/// A file of a [`Tree`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// What the file holds.
    pub bytes: Vec<u8>,
    /// Whether the file may be executed. No other permission is kept.
    pub executable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    spelling: String,
    is_file: bool,
}

/// Why files cannot become a [`Tree`], or a tree cannot be read or written.
#[derive(Debug, Error)]
pub enum TreeError {
    /// A name that is not safe to use.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Two names that some file systems take for one, or a file where a folder must be.
    #[error("`{path}` and `{other}` cannot stand in one tree, rename one")]
    Clash {
        /// The name that came second.
        path: String,
        /// The name that was there.
        other: String,
    },
    /// More than [`MAX_FILES`] files or folders.
    #[error("more than {MAX_FILES} files, keep only what the job needs")]
    TooManyFiles,
    /// A file above [`MAX_FILE_BYTES`].
    #[error("`{path}` is larger than {MAX_FILE_BYTES} bytes, fetch it from the job instead")]
    FileTooLarge {
        /// The file.
        path: String,
    },
    /// Together above [`MAX_TREE_BYTES`].
    #[error("the files are larger than {MAX_TREE_BYTES} bytes together, keep only what the job needs")]
    TooLarge,
    /// A link, device, pipe or socket.
    #[error("`{path}` is a {kind}, only files and folders are taken; replace it by a copy")]
    NotAFile {
        /// What was met, relative to the folder that was read.
        path: String,
        /// What it is.
        kind: &'static str,
    },
    /// An inline tree that is not an object of texts.
    #[error("{path} must be {wanted}")]
    Inline {
        /// Place in the JSON, for example `tree["main.tf"]`.
        path: String,
        /// What belongs there.
        wanted: &'static str,
    },
    /// The file system refused.
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: String,
        /// The file system's answer.
        source: std::io::Error,
    },
}

impl Tree {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Tree {
        Tree::default()
    }

    /// A tree from a JSON object of paths and their text, as it stands in a snapshot. `at` begins the paths
    /// in errors.
    ///
    /// # Errors
    /// Anything but an object of strings, an unsafe path, or a limit that is passed.
    pub fn from_inline(files: &Value, at: &str) -> Result<Tree, TreeError> {
        let refuse = |path: String, wanted| TreeError::Inline { path, wanted };
        let map = files.as_object().ok_or_else(|| refuse(at.to_owned(), "an object of file names and their text"))?;
        let mut tree = Tree::new();
        for (path, text) in map {
            let text =
                text.as_str().ok_or_else(|| refuse(format!("{at}[{}]", Value::from(path.as_str())), "a string"))?;
            tree.insert(TreePath::new(path)?, File { bytes: text.as_bytes().to_vec(), executable: false })?;
        }
        Ok(tree)
    }

    /// Adds a file.
    ///
    /// # Errors
    /// [`TreeError::Clash`] when the name, or one that differs only in case, is taken; or a limit that is passed.
    /// The tree is then unchanged.
    pub fn insert(&mut self, path: TreePath, file: File) -> Result<(), TreeError> {
        if file.bytes.len() > MAX_FILE_BYTES {
            return Err(TreeError::FileTooLarge { path: path.to_string() });
        }
        if self.files.len() >= MAX_FILES {
            return Err(TreeError::TooManyFiles);
        }
        if self.total_bytes + file.bytes.len() > MAX_TREE_BYTES {
            return Err(TreeError::TooLarge);
        }
        let names = names_of(&path);
        for name in &names {
            self.check_name(&path, name)?;
        }
        for (folded, name) in names {
            if let Entry::Vacant(slot) = self.names.entry(folded) {
                slot.insert(name);
            }
        }
        self.total_bytes += file.bytes.len();
        self.files.insert(path, file);
        Ok(())
    }

    fn check_name(&self, path: &TreePath, (folded, name): &(String, Name)) -> Result<(), TreeError> {
        match self.names.get(folded) {
            // The same folder again is the only name that may come twice.
            Some(taken) if taken != name || taken.is_file => {
                Err(TreeError::Clash { path: path.to_string(), other: taken.spelling.clone() })
            }
            _ => Ok(()),
        }
    }

    /// The file at `path`, if there is one.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&File> {
        self.files.get(path)
    }

    /// All files, by the bytes of their paths.
    pub fn iter(&self) -> impl Iterator<Item = (&TreePath, &File)> {
        self.files.iter()
    }

    /// Number of files.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is no file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Bytes of all files together.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        self.total_bytes
    }
}

/// The folders that lead to a file and the file itself, each with its folded name.
fn names_of(path: &TreePath) -> Vec<(String, Name)> {
    let whole = path.as_str();
    let folders = whole.match_indices('/').map(|(end, _)| (&whole[..end], false));
    folders
        .chain([(whole, true)])
        .map(|(spelling, is_file)| (path::fold(spelling), Name { spelling: spelling.to_owned(), is_file }))
        .collect()
}
