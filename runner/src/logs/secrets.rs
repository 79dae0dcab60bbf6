//! The secrets in force for an attempt, made ready to be found in text.

use std::fmt;
use std::sync::{Arc, LazyLock};

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Anchored, BuildError, MatchKind};
use secrecy::{ExposeSecret, SecretString};

use super::redact_tokens::{self, Role};
use super::secret_forms::{Effort, Forms, refusal};

/// Values are looked for in all their forms up to this many bytes together; beyond that as they are and within JSON.
pub const MAX_THOROUGH_BYTES: usize = 64 * 1024;
/// The first bytes by which a text is sifted for places where a secret may begin.
const SIFT_BYTES: usize = 4;

/// A value that must not be shown, and what people call it.
#[derive(Debug, Clone)]
pub struct Secret {
    /// An input's path, a setting or a variable: what a warning may name.
    pub name: String,
    /// The value.
    pub value: SecretString,
}

impl Secret {
    /// A secret with its name.
    pub fn new(name: impl Into<String>, value: impl Into<SecretString>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

/// A secret that is not looked for, or not in every form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unredacted {
    /// Its name.
    pub name: String,
    /// Why, such as `is too short to be redacted`.
    pub reason: &'static str,
}

impl fmt::Display for Unredacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.reason)
    }
}

/// The values have more forms than can be looked for: gigabytes.
#[derive(Debug, thiserror::Error)]
#[error("more secrets than can be kept out of the log ({0}); submit fewer or shorter sensitive inputs")]
pub struct TooMany(#[from] BuildError);

/// Finds secrets: the given values in all their forms, and what has the form of a well-known token.
///
/// Never shown by `Debug`. It holds the forms in plain memory for as long as it lives.
pub struct Secrets {
    automaton: NFA,
    root: StateID,
    /// What each pattern means, by its number.
    roles: Vec<Role>,
    /// How long the part of a pattern is that leads to a state, ordered by state.
    depths: Vec<(StateID, u32)>,
    sieve: Sieve,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("patterns", &self.roles.len()).finish_non_exhaustive()
    }
}

impl Secrets {
    /// Prepares to find these values. Also says which of them cannot be found, or not in every form.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn new(values: &[Secret]) -> Result<(Self, Vec<Unredacted>), TooMany> {
        let mut told = Vec::new();
        let mut forms = Vec::new();
        let mut thorough = 0;
        for Secret { name, value } in values {
            let value = value.expose_secret();
            if let Some(reason) = refusal(value) {
                told.push(Unredacted { name: name.clone(), reason });
                continue;
            }
            thorough += value.len();
            let effort = if thorough <= MAX_THOROUGH_BYTES { Effort::Full } else { Effort::Plain };
            if effort == Effort::Plain {
                let reason = "is long: redacted as it is and in JSON, but not in base64 or percent-encoded";
                told.push(Unredacted { name: name.clone(), reason });
            }
            forms.push(Forms::of(value, effort));
        }
        let mut patterns: Vec<&str> = forms.iter().flat_map(Forms::iter).collect();
        patterns.sort_unstable();
        patterns.dedup();
        let mut roles = vec![Role::Value; patterns.len()];
        for (text, role) in redact_tokens::patterns() {
            patterns.push(text);
            roles.push(role);
        }
        Ok((Self::find(&patterns, roles)?, told))
    }

    /// What finds only what has the form of a well-known token.
    pub fn of_known_forms() -> Arc<Self> {
        static KNOWN: LazyLock<Arc<Secrets>> = LazyLock::new(|| match Secrets::new(&[]) {
            Ok((secrets, _)) => Arc::new(secrets),
            Err(error) => unreachable!("a few dozen short patterns: {error}"),
        });
        KNOWN.clone()
    }

    fn find(patterns: &[&str], roles: Vec<Role>) -> Result<Self, TooMany> {
        let automaton = NFA::builder().match_kind(MatchKind::Standard).prefilter(false).build(patterns)?;
        // An automaton of this kind has both start states.
        let root = automaton.start_state(Anchored::No).unwrap_or_default();
        let mut depths = vec![(root, 0)];
        for pattern in patterns {
            let mut state = root;
            for (byte, depth) in pattern.bytes().zip(1..) {
                state = automaton.next_state(Anchored::No, state, byte);
                depths.push((state, depth));
            }
        }
        depths.sort_unstable();
        depths.dedup();
        depths.shrink_to_fit();
        let sieve = Sieve::new(patterns);
        Ok(Self { automaton, root, roles, depths, sieve })
    }

    /// The state in which nothing of any secret has been seen.
    pub(super) fn root(&self) -> StateID {
        self.root
    }

    /// The state after one more byte.
    pub(super) fn next(&self, state: StateID, byte: u8) -> StateID {
        self.automaton.next_state(Anchored::No, state, byte)
    }

    /// What ends here, each with its length in bytes.
    pub(super) fn ended(&self, state: StateID) -> impl Iterator<Item = (Role, usize)> {
        let count = if self.automaton.is_match(state) { self.automaton.match_len(state) } else { 0 };
        (0..count).map(move |index| {
            let pattern = self.automaton.match_pattern(state, index);
            (self.roles[pattern.as_usize()], self.automaton.pattern_len(pattern))
        })
    }

    /// How many of the last bytes may be the beginning of something.
    pub(super) fn depth(&self, state: StateID) -> usize {
        let found = self.depths.binary_search_by_key(&state, |&(state, _)| state);
        found.map_or(0, |index| self.depths[index].1 as usize)
    }

    /// The first place from `from` on where something may begin; the length of `bytes` when there is none.
    pub(super) fn may_begin(&self, bytes: &[u8], from: usize) -> usize {
        self.sieve.may_begin(bytes, from)
    }
}

/// Which four bytes may be the first ones of a pattern. It errs on the safe side, and reads a text much faster than the
/// automaton does.
struct Sieve {
    bits: Vec<u64>,
    shift: u32,
}

impl Sieve {
    fn new(patterns: &[&str]) -> Self {
        let slots = (patterns.len() * 64).next_power_of_two().clamp(1 << 17, 1 << 18);
        let mut sieve = Self { bits: vec![0; slots / 64], shift: 32 - slots.trailing_zeros() };
        for pattern in patterns.iter().map(|pattern| pattern.as_bytes()) {
            match pattern.first_chunk::<SIFT_BYTES>() {
                Some(first) => sieve.add(*first),
                None => (0..=u8::MAX).for_each(|last| {
                    let mut first = [last; SIFT_BYTES];
                    first[..pattern.len()].copy_from_slice(pattern);
                    sieve.add(first);
                }),
            }
        }
        sieve
    }

    fn add(&mut self, first: [u8; SIFT_BYTES]) {
        let slot = self.slot(first);
        self.bits[slot / 64] |= 1 << (slot % 64);
    }

    #[inline]
    fn slot(&self, bytes: [u8; SIFT_BYTES]) -> usize {
        (u32::from_le_bytes(bytes).wrapping_mul(0x9e37_79b1) >> self.shift) as usize
    }

    #[inline]
    fn may_begin(&self, bytes: &[u8], from: usize) -> usize {
        let may = |first: &[u8]| {
            let slot = first.first_chunk().map_or(0, |first| self.slot(*first));
            self.bits[slot / 64] >> (slot % 64) & 1 == 1
        };
        let windows = bytes[from..].windows(SIFT_BYTES);
        let untold = bytes.len().saturating_sub(SIFT_BYTES - 1).max(from);
        windows.into_iter().position(may).map_or(untold, |at| from + at)
    }
}
