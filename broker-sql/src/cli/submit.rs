//! `submit`: a snapshot from a file, or from a template's name and flags.

use serde_json::{Map, Value, json};

use crate::cli::Context;
use crate::cli::arguments::{Submit, TemplateFlags};
use crate::cli::exit::{Failure, Outcome};
use crate::cli::input::read_json;
use crate::clock::new_id;
use crate::portal::clusters;
use crate::portal::submission::{self, Submission};

pub async fn submit(context: &Context, options: Submit) -> Result<Outcome, Failure> {
    let snapshot = match (&options.source.file, options.source.template) {
        (Some(file), _) => read_json(file)?,
        (None, name) => from_flags(name.unwrap_or_default(), options.template)?,
    };
    let id = options.id.unwrap_or_else(new_id);
    let mut connection = None;
    let cluster = match options.cluster.parse() {
        Ok(id) => id,
        Err(_) => {
            let connection = connection.insert(context.connect().await?);
            clusters::find(connection, &options.cluster).await?
        }
    };
    let submission = Submission { id, cluster, snapshot };
    if options.print_sql {
        let sql = submission.to_sql();
        context.output.print(&json!({"id": id, "sql": sql}), || sql.clone())?;
        return Ok(Outcome::Done);
    }
    let mut connection = match connection {
        Some(connection) => connection,
        None => context.connect().await?,
    };
    let submitted = submission::submit(&mut connection, &submission).await?;
    context.output.print(&submitted, || {
        let again = match submitted.queued {
            true => "",
            false => ", submitted before: nothing was queued",
        };
        format!("deployment {id} is {status}{again}\nfollow it: tendril-broker watch {id}", status = submitted.status)
    })?;
    Ok(Outcome::Done)
}

fn from_flags(name: String, flags: TemplateFlags) -> Result<Value, Failure> {
    let mut inputs = match &flags.inputs_file {
        None => Map::new(),
        Some(file) => match read_json(file)? {
            Value::Object(inputs) => inputs,
            _ => {
                let message = format!("{} is not a JSON object of inputs", file.display());
                return Err(Failure::Usage(message));
            }
        },
    };
    inputs.extend(flags.inputs);
    let template = present([("name", Some(name.into())), ("version", flags.template_version.map(Value::from))]);
    let limits = present([
        ("timeout_s", flags.timeout_s.map(Value::from)),
        ("max_attempts", flags.max_attempts.map(Value::from)),
    ]);
    let filled = |map: Map<String, Value>| (!map.is_empty()).then_some(Value::Object(map));
    Ok(Value::Object(present([
        ("template", Some(template.into())),
        ("inputs", filled(inputs)),
        ("action", flags.action.map(Value::from)),
        ("engine", flags.engine.map(Value::from)),
        ("engine_version", flags.engine_version.map(Value::from)),
        ("backend", flags.backend),
        ("state_key", flags.state_key.map(Value::from)),
        ("workspace", flags.workspace.map(Value::from)),
        ("stateless", flags.stateless.then_some(true.into())),
        ("labels", (!flags.labels.is_empty()).then(|| flags.labels.into())),
        ("limits", filled(limits)),
        ("approval", flags.approval.then(|| "required".into())),
        ("priority", flags.priority.map(Value::from)),
        ("run_after", flags.run_after.map(Value::from)),
        ("cost", flags.cost.map(Value::from)),
    ])))
}

fn present<const N: usize>(keys: [(&str, Option<Value>); N]) -> Map<String, Value> {
    let present = keys.into_iter();
    present.filter_map(|(key, value)| value.map(|value| (key.to_owned(), value))).collect()
}
