//! Removes what a job has left, however it is nested.
//!
//! A job can nest folders deeper than any path may be long, than the stack of a thread that walks down, and than this
//! process may have files open. So nobody walks down: every folder that is met is moved to the top, and emptied there.

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::CString;
use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Names that are looked at before the folder is read anew.
const NAMES: usize = 1024;

/// Removes a folder of this user and all that is in it. No link is followed, and what a command has protected by modes is
/// removed too. For a thread that may block.
///
/// # Errors
/// The system's error: something is mounted there, or still written to.
pub fn folder(path: &Path) -> io::Result<()> {
    let place = path.parent().unwrap_or(Path::new("/"));
    let place = nix::fcntl::open(place, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let name = CString::new(path.file_name().unwrap_or_default().as_encoded_bytes())?;
    let top = enter(place.as_fd(), &name)?;
    let mut moved = 0;
    loop {
        let names = names(top.as_fd())?;
        if names.is_empty() {
            break;
        }
        for (name, kind) in names {
            if is_folder(top.as_fd(), &name, kind)? {
                empty(top.as_fd(), &name, &mut moved)?;
                unlinkat(&top, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
            }
        }
    }
    Ok(unlinkat(&place, name.as_c_str(), UnlinkatFlags::RemoveDir)?)
}

/// Removes the files of a folder at the top, and moves its folders beside it.
fn empty(top: BorrowedFd<'_>, name: &CString, moved: &mut u64) -> io::Result<()> {
    let folder = enter(top, name)?;
    loop {
        let names = names(folder.as_fd())?;
        if names.is_empty() {
            return Ok(());
        }
        for (name, kind) in names {
            if is_folder(folder.as_fd(), &name, kind)? {
                // A folder that may not be written to cannot be moved either.
                drop(enter(folder.as_fd(), &name)?);
                move_to(top, folder.as_fd(), &name, moved)?;
            }
        }
    }
}

/// Under a number that nothing at the top has.
fn move_to(top: BorrowedFd<'_>, folder: BorrowedFd<'_>, name: &CString, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        match renameat(folder, name.as_c_str(), top, format!("{moved}").as_str()) {
            Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
            other => return Ok(other?),
        }
    }
}

/// Whether it is a folder; anything else is gone after this.
fn is_folder(parent: BorrowedFd<'_>, name: &CString, kind: Option<Type>) -> io::Result<bool> {
    if kind == Some(Type::Directory) {
        return Ok(true);
    }
    match unlinkat(parent, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(false),
        Err(Errno::EISDIR) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens a folder after making it one that its owner may read, enter and change.
fn enter(parent: BorrowedFd<'_>, name: &CString) -> io::Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let found = openat(parent, name.as_c_str(), flags | OFlag::O_PATH, Mode::empty())?;
    let exactly = format!("/proc/self/fd/{}", found.as_raw_fd());
    std::fs::set_permissions(exactly, Permissions::from_mode(0o700))?;
    Ok(openat(&found, c".", OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

fn names(folder: BorrowedFd<'_>) -> io::Result<Vec<(CString, Option<Type>)>> {
    let mut dir = Dir::openat(folder, c".", OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry?;
        if ![c".", c".."].contains(&entry.file_name()) {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
        if names.len() >= NAMES {
            break;
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::mkdirat;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_deeper_than_paths_stacks_and_open_files_reach_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("work");
        std::fs::create_dir(&root).unwrap();
        let mut deepest = OwnedFd::from(std::fs::File::open(&root).unwrap());
        for _ in 0..12_000 {
            mkdirat(&deepest, "d", Mode::S_IRWXU).unwrap();
            deepest = openat(&deepest, "d", OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        }
        folder(&root).unwrap();
        assert!(!root.exists());
    }

    #[test]
    fn what_links_lead_to_stays_and_what_modes_protect_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("work"), dir.path().join("outside"));
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("kept"), "x").unwrap();
        std::fs::set_permissions(&outside, Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir_all(root.join("a/b/c")).unwrap();
        std::fs::create_dir_all(root.join("1/2")).unwrap();
        symlink(&outside, root.join("link")).unwrap();
        symlink(&outside, root.join("a/b/link")).unwrap();
        std::fs::hard_link(outside.join("kept"), root.join("a/hard")).unwrap();
        nix::unistd::mkfifo(&root.join("a/pipe"), Mode::S_IRWXU).unwrap();
        for index in 0..3000 {
            std::fs::write(root.join(format!("a/b/c/{index}")), "x").unwrap();
        }
        for path in ["a/b/c", "a/b", "a"] {
            std::fs::set_permissions(root.join(path), Permissions::from_mode(0o000)).unwrap();
        }
        folder(&root).unwrap();
        assert!(!root.exists());
        assert_eq!(std::fs::read_to_string(outside.join("kept")).unwrap(), "x");
        assert_eq!(std::fs::metadata(&outside).unwrap().permissions().mode() & 0o777, 0o755);
    }
}
