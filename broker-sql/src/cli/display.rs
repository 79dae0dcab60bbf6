//! What of a job's text may reach a terminal: text, line ends, tabs and colours; nothing that moves, hides or answers.

/// Removes control characters, escape sequences and bidirectional controls; colours (SGR) stay if `colours`.
pub fn clean(text: &str, colours: bool) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\n' | '\t' => clean.push(c),
            '\u{1b}' => rest = after_escape(rest, &mut clean, colours),
            '\u{9b}' => rest = after_csi(rest, &mut clean, false),
            c if c.is_control() || is_direction(c) => {}
            c => clean.push(c),
        }
    }
    clean
}

fn after_escape<'a>(mut rest: std::str::Chars<'a>, clean: &mut String, colours: bool) -> std::str::Chars<'a> {
    match rest.clone().next() {
        Some('[') => {
            rest.next();
            after_csi(rest, clean, colours)
        }
        // OSC, DCS, SOS, PM, APC: up to the string's end, which is BEL or ESC \. Without one nothing is hidden.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            let body = rest.as_str();
            let end = body.find('\u{7}').into_iter().chain(body.find("\u{1b}\\"));
            let line = body.find('\n').unwrap_or(body.len());
            match end.min().filter(|end| *end < line) {
                Some(end) => {
                    let tail = body.get(end..).unwrap_or_default();
                    let skip = if tail.starts_with('\u{7}') { 1 } else { 2 };
                    tail.get(skip..).unwrap_or_default().chars()
                }
                None => {
                    rest.next();
                    rest
                }
            }
        }
        _ => rest,
    }
}

fn after_csi<'a>(mut rest: std::str::Chars<'a>, clean: &mut String, colours: bool) -> std::str::Chars<'a> {
    let body = rest.as_str();
    let parameters = body.find(|c: char| !matches!(c, '\u{20}'..='\u{3f}')).unwrap_or(body.len());
    rest = body.get(parameters..).unwrap_or_default().chars();
    let parameters = body.get(..parameters).unwrap_or_default();
    match rest.clone().next() {
        Some(last @ '\u{40}'..='\u{7e}') => {
            rest.next();
            let plain = parameters.chars().all(|c| c.is_ascii_digit() || matches!(c, ';' | ':'));
            if last == 'm' && colours && plain {
                clean.push_str("\u{1b}[");
                clean.push_str(parameters);
                clean.push('m');
            }
            rest
        }
        // Not a sequence after all.
        _ => rest,
    }
}

fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_colours_survive() {
        // Tried: colours, cursor moves, titles, hyperlinks, device queries, C1, carriage returns, bidi overrides, unended sequences.
        for (text, expected) in [
            ("\u{1b}[1;31mred\u{1b}[0m", "\u{1b}[1;31mred\u{1b}[0m"),
            ("a\u{1b}[2Jb\u{1b}[10;10Hc", "abc"),
            ("a\u{1b}]0;title\u{7}b", "ab"),
            ("a\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\b", "alinkb"),
            ("a\u{1b}P1;2q\u{1b}\\b\u{1b}[6n", "ab"),
            ("a\u{9b}31mb\u{90}c", "abc"),
            ("ok\rforged", "okforged"),
            ("a\u{202e}b\u{2066}c", "abc"),
            ("a\u{1b}]never ended\nnext", "anever ended\nnext"),
            ("a\u{1b}[?25lb\u{1b}[>4;2mc", "abc"),
            ("tab\there\u{1b}", "tab\there"),
        ] {
            assert_eq!(clean(text, true), expected, "{text:?}");
        }
        assert_eq!(clean("\u{1b}[1;31mred\u{1b}[0m", false), "red");
    }
}
