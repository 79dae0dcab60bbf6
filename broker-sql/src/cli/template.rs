//! `template lint | register`.

use std::path::Path;

use serde_json::json;
use tendril_templates::{Finding, Template};

use crate::cli::Context;
use crate::cli::arguments::Template as Command;
use crate::cli::exit::{Failure, Outcome};
use crate::operator::templates;

pub async fn template(context: &Context, command: Command) -> Result<Outcome, Failure> {
    match command {
        Command::Lint { dir } => lint(context, &dir),
        Command::Register { dir } => register(context, &dir).await,
    }
}

fn lint(context: &Context, dir: &Path) -> Result<Outcome, Failure> {
    let findings = tendril_templates::lint(dir);
    context.output.print(&json!({"findings": findings}), || match findings.is_empty() {
        true => format!("{}: nothing is wrong", dir.display()),
        false => tell(dir, &findings),
    })?;
    Ok(if findings.is_empty() { Outcome::Done } else { Outcome::Negative })
}

fn tell(dir: &Path, findings: &[Finding]) -> String {
    let lines: Vec<String> = findings.iter().map(|finding| format!("{}: {finding}", dir.display())).collect();
    lines.join("\n")
}

async fn register(context: &Context, dir: &Path) -> Result<Outcome, Failure> {
    let findings = tendril_templates::lint(dir);
    if !findings.is_empty() {
        let message = format!("the template is not registered, something is wrong with it\n{}", tell(dir, &findings));
        return Err(Failure::Machine(message));
    }
    let template = Template::load(dir).map_err(|error| Failure::Machine(format!("{}: {error}", dir.display())))?;
    let mut connection = context.connect().await?;
    let registered = templates::register(&mut connection, &template.register_record()).await?;
    let (name, version) = (template.name(), template.version().to_string());
    let object = json!({"name": name, "version": version, "registered": registered});
    context.output.print(&object, || match registered {
        true => format!("template {name} {version} is registered: submits are checked against it"),
        false => format!("template {name} {version} was registered before, with the same content"),
    })?;
    Ok(Outcome::Done)
}
