//! Reading a tree from a folder and writing it to a new one.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::mkdir;
use walkdir::{DirEntry, WalkDir};

use super::{File, MAX_FILE_BYTES, MAX_FILES, MAX_PATH_SEGMENTS, PathError, PathFault, Tree, TreeError, TreePath};

/// What tools keep beside the files (a submodule's `.git` is a file); left out wherever it is met.
const SKIPPED: [&str; 2] = [".git", ".terraform"];

impl Tree {
    /// Reads a folder. What is named `.git` or `.terraform` is left out, empty folders leave no trace.
    ///
    /// # Errors
    /// Any link, device, pipe or socket, an unsafe name, or a limit that is passed; the first one met, in the
    /// order of the names.
    pub fn read_dir(dir: &Path) -> Result<Tree, TreeError> {
        let mut tree = Tree::new();
        let mut met = 0;
        // One level more than a path may have, so that too deep a file is met and refused.
        let walk = WalkDir::new(dir).follow_links(false).sort_by_file_name().max_depth(MAX_PATH_SEGMENTS + 1);
        for entry in walk.into_iter().filter_entry(|entry| !is_skipped(entry)) {
            let entry = entry.map_err(|error| walk_error(dir, error))?;
            met += 1;
            if met > 2 * MAX_FILES {
                return Err(TreeError::TooManyFiles);
            }
            let relative = entry.path().strip_prefix(dir).unwrap_or(entry.path());
            let shown = relative.to_string_lossy().into_owned();
            let kind = entry.file_type();
            // The folder to read may itself be named through a link: its owner chose it.
            if entry.depth() == 0 && entry.path().is_dir() || kind.is_dir() && entry.depth() <= MAX_PATH_SEGMENTS {
                continue;
            }
            if entry.depth() == 0 {
                return Err(not_a_folder(dir));
            }
            if !kind.is_dir() && !kind.is_file() {
                return Err(TreeError::NotAFile { path: shown, kind: kind_of(kind) });
            }
            let Some(name) = relative.to_str() else {
                return Err(PathError { path: shown, fault: PathFault::NotUtf8 }.into());
            };
            let path = TreePath::new(name)?;
            let file = read_file(entry.path(), &shown)?;
            tree.insert(path, file)?;
        }
        Ok(tree)
    }

    /// Writes the tree to `dir`, which must not exist yet while its parent must.
    ///
    /// Folders and executable files get mode 0700, other files 0600: a tree may hold secrets. No link is followed
    /// and nothing is overwritten.
    ///
    /// # Errors
    /// Whatever the file system refuses. What was written until then stays.
    pub fn write_to(&self, dir: &Path) -> Result<(), TreeError> {
        let failed =
            |action, path: &str, errno: Errno| TreeError::Io { action, path: path.to_owned(), source: errno.into() };
        let shown = dir.display().to_string();
        mkdir(dir, Mode::S_IRWXU).map_err(|e| failed("create the folder", &shown, e))?;
        for (path, file) in self.iter() {
            let failed = |errno| failed("write", path.as_str(), errno);
            let (folders, name) = path.split();
            let mut folder = open_folder(None, dir).map_err(failed)?;
            for name in folders {
                match mkdirat(&folder, name, Mode::S_IRWXU) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(failed(errno)),
                }
                folder = open_folder(Some(&folder), Path::new(name)).map_err(failed)?;
            }
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let mode = Mode::S_IRUSR | Mode::S_IWUSR | if file.executable { Mode::S_IXUSR } else { Mode::empty() };
            let out = openat(&folder, name, flags, mode).map_err(failed)?;
            fs::File::from(out).write_all(&file.bytes).map_err(|source| TreeError::Io {
                action: "write",
                path: path.to_string(),
                source,
            })?;
        }
        Ok(())
    }
}

fn open_folder(parent: Option<&OwnedFd>, name: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match parent {
        Some(parent) => openat(parent, name, flags, Mode::empty()),
        None => nix::fcntl::open(name, flags, Mode::empty()),
    }
}

fn is_skipped(entry: &DirEntry) -> bool {
    entry.depth() > 0 && SKIPPED.iter().any(|name| entry.file_name() == *name)
}

fn kind_of(kind: fs::FileType) -> &'static str {
    if kind.is_symlink() {
        "symbolic link"
    } else if kind.is_fifo() {
        "pipe"
    } else if kind.is_socket() {
        "socket"
    } else {
        "device"
    }
}

/// Reads a file that the walk called regular, and makes sure of it: it may have been replaced since.
fn read_file(path: &Path, shown: &str) -> Result<File, TreeError> {
    let failed = |source| TreeError::Io { action: "read", path: shown.to_owned(), source };
    // Without O_NONBLOCK, opening a pipe would wait for a writer.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(TreeError::NotAFile { path: shown.to_owned(), kind: kind_of(metadata.file_type()) });
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(File { bytes, executable: metadata.permissions().mode() & 0o111 != 0 })
}

fn not_a_folder(dir: &Path) -> TreeError {
    let source = std::io::Error::from(std::io::ErrorKind::NotADirectory);
    TreeError::Io { action: "read", path: dir.display().to_string(), source }
}

fn walk_error(dir: &Path, error: walkdir::Error) -> TreeError {
    let path = error.path().unwrap_or(dir).display().to_string();
    let source = error.into_io_error().unwrap_or_else(|| std::io::Error::other("a folder contains itself"));
    TreeError::Io { action: "read", path, source }
}
