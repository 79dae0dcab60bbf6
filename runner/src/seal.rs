//! Seals artifacts with a key that only the cluster's runners hold: plans and states carry secrets.

use crate::chance;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use std::path::Path;
use uuid::Uuid;

const PREFIX: &str = "tak1.";
const MAGIC: &[u8; 4] = b"TDR1";
const NONCE_BYTES: usize = 24;

/// The key of a cluster's runners. Outlives the rotation of credentials.
#[derive(Clone)]
pub struct ArtifactKey(XChaCha20Poly1305);

/// Why bytes cannot be sealed or opened. Never holds key or content.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key file cannot be used.
    #[error("artifact_key_file: {0}; make one with tendril-runner artifact-key")]
    Key(String),
    /// The bytes were sealed with another key, for another attempt or name, or were changed.
    #[error("artifact {name} of attempt {attempt} cannot be opened: it was sealed with another key, or it was changed")]
    Open {
        /// Name of the artifact.
        name: String,
        /// Its attempt.
        attempt: Uuid,
    },
    /// No random numbers or no memory.
    #[error("cannot seal an artifact: {0}")]
    Seal(String),
}

impl ArtifactKey {
    /// Text of a new random key.
    ///
    /// # Errors
    /// [`SealError::Seal`] when the system gives no random numbers.
    pub fn generate() -> Result<String, SealError> {
        let bytes: [u8; 32] = chance::bytes().map_err(SealError::Seal)?;
        Ok(format!("{PREFIX}{}", STANDARD_NO_PAD.encode(bytes)))
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// [`SealError::Key`] names the file and what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, SealError> {
        let bad = |reason: &str| SealError::Key(format!("{}: {reason}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|e| bad(&e.to_string()))?;
        Self::parse(&text).ok_or_else(|| bad("holds no artifact key"))
    }

    /// Reads the text of a key.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = STANDARD_NO_PAD.decode(text.trim().strip_prefix(PREFIX)?).ok()?;
        let key: [u8; 32] = bytes.try_into().ok()?;
        Some(Self(XChaCha20Poly1305::new(Key::from_slice(&key))))
    }

    /// Seals `content`, bound to attempt and name.
    ///
    /// # Errors
    /// [`SealError::Seal`].
    pub fn seal(&self, attempt: Uuid, name: &str, content: &[u8]) -> Result<Vec<u8>, SealError> {
        let nonce: [u8; NONCE_BYTES] = chance::bytes().map_err(SealError::Seal)?;
        let aad = bound_to(attempt, name);
        let sealed = self
            .0
            .encrypt(XNonce::from_slice(&nonce), Payload { msg: content, aad: &aad })
            .map_err(|e| SealError::Seal(e.to_string()))?;
        Ok([MAGIC.as_slice(), &nonce, &sealed].concat())
    }

    /// Opens what [`ArtifactKey::seal`] made.
    ///
    /// # Errors
    /// [`SealError::Open`].
    pub fn open(&self, attempt: Uuid, name: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let aad = bound_to(attempt, name);
        let opened = sealed
            .strip_prefix(MAGIC)
            .and_then(|rest| rest.split_at_checked(NONCE_BYTES))
            .and_then(|(nonce, msg)| self.0.decrypt(XNonce::from_slice(nonce), Payload { msg, aad: &aad }).ok());
        opened.ok_or_else(|| SealError::Open { name: name.to_owned(), attempt })
    }
}

fn bound_to(attempt: Uuid, name: &str) -> Vec<u8> {
    [b"tendril artifact 1\0".as_slice(), attempt.as_bytes(), name.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ArtifactKey {
        ArtifactKey::parse(&ArtifactKey::generate().unwrap()).unwrap()
    }

    #[test]
    fn what_was_sealed_opens_only_for_its_attempt_name_and_key() {
        let (ours, other, attempt) = (key(), key(), Uuid::from_u128(1));
        let sealed = ours.seal(attempt, "plan", b"secret plan").unwrap();
        assert!(!sealed.windows(6).any(|w| w == b"secret"));
        assert_eq!(ours.open(attempt, "plan", &sealed).unwrap(), b"secret plan");
        assert!(other.open(attempt, "plan", &sealed).is_err());
        assert!(ours.open(Uuid::from_u128(2), "plan", &sealed).is_err());
        assert!(ours.open(attempt, "state", &sealed).is_err());
    }

    #[test]
    fn changed_or_cut_bytes_are_refused() {
        let (key, attempt) = (key(), Uuid::from_u128(1));
        let sealed = key.seal(attempt, "plan", b"content").unwrap();
        for index in [0, 5, 30, sealed.len() - 1] {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert!(key.open(attempt, "plan", &changed).is_err(), "byte {index}");
        }
        for length in [0, 3, 4, 27, 28, sealed.len() - 1] {
            assert!(key.open(attempt, "plan", &sealed[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_file_without_a_key_is_named() {
        let said = ArtifactKey::read(Path::new("/nowhere/key")).err().unwrap().to_string();
        assert!(said.contains("/nowhere/key") && said.contains("artifact-key"), "{said}");
        assert!(ArtifactKey::parse("tak1.short").is_none());
        assert!(ArtifactKey::parse("trt1.abc").is_none());
    }
}
