//! What a child prints: a pure function of seed and number.
//!
//! All that a log has to survive is in it: long lines, progress bars, escapes, invalid UTF-8, NULs, characters and
//! sequences that are split between writes, no line's end at the end. Each piece carries a check number of its own, so
//! that none can be taken for another. Some hold a secret, one that the runner is told of or one that has a known form.

use crate::chance::Chance;
use crate::print::Stream;

/// One write to one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where to.
    pub stream: Stream,
    /// What.
    pub bytes: Vec<u8>,
    /// When, in milliseconds since the child's start.
    pub due_ms: u64,
}

/// What a child is to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Script {
    /// The seed of the run.
    pub seed: u64,
    /// Which of its children.
    pub number: u64,
    /// Bytes, about.
    pub bytes: u64,
    /// Milliseconds that it takes, about.
    pub ms: u64,
    /// Lines that hardly compress, and nothing else.
    #[serde(default)]
    pub noise: bool,
}

/// How jobs are called, before the child's number.
const NAME: &str = "print-";

/// The name of a child's job.
pub fn name(number: u64) -> String {
    format!("{NAME}{number}")
}

/// Which child a job of this name is.
pub fn number_of_job(job: &str) -> Option<u64> {
    job.strip_prefix(NAME)?.parse().ok()
}

/// The secret that a runner under test is told of, by its variable.
pub const SECRET: &str = "correct-horse/battery+staple";
/// That variable.
pub const SECRET_NAME: &str = "CHAOS_PASSWORD";

/// Characters that are cut between writes now and then, and a few that are replaced.
const WORDS: [&str; 8] = ["größer", "日本語", "𝄞 clef", "naïve", "a\u{200e}b", "tab\there", "\u{2028}", "ok"];

impl Script {
    /// What is printed, in order.
    pub fn pieces(self) -> impl Iterator<Item = Piece> {
        let mut chance = Chance::new(self.seed, &format!("script {}", self.number));
        let manner = chance.between(0, 3);
        // A quiet child prints little, a bursty one rests in between.
        let bytes = if manner == 0 { self.bytes / 20 } else { self.bytes };
        let burst_ms = if manner == 1 { self.ms / 4 + 1 } else { 1 };
        let (mut printed, mut index) = (0, 0);
        std::iter::from_fn(move || {
            if printed >= bytes.max(1) {
                return None;
            }
            let due_ms = self.ms * printed / bytes.max(1) / burst_ms * burst_ms;
            let stream = if chance.percent(30) { Stream::Stderr } else { Stream::Stdout };
            let mark = format!("<{}.{}.{index} {:016x}>", self.seed, self.number, chance.next());
            let text = if self.noise { noise(&mut chance, &mark) } else { piece(&mut chance, &mark, bytes) };
            printed += text.len() as u64;
            index += 1;
            Some(Piece { stream, bytes: text, due_ms })
        })
    }
}

fn piece(chance: &mut Chance, mark: &str, bytes: u64) -> Vec<u8> {
    match chance.between(0, 99) {
        // Lines, as most output is; in a run of many bytes many at once.
        0..50 => {
            let lines = chance.between(1, (bytes / 4000).clamp(5, 60));
            (0..lines).map(|line| format!("{mark} line {line} {}\n", "x".repeat(chance.index(150)))).collect::<String>().into()
        }
        50..58 => [mark.as_bytes(), b" ", &long(chance, mark), if chance.percent(50) { b"\n" } else { b"" }].concat(),
        58..66 => {
            let turns = chance.between(2, 12);
            let bar: String = (1..=turns).map(|turn| format!("{mark} {}%\r", turn * 100 / turns)).collect();
            if chance.percent(50) { format!("{bar}\n") } else { format!("{bar}{mark} done\r\n") }.into()
        }
        66..74 => format!(
            "{mark} \x1b[1;3{}mcolour\x1b[0m \x1b[2K\x1b]0;title\x07\x1b]8;;https://example.com\x1b\\link\x1b]8;;\x1b\\{}\n",
            chance.between(0, 7),
            if chance.percent(30) { "\x1b]0;never ended" } else { "\x1b(B" }
        )
        .into(),
        74..82 => {
            let noise: Vec<u8> = (0..chance.between(1, 40)).map(|_| (chance.next() % 256) as u8).collect();
            [mark.as_bytes(), b" ", &noise, b"\n"].concat()
        }
        82..85 => {
            let token: String = (0..36).map(|_| char::from(b'a' + (chance.next() % 26) as u8)).collect();
            let whole = format!("{mark} token ghp_{token} password {SECRET} and again {SECRET}\n");
            // Often its end comes with the next piece, or never.
            let length = if chance.percent(30) { whole.len() - chance.index(30) - 1 } else { whole.len() };
            whole.as_bytes()[..length].to_vec()
        }
        85..88 => format!("{mark} nul\0 bell\x07 back\x08 del\x7f\n").into(),
        88..94 => format!("{mark}? ").into(),
        // The rest of the character, or of the sequence, never comes, or comes with the next piece.
        _ => {
            let tail: &[u8] = [b"\xf0\x9d\x84".as_slice(), b"\xe2\x80", b"\x1b[3", b"\x1b", b"\r"][chance.index(5)];
            [mark.as_bytes(), b" ", tail].concat()
        }
    }
}

fn noise(chance: &mut Chance, mark: &str) -> Vec<u8> {
    let digit = |bits: u64| {
        char::from(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.,"[(bits & 63) as usize])
    };
    let mut text = format!("{mark} ");
    for _ in 0..400 {
        let bits = chance.next();
        text.extend((0..10).map(|place| digit(bits >> (6 * place))));
    }
    text.push('\n');
    text.into()
}

fn long(chance: &mut Chance, mark: &str) -> Vec<u8> {
    let length = chance.between(3_000, 60_000);
    let mut text = String::new();
    while (text.len() as u64) < length {
        text += &format!("{} {} {mark} ", text.len(), WORDS[chance.index(WORDS.len())]);
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: Script = Script { seed: 5, number: 2, bytes: 200_000, ms: 1000, noise: false };

    #[test]
    fn a_script_is_the_same_each_time_and_another_for_each_child_and_seed() {
        let pieces = |script: Script| script.pieces().collect::<Vec<_>>();
        assert_eq!(pieces(SCRIPT), pieces(SCRIPT));
        assert_ne!(pieces(SCRIPT), pieces(Script { number: 3, ..SCRIPT }));
        assert_ne!(pieces(SCRIPT), pieces(Script { seed: 6, ..SCRIPT }));
        assert!(pieces(SCRIPT).is_sorted_by_key(|piece| piece.due_ms));
    }

    #[test]
    fn a_few_scripts_hold_all_that_a_log_has_to_survive() {
        let all: Vec<u8> =
            (0..8).flat_map(|number| Script { number, ..SCRIPT }.pieces()).flat_map(|piece| piece.bytes).collect();
        assert!(String::from_utf8(all.clone()).is_err());
        for what in [b"\0".as_slice(), b"\r", b"\x1b[", b"\x1b]", b"\x7f", b"ghp_", SECRET.as_bytes()] {
            assert!(all.windows(what.len()).any(|window| window == what), "{what:?}");
        }
        assert!(all.split(|byte| *byte == b'\n').any(|line| line.len() > 20_000));
    }
}
