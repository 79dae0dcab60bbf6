//! `migrate`, `doctor`, `uninstall`.

use serde_json::json;

use crate::cli::Context;
use crate::cli::arguments::{ArchiveFlags, Migrate, Uninstall};
use crate::cli::exit::{Failure, Outcome};
use crate::operator::doctor::{self, Finding, Level};
use crate::operator::migration::{self, SchemaState};
use crate::operator::uninstall::{self, Installed};

pub async fn migrate(context: &Context, options: &Migrate) -> Result<Outcome, Failure> {
    if options.print {
        let script = migration::script();
        context.output.print(&json!({"sql": script}), || script.clone())?;
        return Ok(Outcome::Done);
    }
    let mut connection = context.connect().await?;
    if options.check {
        let state = migration::state(&mut connection).await?;
        context.output.print(&state, || compared(&state))?;
        let complete = state.pending.is_empty();
        return Ok(if complete { Outcome::Done } else { Outcome::Negative });
    }
    let applied = migration::migrate(&mut connection).await?;
    let state = migration::state(&mut connection).await?;
    let object = json!({"version": state.version, "known": state.known, "pending": state.pending, "applied": applied});
    context.output.print(&object, || match applied.len() {
        0 => format!("the schema was up to date: {}", state.known),
        n => format!("applied {n} migrations; the schema is at {}", state.known),
    })?;
    Ok(Outcome::Done)
}

fn compared(state: &SchemaState) -> String {
    let known = state.known;
    match (state.pending.as_slice(), state.version) {
        ([], Some(version)) if version > known => {
            format!("the schema is at {version}, newer than this tendril-broker, which knows {known}")
        }
        ([], _) => format!("the schema is up to date: {known}"),
        (pending, _) => {
            let numbers: Vec<String> = pending.iter().map(i64::to_string).collect();
            format!("missing, and put there by `tendril-broker migrate`: {}", numbers.join(", "))
        }
    }
}

pub async fn doctor(context: &Context, archive: ArchiveFlags) -> Result<Outcome, Failure> {
    let mut connection = context.connect().await?;
    let findings = doctor::examine(&mut connection, archive.options().as_ref()).await?;
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    context.output.print(&json!({"worst": worst, "findings": findings}), || tell(&findings))?;
    Ok(if worst == Level::Fail { Outcome::Negative } else { Outcome::Done })
}

fn tell(findings: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let level = match finding.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        let remedy = finding.remedy.as_ref().map(|remedy| format!("\n      -> {remedy}"));
        format!("{level}  {}{}", finding.message, remedy.unwrap_or_default())
    };
    findings.iter().map(line).collect::<Vec<_>>().join("\n")
}

pub async fn uninstall(context: &Context, options: &Uninstall) -> Result<Outcome, Failure> {
    let mut connection = context.connect().await?;
    if !options.yes {
        let found = uninstall::look(&mut connection).await?;
        context.output.print(&json!({"removed": false, "installed": found}), || match found.is_empty() {
            true => "nothing of Tendril is in this database".into(),
            false => format!("{}\nnothing was removed; --yes does it", list(&found)),
        })?;
        return Ok(if found.is_empty() { Outcome::Done } else { Outcome::Negative });
    }
    let found = uninstall::uninstall(&mut connection, options.cascade).await?;
    context.output.print(&json!({"removed": true, "installed": found}), || match found.is_empty() {
        true => "nothing of Tendril was in this database".into(),
        false => format!("removed:\n{}", list(&found)),
    })?;
    Ok(Outcome::Done)
}

fn list(found: &Installed) -> String {
    let kinds = [
        ("schema", &found.schemas),
        ("credential", &found.credentials),
        ("group role", &found.groups),
        ("dependent", &found.dependents),
    ];
    let lines = kinds.into_iter().flat_map(|(kind, names)| names.iter().map(move |name| format!("  {kind} {name}")));
    lines.collect::<Vec<_>>().join("\n")
}
