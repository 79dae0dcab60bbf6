//! What a program needs to be executed beside itself: an ELF program's loader, a script's interpreter.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A script's interpreter may be a script itself, and the kernel follows a few.
const MOST_INTERPRETERS: usize = 4;
/// The kernel reads as much of a first line.
const HEAD_BYTES: usize = 256;
const INTERP: u32 = 3;
/// Longer than any path.
const LONGEST_PATH: u64 = 4096;
/// More headers than any linker writes.
const MOST_HEADERS: u16 = 64;

/// The files that the kernel executes along with this one. None for a static program, for a folder, and for what cannot be read.
pub(super) fn companions(program: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut next = needed(program);
    while let Some(path) = next.take() {
        if found.len() >= MOST_INTERPRETERS || found.contains(&path) {
            break;
        }
        next = needed(&path);
        found.push(path);
    }
    found
}

fn needed(program: &Path) -> Option<PathBuf> {
    let file = File::open(program).ok().filter(|file| file.metadata().is_ok_and(|metadata| metadata.is_file()))?;
    let mut head = Vec::with_capacity(HEAD_BYTES);
    (&file).take(HEAD_BYTES as u64).read_to_end(&mut head).ok()?;
    let path = match head.strip_prefix(b"#!") {
        Some(rest) => {
            let line = rest.split(|byte| *byte == b'\n').next()?.trim_ascii_start();
            line.split(|byte| byte.is_ascii_whitespace()).next()?.to_vec()
        }
        None => elf_loader(&file, &head)?,
    };
    let path = PathBuf::from(String::from_utf8(path).ok()?);
    path.is_absolute().then_some(path)
}

/// Of a 64-bit little-endian program, which is all that runs here.
fn elf_loader(file: &File, head: &[u8]) -> Option<Vec<u8>> {
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let half = |bytes: &[u8], at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let word = |bytes: &[u8], at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let long = |bytes: &[u8], at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let (table, size, count) = (long(head, 32)?, half(head, 54)?, half(head, 56)?.min(MOST_HEADERS));
    for index in 0..count {
        let mut header = [0; 56];
        file.read_exact_at(&mut header, table.checked_add(u64::from(index) * u64::from(size))?).ok()?;
        if word(&header, 0)? == INTERP {
            let length = long(&header, 32)?.min(LONGEST_PATH);
            let mut path = vec![0; usize::try_from(length).ok()?];
            file.read_exact_at(&mut path, long(&header, 8)?).ok()?;
            path.truncate(path.iter().position(|byte| *byte == 0).unwrap_or(path.len()));
            return Some(path);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_needs_its_interpreter_and_that_its_loader() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let inner = write("inner", b"#! /bin/sh -e\n");
        let outer = write("outer", format!("#!{}\n", inner.display()).as_bytes());
        let found = companions(&outer);
        assert_eq!(found[..2], [inner, PathBuf::from("/bin/sh")]);
        assert!(
            found.len() <= 3 && found.iter().skip(2).all(|path| path.to_string_lossy().contains("ld")),
            "{found:?}"
        );
        // Tried: nothing, no program, half an ELF header, a loop, a relative interpreter, a folder.
        let looped = dir.path().join("looped");
        std::fs::write(&looped, format!("#!{}\n", looped.display())).unwrap();
        for (path, count) in [
            (write("empty", b""), 0),
            (write("text", b"hello"), 0),
            (write("half", b"\x7fELF\x02\x01"), 0),
            (write("lies", &[b"\x7fELF\x02\x01".as_slice(), &[0xff; 250]].concat()), 0),
            (write("relative", b"#!sh\n"), 0),
            (looped, 1),
            (dir.path().to_owned(), 0),
            ("/nowhere".into(), 0),
        ] {
            assert_eq!(companions(&path).len(), count, "{}", path.display());
        }
    }
}
