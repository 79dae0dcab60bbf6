//! Makes a child's bytes safe to store and to show.
//!
//! The rule for escapes, from which the rest follows: *at an ESC, when a complete control sequence within its bound
//! follows, the sequence is removed (a colour is kept); otherwise the ESC is shown as `␛` and what follows is ordinary
//! text.* A sequence never reaches past a line's end or any other control, so nothing printed can disappear with it.

use std::mem;

/// Longest `CSI` or charset sequence that is recognised, ESC and last byte included, in bytes. A longer one is shown.
pub const MAX_CONTROL_BYTES: usize = 64;
/// Longest string sequence (OSC, DCS, SOS, PM, APC) that is removed, ESC and terminator included, in bytes.
pub const MAX_STRING_BYTES: usize = 4096;

const ESC: char = '\u{1b}';
const BELL: char = '\u{7}';
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;
const SCAN_BYTES: usize = 32;

/// The text that is stored for a stream whose child printed `stream_bytes`: the reference for every check of logs.
///
/// It is the concatenation of the texts of that stream's chunks, gaps aside. For a child that prints `-json` events it
/// is [`stored_event_text`](super::stored_event_text) instead.
pub fn stored_text(stream_bytes: &[u8]) -> String {
    let mut text = String::with_capacity(stream_bytes.len());
    let mut sanitiser = Sanitiser::default();
    sanitiser.push(stream_bytes, &mut text);
    sanitiser.finish(&mut text);
    text
}

/// Sanitises one stream, in pieces of any size.
///
/// What it appends to `out` over all pieces is a function of the stream's bytes alone. That text is valid UTF-8, has no
/// NUL and no control but line feed, tab and the ESC of a colour, and is left as it is when sanitised again. At most
/// [`MAX_STRING_BYTES`] are held back while it is not clear what they are.
#[derive(Debug, Default)]
pub struct Sanitiser {
    state: State,
    /// The sequence so far, from its ESC on; it holds nothing else that would need replacing.
    held: String,
    /// The first bytes of a character that the last piece ended in.
    carry: Vec<u8>,
    /// The last character was a CR, which already became a line feed.
    after_cr: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    /// After ESC.
    Escape,
    /// After ESC and intermediates: a charset choice and the like.
    Charset,
    /// In the parameters of a CSI.
    Csi,
    /// In the intermediates of a CSI.
    CsiTail,
    /// In the payload of an OSC, DCS, SOS, PM or APC; `bell` ends the first of them too.
    Payload { bell: bool },
    /// After an ESC within such a payload.
    PayloadEscape,
}

impl Sanitiser {
    /// Takes the next bytes of the stream and appends what is known of their text to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) {
        let mut rest = bytes;
        while let Some(&first) = rest.first() {
            let used = if self.state == State::Ground && self.carry.is_empty() {
                self.ground_run(rest, out)
            } else {
                self.one_byte(first, out)
            };
            rest = &rest[used..];
        }
    }

    /// Ends the stream: what was held back is shown. The sanitiser can then take another stream.
    pub fn finish(&mut self, out: &mut String) {
        if !mem::take(&mut self.carry).is_empty() {
            self.step(REPLACEMENT, out);
        }
        self.show_held(out);
        self.after_cr = false;
    }

    /// Takes as much ordinary text as there is, or one control; returns the bytes used, at least one.
    fn ground_run(&mut self, bytes: &[u8], out: &mut String) -> usize {
        if mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
            return 1;
        }
        let run = text_len(bytes);
        if run == 0 {
            self.ground(char::from(bytes[0]), out);
            return 1;
        }
        // Nearly always, and much faster than to look for what is broken.
        if let Ok(text) = str::from_utf8(&bytes[..run]) {
            push_marked(text, out);
            return run;
        }
        let mut seen = 0;
        for chunk in bytes[..run].utf8_chunks() {
            push_marked(chunk.valid(), out);
            let broken = chunk.invalid();
            seen += chunk.valid().len() + broken.len();
            if broken.is_empty() {
                continue;
            }
            if seen == bytes.len() && is_unfinished(broken) {
                self.carry.extend_from_slice(broken);
            } else {
                out.push(REPLACEMENT);
            }
        }
        run
    }

    /// Takes one byte when a character or a sequence is open; returns 0 when the byte has to be looked at again.
    fn one_byte(&mut self, byte: u8, out: &mut String) -> usize {
        self.carry.push(byte);
        let (decoded, used) = match str::from_utf8(&self.carry) {
            Ok(text) => (text.chars().next(), 1),
            Err(error) => match error.error_len() {
                None => return 1,
                // The byte that showed the error may itself begin a character.
                Some(broken) => (Some(REPLACEMENT), usize::from(broken == self.carry.len())),
            },
        };
        self.carry.clear();
        if let Some(c) = decoded {
            self.step(c, out);
        }
        used
    }

    fn step(&mut self, c: char, out: &mut String) {
        let next = match (self.state, c) {
            (State::Ground, _) => return self.ground(c, out),
            (State::Escape, '[') => State::Csi,
            (State::Escape, ']') => State::Payload { bell: true },
            (State::Escape, 'P' | 'X' | '^' | '_') => State::Payload { bell: false },
            (State::Escape | State::Charset, ' '..='/') => State::Charset,
            (State::Escape | State::Charset, '0'..='~') => return self.drop_held(),
            (State::Csi, '0'..='?') => State::Csi,
            (State::Csi | State::CsiTail, ' '..='/') => State::CsiTail,
            (State::Csi, 'm') if is_colour(&self.held) => {
                out.push_str(&self.held);
                out.push('m');
                return self.drop_held();
            }
            (State::Csi | State::CsiTail, '@'..='~') => return self.drop_held(),
            (State::Payload { bell: true }, BELL) => return self.drop_held(),
            (State::Payload { .. }, ESC) => State::PayloadEscape,
            (State::Payload { bell }, _) if !c.is_control() && !is_marked(c) => State::Payload { bell },
            (State::PayloadEscape, '\\') => return self.drop_held(),
            (State::PayloadEscape, _) => {
                // Not the end of the string: the ESC begins a sequence of its own.
                self.held.pop();
                self.show_held(out);
                self.ground(ESC, out);
                return self.step(c, out);
            }
            _ => {
                self.show_held(out);
                return self.ground(c, out);
            }
        };
        let bound = match next {
            State::Payload { .. } | State::PayloadEscape => MAX_STRING_BYTES,
            _ => MAX_CONTROL_BYTES,
        };
        // One place is kept for the byte that ends the sequence.
        if self.held.len() + c.len_utf8() < bound {
            self.held.push(c);
            self.state = next;
        } else {
            self.show_held(out);
            self.ground(c, out);
        }
    }

    fn ground(&mut self, c: char, out: &mut String) {
        match c {
            ESC => {
                self.held.push(ESC);
                self.state = State::Escape;
            }
            '\r' => {
                out.push('\n');
                self.after_cr = true;
            }
            '\n' | '\t' => out.push(c),
            '\0'..='\u{1f}' => out.extend(char::from_u32(0x2400 + u32::from(c))),
            '\u{7f}' => out.push('\u{2421}'),
            _ if is_marked(c) => out.push(REPLACEMENT),
            _ => out.push(c),
        }
    }

    fn drop_held(&mut self) {
        self.held.clear();
        self.state = State::Ground;
    }

    fn show_held(&mut self, out: &mut String) {
        if let Some(text) = self.held.strip_prefix(ESC) {
            out.push('\u{241b}');
            // An ESC can only be there again when the stream ended within the end of a string.
            match text.strip_suffix(ESC) {
                Some(payload) => {
                    out.push_str(payload);
                    out.push('\u{241b}');
                }
                None => out.push_str(text),
            }
        }
        self.drop_held();
    }
}

/// Characters that are replaced although they are valid: C1 controls, and what reorders or breaks lines unseen.
fn is_marked(c: char) -> bool {
    matches!(
        c,
        '\u{80}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}' | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | REPLACEMENT
    )
}

/// Is this, with an `m` behind it, a sequence that sets colours and nothing else?
fn is_colour(held: &str) -> bool {
    held.bytes().skip(2).all(|byte| matches!(byte, b'0'..=b'9' | b';' | b':'))
}

fn is_unfinished(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

fn push_marked(text: &str, out: &mut String) {
    if text.is_ascii() {
        return out.push_str(text);
    }
    let mut from = 0;
    for (at, c) in text.char_indices().filter(|&(_, c)| is_marked(c)) {
        out.push_str(&text[from..at]);
        out.push(REPLACEMENT);
        from = at + c.len_utf8();
    }
    out.push_str(&text[from..]);
}

/// Bytes before the first one that needs a decision of its own.
fn text_len(bytes: &[u8]) -> usize {
    let is_control = |byte: u8| (byte < 0x20 && byte != b'\n' && byte != b'\t') || byte == 0x7f;
    // Without an early exit within a block the compiler makes vector code of this.
    let block_has = |block: &&[u8]| block.iter().fold(false, |seen, &byte| seen | is_control(byte));
    let clean = bytes.chunks_exact(SCAN_BYTES).take_while(|block| !block_has(block)).count() * SCAN_BYTES;
    bytes[clean..].iter().position(|&byte| is_control(byte)).map_or(bytes.len(), |at| clean + at)
}
