//! What children say of themselves, in a file outside the database. The checker believes this file.
//!
//! One line per fact, appended in one write and made durable before the child goes on:
//!
//! ```text
//! start <job> <attempt> <pid>:<birth> <boot time> <wall time>
//! clash <job> <attempt> <pid>:<birth> <boot time> <wall time> <lock>
//! end   <job> <attempt> <pid>:<birth> <boot time> <wall time> exit:<code>|signal:<number> <lines printed>
//! ```

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Moment;
use crate::processes::Identity;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fact {
    /// What happened.
    pub what: What,
    /// The job, as `<deployment>/<name>`.
    pub job: String,
    /// The attempt, which the child reads from the path of its work folder.
    pub attempt: Option<Uuid>,
    /// The child.
    pub process: Identity,
    /// When.
    pub at: Moment,
}

/// What a child has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It runs.
    Start,
    /// Another child that lives holds a lock that this one needs: the kernel's word that two overlap.
    Clash(String),
    /// It leaves, having printed this many lines.
    End(How, u32),
}

impl What {
    /// The lock that somebody else held.
    pub fn clash(&self) -> Option<&str> {
        match self {
            Self::Clash(lock) => Some(lock),
            Self::Start | Self::End(..) => None,
        }
    }
}

/// How a child ends that has time to say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// With this code, unasked.
    Exit(i32),
    /// Asked by this signal.
    Signal(i32),
}

impl Fact {
    /// Appends it.
    ///
    /// # Errors
    /// The system's error.
    pub fn append(&self, file: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(file)?;
        file.write_all(format!("{self}\n").as_bytes())?;
        file.sync_data()
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.what {
            What::Start => "start",
            What::Clash(_) => "clash",
            What::End(..) => "end",
        };
        let attempt = self.attempt.map_or_else(|| "-".to_owned(), |id| id.to_string());
        let Moment { boot_us, wall_us } = self.at;
        write!(f, "{word} {} {attempt} {} {boot_us} {wall_us}", self.job, self.process)?;
        match &self.what {
            What::Start => Ok(()),
            What::Clash(lock) => write!(f, " {lock}"),
            What::End(How::Exit(code), lines) => write!(f, " exit:{code} {lines}"),
            What::End(How::Signal(number), lines) => write!(f, " signal:{number} {lines}"),
        }
    }
}

impl FromStr for Fact {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        parse(line).ok_or_else(|| format!("not a fact: {line}"))
    }
}

fn parse(line: &str) -> Option<Fact> {
    let words: Vec<&str> = line.split(' ').collect();
    let [word, job, attempt, process, boot_us, wall_us, rest @ ..] = words.as_slice() else { return None };
    let what = match (*word, rest) {
        ("start", []) => What::Start,
        ("clash", [lock]) => What::Clash((*lock).to_owned()),
        ("end", [how, lines]) => What::End(parse_how(how)?, lines.parse().ok()?),
        _ => return None,
    };
    let attempt = if *attempt == "-" { None } else { Some(attempt.parse().ok()?) };
    let at = Moment { boot_us: boot_us.parse().ok()?, wall_us: wall_us.parse().ok()? };
    Some(Fact { what, job: (*job).to_owned(), attempt, process: process.parse().ok()?, at })
}

fn parse_how(text: &str) -> Option<How> {
    let (kind, number) = text.split_once(':')?;
    match kind {
        "exit" => number.parse().ok().map(How::Exit),
        "signal" => number.parse().ok().map(How::Signal),
        _ => None,
    }
}

impl TryFrom<String> for Fact {
    type Error = String;

    fn try_from(line: String) -> Result<Self, String> {
        line.parse()
    }
}

impl From<Fact> for String {
    fn from(fact: Fact) -> Self {
        fact.to_string()
    }
}

/// All facts of a file; none when no child has run yet.
///
/// # Errors
/// The system's error, or a line that is not a fact.
pub fn read(file: &Path) -> io::Result<Vec<Fact>> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    text.lines().map(|line| line.parse().map_err(io::Error::other)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_survives_being_written_and_read() {
        let fact = |what| Fact {
            what,
            job: "d/apply".into(),
            attempt: Some(Uuid::from_u128(5)),
            process: Identity { pid: 7, birth: 9 },
            at: Moment { boot_us: 1, wall_us: 2 },
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("facts");
        let told = [
            fact(What::Start),
            fact(What::Clash("job:d".into())),
            fact(What::End(How::Exit(3), 4)),
            Fact { attempt: None, ..fact(What::End(How::Signal(2), 0)) },
        ];
        assert!(read(&file).unwrap().is_empty());
        told.iter().for_each(|fact| fact.append(&file).unwrap());
        assert_eq!(read(&file).unwrap(), told);
    }

    #[test]
    fn what_is_not_a_fact_is_refused() {
        // Tried: nothing, an unknown word, a missing end, a torn line, an attempt that is none.
        for line in [
            "",
            "stop d - 1:2 3 4",
            "end d - 1:2 3 4",
            "start d - 1:2 3",
            "start d x 1:2 3 4",
            "end d - 1:2 3 4 exit:x 5",
        ] {
            assert!(line.parse::<Fact>().is_err(), "{line}");
        }
    }
}
