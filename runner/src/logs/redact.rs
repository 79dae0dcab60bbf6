//! Takes secrets out of sanitised text.
//!
//! The rule: *every byte that belongs to a secret is covered; each unbroken row of covered bytes becomes
//! [`REDACTED`].* So secrets that overlap leave nothing of either, and neither length nor number shows.

use std::fmt;
use std::sync::Arc;

use aho_corasick::automaton::StateID;
use serde_json::Value;

use super::redact_tokens::Tokens;
use super::secret_forms::MIN_VALUE_BYTES;
use super::secrets::Secrets;

/// What stands in the place of secrets.
pub const REDACTED: &str = "[redacted]";
/// Ends words that were cut.
const CUT: char = '…';

/// The text that is stored for a stream of the sanitised `text`: the reference for every check of logs.
///
/// What stands at the end of the stream and may be the beginning of a secret value counts as one when it has
/// [`MIN_VALUE_BYTES`]: a child that is killed while it prints leaves a part.
pub fn redacted(text: &str, secrets: &Arc<Secrets>) -> String {
    let mut redactor = Redactor::new(secrets.clone());
    let mut out = String::with_capacity(text.len());
    redactor.push(text, &mut |piece| out.push_str(piece));
    redactor.finish(&mut |piece| out.push_str(piece));
    out
}

/// Words for a report without secrets; also without the beginning of one where they were cut, before an ellipsis.
pub fn without_secrets(words: &str, secrets: &Arc<Secrets>) -> String {
    let mut out = String::with_capacity(words.len());
    let mut redactor = Redactor::new(secrets.clone());
    redactor.push(words, &mut |piece| out.push_str(piece));
    redactor.end(false, &mut |piece| out.push_str(piece));
    if !out.contains(CUT) {
        return out;
    }
    let mut parts: Vec<String> = out.split(CUT).map(str::to_owned).collect();
    let count = parts.len();
    for part in &mut parts[..count - 1] {
        *part = redacted(part, secrets);
    }
    parts.join(&CUT.to_string())
}

/// The same for all texts in `value`, for the keys of its objects, and for numbers that are secrets.
pub fn value_without_secrets(value: Value, secrets: &Arc<Secrets>) -> Value {
    let clean = |words: String| without_secrets(&words, secrets);
    match value {
        Value::String(words) => Value::String(clean(words)),
        Value::Array(items) => items.into_iter().map(|item| value_without_secrets(item, secrets)).collect(),
        Value::Object(map) => {
            map.into_iter().map(|(key, value)| (clean(key), value_without_secrets(value, secrets))).collect()
        }
        Value::Number(number) => {
            let words = clean(number.to_string());
            if words == REDACTED { Value::String(words) } else { Value::Number(number) }
        }
        Value::Null | Value::Bool(_) => value,
    }
}

/// Redacts one stream, in pieces of any size.
///
/// What it hands out over all pieces is a function of their concatenation alone. It holds back what may be a part of a
/// secret, which is at most the longest form of a secret (a few kilobytes) or the longest header of a token.
pub struct Redactor {
    secrets: Arc<Secrets>,
    state: StateID,
    tokens: Tokens,
    /// Text that has been looked at and may be a part of a secret.
    held: String,
    /// Bytes of it that are secret, as ranges in order that do not touch.
    covered: Vec<(usize, usize)>,
    /// What was handed out last is the mark, and the text that follows it may be covered too.
    marked: bool,
    count: u64,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").field("held_bytes", &self.held.len()).finish_non_exhaustive()
    }
}

impl Redactor {
    /// A redactor at the beginning of a stream.
    pub fn new(secrets: Arc<Secrets>) -> Self {
        let state = secrets.root();
        Self {
            secrets,
            state,
            tokens: Tokens::default(),
            held: String::new(),
            covered: Vec::new(),
            marked: false,
            count: 0,
        }
    }

    /// Takes the next text and hands out what is known to be free of secrets, in pieces.
    pub fn push(&mut self, text: &str, sink: &mut impl FnMut(&str)) {
        if self.held.is_empty() {
            let done = self.scan(text, 0, sink);
            self.held.push_str(&text[done..]);
        } else {
            let seen = self.held.len();
            let mut whole = std::mem::take(&mut self.held);
            whole.push_str(text);
            let done = self.scan(&whole, seen, sink);
            self.held.push_str(&whole[done..]);
        }
    }

    /// Ends the stream. The redactor can then take another one.
    pub fn finish(&mut self, sink: &mut impl FnMut(&str)) {
        self.end(true, sink);
    }

    /// Marks handed out so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Memory that text takes which is held back, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.held.capacity()
    }

    fn end(&mut self, may_be_cut: bool, sink: &mut impl FnMut(&str)) {
        let text = std::mem::take(&mut self.held);
        let part = self.secrets.depth(self.state);
        if may_be_cut && part >= MIN_VALUE_BYTES {
            self.cover(text.len() - part, text.len());
        }
        self.hand_out(&text, text.len(), sink);
        (self.state, self.tokens, self.marked) = (self.secrets.root(), Tokens::default(), false);
    }

    /// Looks at `text` from `from` on, and hands out its beginning; returns how much of it.
    fn scan(&mut self, text: &str, from: usize, sink: &mut impl FnMut(&str)) -> usize {
        let bytes = text.as_bytes();
        let secrets = self.secrets.clone();
        let (root, mut at) = (secrets.root(), from);
        while at < bytes.len() {
            if self.state == root && self.tokens.is_empty() {
                at = secrets.may_begin(bytes, at);
            }
            let Some(&byte) = bytes.get(at) else { break };
            if !self.tokens.is_empty()
                && let Some(from) = self.tokens.take(byte, at)
            {
                self.cover(from, at + 1);
            }
            at += 1;
            self.state = secrets.next(self.state, byte);
            for (role, len) in secrets.ended(self.state) {
                if self.tokens.ended(role, len, at) {
                    self.cover(at - len, at);
                }
            }
        }
        let certain = bytes.len() - secrets.depth(self.state);
        let done = self.tokens.undecided_from().map_or(certain, |from| certain.min(from));
        self.hand_out(text, done, sink);
        self.tokens.shift(done);
        done
    }

    /// Notes that bytes are secret; `to` never decreases.
    fn cover(&mut self, mut from: usize, to: usize) {
        while let Some(&(last_from, last_to)) = self.covered.last()
            && last_to >= from
        {
            from = from.min(last_from);
            self.covered.pop();
        }
        self.covered.push((from, to));
    }

    /// Hands out the first `done` bytes of `text`; positions then count from there.
    fn hand_out(&mut self, text: &str, done: usize, sink: &mut impl FnMut(&str)) {
        let mut at = 0;
        for &(from, to) in self.covered.iter().take_while(|&&(from, _)| from < done) {
            if from > at {
                sink(&text[at..from]);
            }
            if from > at || !self.marked {
                sink(REDACTED);
                self.count += 1;
            }
            self.marked = true;
            at = to.min(done);
        }
        if at < done {
            sink(&text[at..done]);
            self.marked = false;
        }
        self.covered.retain_mut(|(from, to)| {
            (*from, *to) = (from.saturating_sub(done), to.saturating_sub(done));
            *to > 0
        });
    }
}
