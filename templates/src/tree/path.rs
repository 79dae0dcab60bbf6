//! Names of files in a tree.

use std::borrow::Borrow;
use std::fmt;

use thiserror::Error;
use unicode_normalization::is_nfc;

/// Bytes of a whole path.
pub const MAX_PATH_BYTES: usize = 512;
/// Bytes of one name between slashes.
pub const MAX_SEGMENT_BYTES: usize = 128;
/// Names in a path: the folders and the file.
pub const MAX_PATH_SEGMENTS: usize = 16;

/// Names that tools read as their own; `git~1` is what Windows calls `.git`.
const RESERVED: [&str; 3] = [".git", "git~1", ".terraform"];

/// A relative path with `/` between names that stays inside whatever folder it is joined to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(String);

/// A path that is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{path:?} is not a path that a tree may hold: {fault}")]
pub struct PathError {
    /// The path, cut to a length that can be printed.
    pub path: String,
    /// What is wrong with it.
    pub fault: PathFault,
}

/// What is wrong with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PathFault {
    /// Nothing, or nothing between two slashes or after the last.
    #[error("it has an empty name, write it without doubled or trailing slashes")]
    Empty,
    /// It begins with a slash.
    #[error("it is absolute, write it relative to the tree")]
    Absolute,
    /// `.` or `..`.
    #[error("it has `.` or `..` in it, write it out")]
    Dots,
    /// A backslash, a control character, or one that does not show.
    #[error("it has a backslash, or a character that does not show")]
    Character,
    /// `.git`, `.terraform`, in any case.
    #[error("`.git` and `.terraform` belong to the tools")]
    Reserved,
    /// A name that ends with a dot or a space, which some file systems drop.
    #[error("a name ends with a dot or a space")]
    Ending,
    /// The same text can be spelt with fewer code points.
    #[error("it is not in Unicode's composed form (NFC)")]
    NotComposed,
    /// Past one of the limits.
    #[error("it is too long: at most {MAX_PATH_BYTES} bytes, {MAX_SEGMENT_BYTES} a name, {MAX_PATH_SEGMENTS} names")]
    TooLong,
    /// Bytes that are not UTF-8.
    #[error("it is not UTF-8")]
    NotUtf8,
}

impl TreePath {
    /// Takes a path if it is safe.
    ///
    /// # Errors
    /// [`PathError`] with the first fault found.
    pub fn new(path: &str) -> Result<TreePath, PathError> {
        match fault(path) {
            Some(fault) => Err(PathError { path: path.chars().take(MAX_SEGMENT_BYTES).collect(), fault }),
            None => Ok(TreePath(path.to_owned())),
        }
    }

    /// The path, with `/` between names.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folders that lead to the file, outermost first, and the file's own name.
    pub(super) fn split(&self) -> (Vec<&str>, &str) {
        let mut names: Vec<&str> = self.0.split('/').collect();
        let file = names.pop().unwrap_or_default();
        (names, file)
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for TreePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

fn fault(path: &str) -> Option<PathFault> {
    if path.len() > MAX_PATH_BYTES || path.split('/').count() > MAX_PATH_SEGMENTS {
        return Some(PathFault::TooLong);
    }
    if path.starts_with('/') {
        return Some(PathFault::Absolute);
    }
    if path.chars().any(|c| c == '\\' || c.is_control() || is_invisible(c)) {
        return Some(PathFault::Character);
    }
    if !is_nfc(path) {
        return Some(PathFault::NotComposed);
    }
    path.split('/').find_map(segment_fault)
}

fn segment_fault(name: &str) -> Option<PathFault> {
    match name {
        "" => Some(PathFault::Empty),
        "." | ".." => Some(PathFault::Dots),
        _ if name.len() > MAX_SEGMENT_BYTES => Some(PathFault::TooLong),
        _ if RESERVED.contains(&fold(name).as_str()) => Some(PathFault::Reserved),
        _ if name.ends_with(['.', ' ']) => Some(PathFault::Ending),
        _ => None,
    }
}

/// What names have in common that a file system which ignores case takes for one.
pub(super) fn fold(name: &str) -> String {
    // Upper first: it brings together letters that share only their capital, such as s and long s.
    name.to_uppercase().to_lowercase()
}

/// Characters that file systems or people overlook (Unicode's Default_Ignorable_Code_Point).
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}
