//! Text such as engines and services print, for measurements in which it matters how well text can be compressed: no two
//! lines are alike, and what changes in a line is what changes in real logs (times, ids, addresses, figures, paths).

use anyhow::Context;
use std::path::{Path, PathBuf};

/// Bytes of a line, its line feed included.
pub const LINE_BYTES: usize = 200;

/// Lines of a stock: more of them than the processor keeps close.
const STOCK: usize = 40_000;

/// What lines are made of; `$x` is replaced by something new each time.
const FORMS: [&str; 16] = [
    "aws_instance.web[$n]: Still creating... [id=i-$h, $n0s elapsed]",
    "aws_subnet.private[$n]: Creation complete after $ns [id=subnet-$h]",
    "module.vpc.aws_route_table_association.private[$n]: Creating...",
    "null_resource.configure[$n] (local-exec): TASK [nginx : render templates] changed: [$a] => (item=/etc/nginx/conf.d/site-$n.conf)",
    "Get:$n http://deb.debian.org/debian bookworm/main amd64 libssl3 amd64 3.0.$n-1~deb12u$n [$n,$n kB]",
    "level=info msg=\"request handled\" method=GET path=/api/v1/orders/$n status=200 duration=$n.$nms trace_id=$h$h",
    "{\"level\":\"info\",\"ts\":1763740$n.$n,\"caller\":\"controller/controller.go:$n\",\"msg\":\"Reconciled\",\"name\":\"app-$n\",\"generation\":$n}",
    "level=warn msg=\"retrying\" attempt=$n backoff=$nms error=\"dial tcp $a:5432: connect: connection refused\"",
    "helm_release.ingress (local-exec): deployment.apps/ingress-nginx-controller-$h condition met after $ns",
    "kubernetes_deployment.api[$n]: Modifying... [id=production/api-$n]",
    "   Compiling serde_json v1.0.$n",
    "sha256:$h$h$h$h: Pulling fs layer",
    "data.aws_iam_policy_document.task[$n]: Read complete after 0s [id=$n$n]",
    "GET /static/js/main.$h.chunk.js HTTP/1.1\" 200 $n \"https://portal.example.com/deployments/$n\" \"Mozilla/5.0 (X11; Linux x86_64)\"",
    "PLAY RECAP $a : ok=$n changed=$n unreachable=0 failed=0 skipped=$n rescued=0 ignored=0",
    "fatal: [$a]: UNREACHABLE! => {\"changed\": false, \"msg\": \"Failed to connect to the host via ssh: $n\", \"unreachable\": true}",
];

/// Numbers that look like chance and are the same in each run.
struct Chance(u64);

impl Chance {
    /// As in SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A stock of lines, of which windows are taken.
pub struct LogText {
    lines: String,
}

impl LogText {
    /// So many lines.
    pub fn of_lines(count: usize) -> Self {
        let mut chance = Chance(1);
        let mut lines = String::with_capacity(count * LINE_BYTES);
        for number in 0..count {
            let begun = lines.len();
            lines += &format!(
                "2026-11-21T{:02}:{:02}:{:02}.{:03}Z ",
                number / 36_000 % 24,
                number / 600 % 60,
                number / 10 % 60,
                chance.below(1000)
            );
            while lines.len() - begun < LINE_BYTES - 1 {
                let form = FORMS[chance.below(FORMS.len() as u64) as usize];
                fill_in(form, &mut chance, &mut lines);
                lines.push(' ');
            }
            lines.truncate(begun + LINE_BYTES - 1);
            lines.push('\n');
        }
        Self { lines }
    }

    /// As many lines as measurements take them from.
    pub fn stock() -> Self {
        Self::of_lines(STOCK)
    }

    /// Writes it to where the printing processes find it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_to(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let path = folder.join("lines");
        std::fs::write(&path, &self.lines).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// In words, for what all figures of a row have in common.
    pub fn about() -> String {
        format!("lines of {LINE_BYTES} bytes as engines and services print them")
    }

    /// All of it.
    #[cfg(test)]
    pub fn as_str(&self) -> &str {
        &self.lines
    }

    /// So many lines in a row; another number, another window.
    pub fn window(&self, number: usize, lines: usize) -> &str {
        let windows = self.lines.len() / LINE_BYTES - lines + 1;
        // A prime apart, so that neighbours are not alike.
        let from = number.wrapping_mul(7919) % windows * LINE_BYTES;
        &self.lines[from..from + lines * LINE_BYTES]
    }
}

fn fill_in(form: &str, chance: &mut Chance, out: &mut String) {
    let mut rest = form;
    while let Some((before, after)) = rest.split_once('$') {
        *out += before;
        match after.chars().next() {
            Some('h') => *out += &format!("{:016x}", chance.next()),
            Some('a') => *out += &format!("10.{}.{}.{}", chance.below(4), chance.below(256), chance.below(256)),
            // Small numbers are frequent, large ones rare.
            _ => {
                let digits = chance.below(4) as u32 + 1;
                *out += &chance.below(10_u64.pow(digits)).to_string();
            }
        }
        rest = &after[1..];
    }
    *out += rest;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn lines_have_their_length_are_printable_and_no_two_are_alike() {
        let text = LogText::of_lines(5000);
        let lines: Vec<&str> = text.as_str().split_terminator('\n').collect();
        assert_eq!(lines.iter().copied().collect::<BTreeSet<_>>().len(), 5000);
        assert!(
            lines
                .iter()
                .all(|line| line.len() == LINE_BYTES - 1 && !line.contains(|c: char| c.is_control() || c == '$'))
        );
        assert_eq!(LogText::of_lines(100).as_str(), LogText::of_lines(100).as_str());
    }

    #[test]
    fn windows_hold_whole_lines_wherever_they_begin() {
        let text = LogText::of_lines(100);
        for number in [0, 1, 99, usize::MAX] {
            let window = text.window(number, 20);
            assert_eq!((window.len(), window.matches('\n').count()), (20 * LINE_BYTES, 20));
            assert!(window.starts_with("2026-") && window.ends_with('\n'), "{number}");
        }
        assert_ne!(text.window(1, 20), text.window(2, 20));
        assert_eq!(text.window(5, 100), text.as_str());
    }
}
