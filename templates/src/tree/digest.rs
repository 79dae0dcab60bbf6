//! One number for a whole tree.

use std::fmt;

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::Tree;

/// SHA-256 over paths, executable bits and contents; equal digests mean equal trees.
///
/// Displays and serialises as `sha256:` and 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TreeDigest([u8; 32]);

impl Tree {
    /// The digest of the tree. It does not depend on how or where the tree was made, nor on the version of this
    /// crate: plans carry it to their apply.
    #[must_use]
    pub fn digest(&self) -> TreeDigest {
        let mut hash = Sha256::new();
        hash.update(b"tendril tree 1\n");
        for (path, file) in self.iter() {
            // Lengths go first, so that no content can pass for the next path.
            hash.update((path.as_str().len() as u64).to_be_bytes());
            hash.update(path.as_str());
            hash.update([u8::from(file.executable)]);
            hash.update((file.bytes.len() as u64).to_be_bytes());
            hash.update(&file.bytes);
        }
        TreeDigest(hash.finalize().into())
    }
}

impl fmt::Display for TreeDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for TreeDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
