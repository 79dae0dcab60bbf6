//! How a command ends: exit codes, and errors as people and programs read them.

use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::refusal::Error;
use crate::session::BadAddress;

/// How a command ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Done,
    /// A check found something, or the watched deployment failed.
    Negative,
    /// The watched deployment was cancelled.
    Cancelled,
    /// By Ctrl-C.
    Interrupted,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(match outcome {
            Outcome::Done => 0,
            Outcome::Negative => 1,
            Outcome::Cancelled => 3,
            Outcome::Interrupted => 130,
        })
    }
}

/// Why a command did not end as asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The caller's mistake, found before anything was sent.
    #[error("{0}")]
    Usage(String),
    /// A URL that cannot be read.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// From the database or the way to it.
    #[error(transparent)]
    Database(#[from] Error),
    /// Standard output was closed: nobody reads any more.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
    /// Something of this machine.
    #[error("{0}")]
    Machine(String),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Address(_) => 2,
            Self::Database(error) => match error {
                Error::Unreachable(_) | Error::Broken(_) => 4,
                Error::Archive(error) if error.is_outage() => 4,
                Error::SchemaNewer { .. }
                | Error::SchemaOlder { .. }
                | Error::MigrationChanged(_)
                | Error::Reply(_) => 5,
                Error::Archive(_) => 1,
                Error::Refused(refusal) => match refusal.sqlstate.as_str() {
                    // No such schema, table or function: a database without us, or of another age.
                    "3F000" | "42P01" | "42883" => 5,
                    _ => 1,
                },
            },
            Self::Output(_) | Self::Machine(_) => 1,
        }
    }

    fn to_json(&self) -> Value {
        let refusal = match self {
            Self::Database(error) => error.refusal(),
            _ => None,
        };
        let hint = match self {
            Self::Database(error) => error.hint(),
            _ => None,
        };
        json!({"error": {
            "message": self.to_string(),
            "hint": hint,
            "sqlstate": refusal.map(|refusal| &refusal.sqlstate),
            "detail": refusal.and_then(|refusal| refusal.detail.as_deref()),
            "problems": refusal.map(|refusal| refusal.problems()).unwrap_or_default(),
        }})
    }

    fn to_text(&self) -> String {
        let mut text = format!("error: {self}\n");
        let Self::Database(error) = self else {
            return text;
        };
        if let Some(refusal) = error.refusal() {
            let problems = refusal.problems();
            match &refusal.detail {
                // The first problem is the message already.
                Some(_) if problems.len() == 1 => {}
                Some(_) if !problems.is_empty() => {
                    for problem in &problems {
                        let _ = writeln!(text, "  {problem}");
                    }
                }
                Some(detail) => {
                    let _ = writeln!(text, "detail: {detail}");
                }
                None => {}
            }
        }
        if let Some(hint) = error.hint() {
            let _ = writeln!(text, "hint: {hint}");
        }
        if let Some(refusal) = error.refusal() {
            let _ = writeln!(text, "sqlstate: {}", refusal.sqlstate);
        }
        text
    }

    /// Says it on standard error, as JSON if that was asked for; returns the exit code.
    pub fn report(&self, json: bool) -> ExitCode {
        match self {
            // `tendril-broker list | head` is no mistake.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            _ if json => eprintln!("{}", self.to_json()),
            _ => eprint!("{}", self.to_text()),
        }
        ExitCode::from(self.code())
    }
}

/// Says what is wrong with the command line, as JSON if that was asked for on it; returns the exit code. Help and version
/// come this way, too.
pub fn misused(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|argument| argument == "--json");
    if !json || !error.use_stderr() {
        error.exit();
    }
    let text = error.render().to_string();
    // Behind the message stand the usage and where to find help: for people.
    let lines =
        text.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let words: Vec<&str> = lines.map(str::trim).filter(|line| !line.is_empty()).collect();
    let message = words.join(" ");
    Failure::Usage(message.strip_prefix("error: ").unwrap_or(&message).to_owned()).report(json)
}
