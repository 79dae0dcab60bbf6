//! The regular expressions that mean the same in Rust and in Postgres.
//!
//! Both engines read more than this, each in its own way, so a pattern is read here first and refused if
//! it leaves the common ground that the crate's README describes.

use std::iter::Peekable;
use std::str::CharIndices;

use regex::{Regex, RegexBuilder};
use thiserror::Error;

/// Longest pattern, in Unicode code points.
pub const MAX_PATTERN_CHARS: usize = 256;
/// Largest pattern after its repetitions are written out, in single characters to match.
pub const MAX_PATTERN_ATOMS: usize = 1_000;
/// Longest text that a pattern is tried on, in Unicode code points; a longer one does not fit.
pub const MAX_MATCHED_CHARS: u64 = 10_000;
/// Largest number in `{m,n}`; Postgres knows no larger one.
const MAX_REPEAT: usize = 255;
/// Groups within groups.
const MAX_GROUP_DEPTH: usize = 16;
/// What may follow a backslash; it then stands for itself.
const ESCAPABLE: &str = r"\^$.|?*+()[]{}-/&~";

/// A pattern within the portable dialect, ready to match.
#[derive(Debug, Clone)]
pub struct Pattern {
    regex: Regex,
}

/// Why a pattern is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message} (at character {at} of the pattern)")]
pub struct PatternFault {
    /// Position in the pattern, in Unicode code points from 1.
    pub at: usize,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// The first thing in it that is outside the dialect or beyond a limit.
    pub fn parse(source: &str) -> Result<Pattern, PatternFault> {
        let fault = |at: usize, message: String| PatternFault { at, message };
        let length = source.chars().count();
        if length > MAX_PATTERN_CHARS {
            return Err(fault(
                MAX_PATTERN_CHARS + 1,
                format!("pattern is {length} characters long, at most {MAX_PATTERN_CHARS} are allowed"),
            ));
        }
        let mut reader = Reader { chars: source.char_indices().peekable(), source };
        let atoms = reader.branches(0)?;
        if atoms > MAX_PATTERN_ATOMS {
            return Err(fault(
                length.max(1),
                format!(
                    "pattern stands for {atoms} characters when written out, at most {MAX_PATTERN_ATOMS} are allowed"
                ),
            ));
        }
        // In Postgres a dot matches a line break, so it does here.
        let regex = RegexBuilder::new(source).dot_matches_new_line(true).build();
        regex.map(|regex| Pattern { regex }).map_err(|e| fault(1, format!("pattern cannot be compiled: {e}")))
    }

    /// Whether the pattern occurs anywhere in `text`; `^` and `$` tie it to the ends.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.regex.as_str()
    }
}

/// Reads a pattern by recursive descent and counts the characters that it stands for.
struct Reader<'a> {
    chars: Peekable<CharIndices<'a>>,
    source: &'a str,
}

impl Reader<'_> {
    fn branches(&mut self, depth: usize) -> Result<usize, PatternFault> {
        let mut atoms = self.branch(depth)?;
        while self.take('|') {
            atoms = atoms.saturating_add(self.branch(depth)?);
        }
        match self.peek() {
            None if depth == 0 => Ok(atoms),
            Some(')') if depth > 0 => Ok(atoms),
            Some(_) => Err(self.fault("unmatched `)`, write `\\)` for the character")),
            None => Err(self.fault("a group is not closed, add `)`")),
        }
    }

    fn branch(&mut self, depth: usize) -> Result<usize, PatternFault> {
        let mut atoms: usize = 0;
        let mut empty = true;
        if self.peek() == Some('^') {
            self.anchor_allowed(depth, "`^` stands only at the start of the pattern or of a top-level branch")?;
            empty = false;
        }
        while let Some(next) = self.peek() {
            match next {
                '|' | ')' => break,
                '$' => {
                    self.anchor_allowed(depth, "`$` stands only at the end of the pattern or of a top-level branch")?;
                    if !matches!(self.peek(), None | Some('|')) {
                        return Err(self.fault("nothing may follow `$`, write `\\$` for the character"));
                    }
                    return Ok(atoms);
                }
                _ => {
                    let size = self.atom(depth)?;
                    atoms = atoms.saturating_add(size.saturating_mul(self.repeat()?));
                    empty = false;
                }
            }
        }
        if empty {
            return Err(self.fault("a branch must not be empty, use `?` for what may be absent"));
        }
        Ok(atoms)
    }

    fn anchor_allowed(&mut self, depth: usize, message: &str) -> Result<(), PatternFault> {
        if depth > 0 {
            return Err(self.fault(message));
        }
        self.chars.next();
        Ok(())
    }

    /// One character, class or group; returns how many characters it stands for.
    fn atom(&mut self, depth: usize) -> Result<usize, PatternFault> {
        match self.peek() {
            Some('(') => self.group(depth),
            Some('[') => self.class().map(|()| 1),
            Some('.') => {
                self.chars.next();
                Ok(1)
            }
            Some('\\') => self.escape().map(|_| 1),
            Some(c @ ('*' | '+' | '?' | '{')) => {
                Err(self.fault(&format!("`{c}` has nothing to repeat, write `\\{c}` for the character")))
            }
            Some(c @ (']' | '}' | '^')) => Err(self.fault(&format!("write `\\{c}` for the character"))),
            _ => self.plain().map(|_| 1),
        }
    }

    fn group(&mut self, depth: usize) -> Result<usize, PatternFault> {
        if depth >= MAX_GROUP_DEPTH {
            return Err(self.fault(&format!("groups are nested deeper than {MAX_GROUP_DEPTH}")));
        }
        self.chars.next();
        if self.take('?') && !self.take(':') {
            return Err(self.fault("of the groups that begin with `(?` only `(?:` is portable"));
        }
        let atoms = self.branches(depth + 1)?;
        self.chars.next();
        Ok(atoms)
    }

    /// An optional repetition; returns how often at most the atom before it is written out.
    fn repeat(&mut self) -> Result<usize, PatternFault> {
        let times = match self.peek() {
            Some('*' | '+' | '?') => {
                self.chars.next();
                1
            }
            Some('{') => self.bounds()?,
            _ => return Ok(1),
        };
        if matches!(self.peek(), Some('*' | '+' | '?' | '{')) {
            return Err(self.fault("a repetition cannot be repeated or made lazy, use a group"));
        }
        Ok(times)
    }

    fn bounds(&mut self) -> Result<usize, PatternFault> {
        self.chars.next();
        let least = self.number()?;
        let most = match self.peek() {
            Some(',') => {
                self.chars.next();
                if self.peek() == Some('}') { None } else { Some(self.number()?) }
            }
            _ => Some(least),
        };
        if !self.take('}') {
            return Err(self.fault("a bound is written `{m}`, `{m,}` or `{m,n}`; write `\\{` for the character"));
        }
        match most {
            Some(most) if most < least || most == 0 => {
                Err(self.fault("in `{m,n}` n must be at least m and at least 1"))
            }
            Some(most) => Ok(most),
            None => Ok(least + 1),
        }
    }

    fn number(&mut self) -> Result<usize, PatternFault> {
        let mut digits = String::new();
        while let Some(digit) = self.peek().filter(char::is_ascii_digit) {
            digits.push(digit);
            self.chars.next();
        }
        match digits.parse() {
            Ok(number) if number <= MAX_REPEAT => Ok(number),
            Ok(_) => Err(self.fault(&format!("a bound must be at most {MAX_REPEAT}"))),
            Err(_) => Err(self.fault("a bound is a number from 0 to 255")),
        }
    }

    fn class(&mut self) -> Result<(), PatternFault> {
        self.chars.next();
        self.take('^');
        let mut empty = true;
        loop {
            match self.peek() {
                None => return Err(self.fault("a class is not closed, add `]`")),
                Some(']') if empty => {
                    return Err(self.fault("a class must not be empty, write `\\]` for `]`"));
                }
                Some(']') => {
                    self.chars.next();
                    return Ok(());
                }
                Some('-') => {
                    self.chars.next();
                    // A bare hyphen is itself at either end; elsewhere the engines disagree.
                    if !empty && self.peek() != Some(']') || self.peek() == Some('-') {
                        return Err(self.fault("write `\\-` for a hyphen inside a class"));
                    }
                }
                Some(_) => self.class_item()?,
            }
            empty = false;
        }
    }

    /// A character of a class, or a range of them.
    fn class_item(&mut self) -> Result<(), PatternFault> {
        let first = self.class_char()?;
        let mut ahead = self.chars.clone();
        let is_range = ahead.next().is_some_and(|(_, c)| c == '-') && ahead.next().is_none_or(|(_, c)| c != ']');
        if !is_range {
            return Ok(());
        }
        self.chars.next();
        let last = self.class_char()?;
        if last < first {
            return Err(self.fault(&format!("the range `{first}-{last}` runs backwards")));
        }
        Ok(())
    }

    fn class_char(&mut self) -> Result<char, PatternFault> {
        match self.peek() {
            Some('\\') => self.escape(),
            Some(c @ ('[' | '^' | '-' | '&' | '~')) => {
                Err(self.fault(&format!("write `\\{c}` for `{c}` inside a class")))
            }
            _ => self.plain(),
        }
    }

    fn escape(&mut self) -> Result<char, PatternFault> {
        self.chars.next();
        match self.peek() {
            Some(c) if ESCAPABLE.contains(c) => {
                self.chars.next();
                Ok(c)
            }
            _ => Err(self.fault(&format!(
                "a backslash may only stand before one of {ESCAPABLE}; write a class such as [0-9] in full"
            ))),
        }
    }

    fn plain(&mut self) -> Result<char, PatternFault> {
        match self.peek() {
            Some(c) if !c.is_control() => {
                self.chars.next();
                Ok(c)
            }
            Some(_) => Err(self.fault("control characters are not portable")),
            None => Err(self.fault("the pattern ends too early")),
        }
    }

    fn peek(&mut self) -> Option<char> {
        self.chars.peek().map(|(_, c)| *c)
    }

    fn take(&mut self, wanted: char) -> bool {
        self.chars.next_if(|(_, c)| *c == wanted).is_some()
    }

    fn fault(&mut self, message: &str) -> PatternFault {
        let read = self.chars.peek().map_or(self.source.len(), |(at, _)| *at);
        PatternFault { at: self.source[..read].chars().count() + 1, message: message.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_PATTERN_CHARS, Pattern};

    #[test]
    fn ordinary_patterns_are_taken() {
        for pattern in [
            "^[a-z][a-z0-9-]{1,61}[a-z0-9]$",
            "^(dev|prod)$",
            "^a|b$",
            "^arn:aws:kms:[a-z0-9-]+:[0-9]{12}:key/[0-9a-f-]{36}$",
            "^(?:[0-9]{1,3}\\.){3}[0-9]{1,3}$",
            "[^a-zé-]+",
            "^[-+]?[0-9]*$",
            "^$",
            ".",
            "^\\^\\$\\(\\)\\[\\]\\{\\}\\.\\*\\+\\?\\|\\\\\\/\\-\\&\\~$",
            "[\\[\\]\\\\\\^\\-\\&\\~]",
        ] {
            let read = Pattern::parse(pattern);
            assert!(read.is_ok(), "{pattern}: {read:?}");
        }
    }

    #[test]
    fn what_the_engines_read_differently_is_refused() {
        for pattern in [
            "",
            "a||b",
            "()",
            "(a|)",
            "\\d",
            "\\w+",
            "\\bx",
            "\\n",
            "\\x41",
            "\\<",
            "(?=a)",
            "(?!a)",
            "(?<=a)",
            "(?P<n>a)",
            "(?i)a",
            "(a)\\1",
            "a**",
            "a*?",
            "a+?",
            "a??",
            "a{2}{3}",
            "*a",
            "a{,3}",
            "a{3,2}",
            "a{0}",
            "a{256}",
            "a{x}",
            "{",
            "}",
            "]",
            "[]",
            "[]a]",
            "[a",
            "[[:alpha:]]",
            "[a[b]]",
            "[a&&b]",
            "[a~~b]",
            "[a--b]",
            "[a-b-c]",
            "[z-a]",
            "[a^]",
            "(a",
            "a)",
            "(^a)",
            "(a$)",
            "a^b",
            "a$b",
            "$*",
            "^*",
            "***:a",
            "a\nb",
            "\u{1}",
            "\\",
            "[\\d]",
            "a\\",
        ] {
            assert!(Pattern::parse(pattern).is_err(), "{pattern:?} was taken");
        }
    }

    #[test]
    fn huge_patterns_are_refused_before_they_are_compiled() {
        assert!(Pattern::parse(&"a".repeat(MAX_PATTERN_CHARS + 1)).is_err());
        assert!(Pattern::parse("((a{200}){200}){200}").is_err());
        assert!(Pattern::parse(&format!("{}a{}", "(".repeat(100), ")".repeat(100))).is_err());
        assert!(Pattern::parse("(((((((a{255}){255}){255}){255}){255}){255}){255}){255}){255}").is_err());
    }

    #[test]
    fn a_fault_says_where_it_is() {
        let fault = Pattern::parse("é\\d").unwrap_err();
        assert_eq!(fault.at, 3);
        assert!(fault.to_string().contains("[0-9]"), "{fault}");
    }

    #[test]
    fn the_dollar_is_the_end_and_a_dot_takes_a_line_break() {
        assert!(!Pattern::parse("^a$").unwrap().is_match("a\n"));
        assert!(Pattern::parse("^a.b$").unwrap().is_match("a\nb"));
    }
}
