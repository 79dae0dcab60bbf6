//! `migrate`, `doctor`, `uninstall`.

use serde_json::json;

use crate::cli::Context;
use crate::cli::arguments::{Migrate, Uninstall};
use crate::cli::exit::{Failure, Outcome};
use crate::operator::migration;

pub async fn migrate(context: &Context, options: &Migrate) -> Result<Outcome, Failure> {
    if options.print {
        let script = migration::script();
        context.output.print(&json!({"sql": script}), || script.clone())?;
        return Ok(Outcome::Done);
    }
    let mut connection = context.connect().await?;
    if options.check {
        let state = migration::state(&mut connection).await?;
        context.output.print(&state, || match state.pending.as_slice() {
            [] => format!("the schema is up to date: {}", state.known),
            pending => format!("{} migrations are missing: {pending:?}", pending.len()),
        })?;
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

pub async fn doctor(_context: &Context) -> Result<Outcome, Failure> {
    Ok(Outcome::Done)
}

pub async fn uninstall(_context: &Context, _options: &Uninstall) -> Result<Outcome, Failure> {
    Ok(Outcome::Done)
}
