//! Bytes that are put together from a corpus, the same each time.

use crate::checks::FORMS;
use std::time::Duration;
use tendril_runner::clock::BootTime;

/// What inputs are made of: all that some stage treats in its own way, and pieces of it.
const CORPUS: &[&[u8]] = &[
    b"\x1b[31m",
    b"\x1b]0;title\x07",
    b"\x1b",
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b"\xe2\x80",
    b"\xff",
    "é😀".as_bytes(),
    b"{\"@level\":\"info\",\"@message\":\"hunter2-correct\",\"@module\":\"terraform.ui\",\"type\":\"log\"}\n",
    b"{",
    b"hunter2-correct",
    b"aHVudGVyMi1jb3JyZWN0",
    b"hunter2%2Dcorrect",
    "p@ss \"w\\rd\" <&> ü".as_bytes(),
    b"p@ss \\\"w\\\\rd\\\" \\u003c\\u0026\\u003e \\u00fc",
    b"first line of it\r\nsecond line of it\r\nx",
    b"aaaabaaabaaaabaaabaaaab",
    b"AKIAIOSFODNN7EXAMPLE",
    b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.x",
    b"-----BEGIN PRIVATE KEY-----\nMIIEowIBAAKCAQEAxyz0123456789\n",
    b"-----END PRIVATE KEY-----",
];

/// The same numbers each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    /// How it is read, and then pieces of the corpus, some cut, some with a byte changed.
    fn input(&mut self) -> Vec<u8> {
        let steps = self.below(32);
        let mut data = vec![u8::try_from(steps).unwrap()];
        data.extend((0..steps).map(|_| self.byte()));
        for _ in 0..self.below(24) {
            // As many of the forms of values as of all the rest.
            let piece = match self.below(2) {
                0 => CORPUS[self.below(CORPUS.len())],
                _ => FORMS[self.below(FORMS.len())].text.as_bytes(),
            };
            let (from, to) = (self.below(piece.len() * 3), self.below(piece.len() * 3));
            let (from, to) = if from < to && to < piece.len() { (from, to) } else { (0, piece.len()) };
            let begin = data.len();
            data.extend_from_slice(&piece[from..to]);
            if self.below(8) == 0 && data.len() > begin {
                let at = begin + self.below(data.len() - begin);
                data[at] = self.byte();
            }
        }
        data
    }
}

pub fn run(check: fn(&[u8]), rounds: u32) {
    let seconds = std::env::var("TENDRIL_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let (begun, patience) = (BootTime::now(), Duration::from_secs(seconds));
    let mut seed = 0;
    while seed < rounds || begun.elapsed() < patience {
        let data = Chance(seed.into()).input();
        if let Err(panic) = std::panic::catch_unwind(|| check(&data)) {
            eprintln!("seed {seed}: {}", data.escape_ascii());
            std::panic::resume_unwind(panic);
        }
        seed += 1;
    }
}
