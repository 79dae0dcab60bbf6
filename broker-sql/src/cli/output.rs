//! What a command prints: text for people, JSON for programs.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::display;

/// Standard output, in the form that was asked for.
#[derive(Debug)]
pub struct Output {
    json: bool,
    colours: bool,
}

impl Output {
    /// Text, or JSON.
    pub fn new(json: bool) -> Self {
        Self { json, colours: io::stdout().is_terminal() }
    }

    /// Whether JSON was asked for.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints an object as one line of JSON, or as the text for it.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn print(&self, object: &impl Serialize, text: impl FnOnce() -> String) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, object)?;
            writeln!(out)
        } else {
            writeln!(out, "{}", display::clean(text().trim_end(), self.colours))
        }
    }

    /// Prints text that came from a job, with colours only on a terminal.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn print_job_text(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", display::clean(text, self.colours))?;
        out.flush()
    }

    /// Says something beside the output, for people.
    pub fn remark(&self, text: &str) {
        if !self.json {
            eprintln!("{}", display::clean(text, io::stderr().is_terminal()));
        }
    }
}

/// A table with aligned columns; the last one is not padded.
pub fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(heads.get(column).map_or(0, |head| head.len()))
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut heads.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// A moment in UTC to the second.
pub fn moment(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC).replace_nanosecond(0);
    at.ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

/// A moment that may not have come.
pub fn moment_or_dash(at: Option<OffsetDateTime>) -> String {
    at.map_or_else(|| "-".to_owned(), moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_spaces() {
        let rows = [vec!["a".into(), "bb".into()], vec!["ccc".into(), String::new()]];
        assert_eq!(table(&["X", "LONG"], &rows), "X    LONG\na    bb\nccc");
    }
}
