//! Bytes that are put together from a corpus, the same each time.

use checks::{CHECKS, FORMS};
use std::path::Path;
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

/// The folder of this crate.
pub fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The same numbers each time.
pub struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    /// Adds the piece or a part of it, sometimes with a byte changed.
    fn add(&mut self, data: &mut Vec<u8>, piece: &[u8]) {
        let (from, to) = (self.below(piece.len() * 3 + 1), self.below(piece.len() * 3 + 1));
        let (from, to) = if from < to && to < piece.len() { (from, to) } else { (0, piece.len()) };
        let begin = data.len();
        data.extend_from_slice(&piece[from..to]);
        if self.below(8) == 0 && data.len() > begin {
            let at = begin + self.below(data.len() - begin);
            data[at] = self.byte();
        }
    }
}

/// How it is read, and then pieces of the corpus, some cut, some with a byte changed.
pub fn printed(chance: &mut Chance) -> Vec<u8> {
    let steps = chance.below(32);
    let mut data = vec![u8::try_from(steps).unwrap()];
    data.extend((0..steps).map(|_| chance.byte()));
    for _ in 0..chance.below(24) {
        // As many of the forms of values as of all the rest.
        let piece = match chance.below(2) {
            0 => CORPUS[chance.below(CORPUS.len())],
            _ => FORMS[chance.below(FORMS.len())].text.as_bytes(),
        };
        chance.add(&mut data, piece);
    }
    data
}

/// A seed of the check as it is, with some bytes changed, or parts of several; or noise.
pub fn spliced(name: &str) -> impl FnMut(&mut Chance) -> Vec<u8> {
    let folder = crate_folder().join("seeds").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder).expect("seeds").map(|file| file.unwrap().path()).collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    move |chance| {
        let mut data = seeds[chance.below(seeds.len())].clone();
        match chance.below(4) {
            0 => {}
            1 => (0..chance.below(5)).for_each(|_| {
                let at = chance.below(data.len().max(1));
                if let Some(byte) = data.get_mut(at) {
                    *byte = chance.byte();
                }
            }),
            2 => {
                data.clear();
                (0..chance.below(5)).for_each(|_| {
                    let piece = chance.below(seeds.len());
                    chance.add(&mut data, &seeds[piece]);
                });
            }
            _ => data = (0..chance.below(300)).map(|_| chance.byte()).collect(),
        }
        data
    }
}

/// Runs a check as often as its table says, or for `TENDRIL_FUZZ_SECONDS`.
pub fn run(name: &str, mut input: impl FnMut(&mut Chance) -> Vec<u8>) {
    let check = CHECKS.into_iter().find(|check| check.name == name).expect("a check");
    let seconds = std::env::var("TENDRIL_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let (begun, patience) = (BootTime::now(), Duration::from_secs(seconds));
    let mut seed = 0;
    while seed < check.rounds || begun.elapsed() < patience {
        let data = input(&mut Chance(seed.into()));
        if let Err(panic) = std::panic::catch_unwind(|| (check.check)(&data)) {
            eprintln!("seed {seed}: {}", data.escape_ascii());
            std::panic::resume_unwind(panic);
        }
        seed += 1;
    }
}
