//! The secrets in force for an attempt, made ready to be found in text.

use std::fmt;
use std::sync::{Arc, LazyLock};

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::packed::{self, Searcher};
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

/// Which few bytes may be the first ones of a pattern. It errs on the safe side, and reads a text much faster than the
/// automaton does.
enum Sieve {
    /// By vector instructions: not on every processor, and not for many patterns.
    Packed(Searcher),
    Hashed(Hashed),
}

impl Sieve {
    fn new(patterns: &[&str]) -> Self {
        let mut firsts: Vec<&[u8]> =
            patterns.iter().map(|pattern| &pattern.as_bytes()[..pattern.len().min(SIFT_BYTES)]).collect();
        firsts.sort_unstable();
        firsts.dedup();
        match packed::Config::new().only_teddy(true).builder().extend(firsts).build() {
            Some(searcher) => Self::Packed(searcher),
            None => Self::Hashed(Hashed::new(patterns)),
        }
    }

    #[inline]
    fn may_begin(&self, bytes: &[u8], from: usize) -> usize {
        // What begins behind that may go on with the next text.
        let untold = bytes.len().saturating_sub(SIFT_BYTES - 1).max(from);
        let found = match self {
            Self::Packed(searcher) => searcher.find_in(bytes, (from..bytes.len()).into()).map(|found| found.start()),
            Self::Hashed(hashed) => hashed.may_begin(bytes, from),
        };
        found.map_or(untold, |at| at.min(untold))
    }
}

/// The same by a table, for any number of patterns.
struct Hashed {
    bits: Vec<u64>,
    shift: u32,
}

impl Hashed {
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
    fn may_begin(&self, bytes: &[u8], from: usize) -> Option<usize> {
        let may = |first: &[u8]| {
            let slot = first.first_chunk().map_or(0, |first| self.slot(*first));
            self.bits[slot / 64] >> (slot % 64) & 1 == 1
        };
        bytes[from..].windows(SIFT_BYTES).position(may).map(|at| from + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The first place where one of these begins, or might if the text went on.
    fn begins(patterns: &[&str], text: &str) -> usize {
        let begins = |at: &usize| {
            let rest = &text.as_bytes()[*at..];
            patterns.iter().any(|pattern| rest.starts_with(pattern.as_bytes()) || pattern.as_bytes().starts_with(rest))
        };
        (0..text.len()).find(begins).unwrap_or(text.len())
    }

    proptest! {
        #[test]
        fn no_sieve_passes_over_a_place_where_a_secret_begins(
            secrets in prop::collection::vec("[ab-]{3,9}", 1..40),
            text in "[ab-]{0,200}|(x{0,60}(eyJ|-----B|a|trt1|b-a)){0,4}",
            from in 0_usize..40,
        ) {
            let known: Vec<&str> = redact_tokens::patterns().map(|(text, _)| text).collect();
            let from = from.min(text.len());
            let patterns: Vec<&str> = secrets.iter().map(String::as_str).chain(known.iter().copied()).collect();
            let hashed = Sieve::Hashed(Hashed::new(&patterns));
            for (patterns, sieve) in [(&patterns, Sieve::new(&patterns)), (&known, Sieve::new(&known)), (&patterns, hashed)] {
                let first = from + begins(patterns, &text[from..]);
                prop_assert!(sieve.may_begin(text.as_bytes(), from) <= first, "{text:?} from {from}: {first}");
            }
        }
    }

    #[test]
    fn a_runner_with_a_few_secrets_sifts_by_vector_instructions_where_the_processor_has_them() {
        let known: Vec<&str> = redact_tokens::patterns().map(|(text, _)| text).collect();
        let can = packed::Config::new().only_teddy(true).builder().extend(["any"]).build().is_some();
        assert_eq!(matches!(Sieve::new(&known), Sieve::Packed(_)), can);
    }
}
