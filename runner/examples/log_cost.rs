//! What the log pipeline costs, from the bytes of a pipe to chunks: `cargo run --release -p tendril-runner --example
//! log_cost`. One core; the best of five rounds, the variants in turn.

use std::hint::black_box;
use std::sync::Arc;
use tendril_runner::clock::BootTime;
use tendril_runner::logs::{Capture, Dialect, Redactor, Secret, Secrets, Stream, stored_text};
use time::OffsetDateTime;

const MIB: usize = 64;
const ROUNDS: usize = 5;

fn main() -> anyhow::Result<()> {
    let text = text();
    let sets = [secrets(0)?, secrets(3)?, secrets(10)?, secrets(200)?];
    let mut best = vec![[0.0_f64; 3]; sets.len()];
    for _ in 0..ROUNDS {
        for ((_, secrets), best) in sets.iter().zip(&mut best) {
            let stages: [&dyn Fn(); 3] =
                [&|| drop(black_box(stored_text(&text))), &|| redact(&text, secrets), &|| capture(&text, secrets)];
            for (stage, best) in stages.into_iter().zip(best.iter_mut()) {
                let begun = BootTime::now();
                stage();
                *best = best.max(text.len() as f64 / 1e6 / begun.elapsed().as_secs_f64());
            }
        }
    }
    println!("{:>8} {:>18} {:>14} {:>14}", "secrets", "sanitise MB/s", "redact MB/s", "all MB/s");
    for ((count, _), [sanitise, redact, all]) in sets.iter().zip(best) {
        println!("{count:>8} {sanitise:>18.0} {redact:>14.0} {all:>14.0}");
    }
    Ok(())
}

fn redact(text: &[u8], secrets: &Arc<Secrets>) {
    let mut redactor = Redactor::new(secrets.clone());
    for read in text.chunks(64 * 1024) {
        redactor.push(str::from_utf8(read).unwrap_or_default(), &mut |piece| {
            black_box(piece);
        });
    }
}

fn capture(text: &[u8], secrets: &Arc<Secrets>) {
    let now = OffsetDateTime::UNIX_EPOCH;
    let mut capture = Capture::new(64 << 20);
    capture.redact(secrets.clone(), now);
    capture.begin_child(Dialect::Text, now);
    for read in text.chunks(64 * 1024) {
        capture.push(Stream::Stdout, read, now);
        black_box(capture.drain(usize::MAX));
    }
    capture.finish(now);
}

/// Lines of 200 bytes as programs print them, all different.
fn text() -> Vec<u8> {
    let mut chance = Chance(1);
    let mut text = Vec::with_capacity(MIB << 20);
    while text.len() + 200 <= MIB << 20 {
        let begin = text.len();
        text.extend_from_slice(
            format!("2026-11-21T12:00:{:02}Z INFO aws_instance.web[{}]: ", chance.next() % 60, chance.next() % 999)
                .as_bytes(),
        );
        while text.len() < begin + 199 {
            text.extend_from_slice(WORDS[chance.next() as usize % WORDS.len()].as_bytes());
            text.push(b' ');
        }
        text.truncate(begin + 199);
        text.push(b'\n');
    }
    text
}

const WORDS: [&str; 16] = [
    "Still",
    "creating...",
    "[10s",
    "elapsed]",
    "id=i-0abcd1234ef567890",
    "module.network.aws_subnet.private",
    "complete",
    "after",
    "Refreshing",
    "state...",
    "\"status\":",
    "{\"ok\":true}",
    "http://127.0.0.1:8080/v1/things?x=1",
    "0x7ffe",
    "error",
    "=",
];

fn secrets(count: usize) -> anyhow::Result<(usize, Arc<Secrets>)> {
    let mut chance = Chance(99);
    let values: Vec<Secret> = (0..count)
        .map(|n| {
            let value: String = (0..24 + n % 24).map(|_| char::from(b'!' + (chance.next() % 90) as u8)).collect();
            Secret::new("secret", value)
        })
        .collect();
    Ok((count, Arc::new(Secrets::new(&values)?.0)))
}

/// The same numbers each time.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}
