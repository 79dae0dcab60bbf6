//! `watch` and `logs`: a deployment on the terminal while it happens.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use crate::archive::{Archive, ArchiveError};
use crate::cli::arguments::{self, ArchiveFlags, Logs};
use crate::cli::exit::{Failure, Outcome};
use crate::cli::{Context, output::Output};
use crate::portal::deployments::{JobState, State};
use crate::portal::logs::{LogChunk, LogReader};
use crate::portal::{Ending, Event, Watch};
use crate::refusal::Error;

/// How long a watcher tries to get back to a database that went away.
const PATIENCE: Duration = Duration::from_secs(120);

/// Follows a deployment until its end, whatever becomes of the connection.
pub async fn watch(context: &Context, options: &arguments::Watch) -> Result<Outcome, Failure> {
    let printer = Printer { output: &context.output, logs_only: false };
    let archive = open(&options.archive).await?;
    follow(context, Watch::new(options.id).with_archive(archive), options.id, &printer).await
}

async fn open(flags: &ArchiveFlags) -> Result<Option<Archive>, Failure> {
    match flags.options() {
        Some(options) => Ok(Some(Archive::open(&options).await.map_err(Error::from)?)),
        None => Ok(None),
    }
}

/// Prints a log; with `--follow` until the deployment has ended.
pub async fn logs(context: &Context, options: &Logs) -> Result<Outcome, Failure> {
    let printer = Printer { output: &context.output, logs_only: true };
    let archive = open(&options.archive).await?;
    if options.follow {
        let watch = Watch::new(options.id).with_archive(archive).logs_only();
        return match follow(context, watch, options.id, &printer).await? {
            Outcome::Interrupted => Ok(Outcome::Interrupted),
            _ => Ok(Outcome::Done),
        };
    }
    let mut connection = context.connect().await?;
    let mut reader = LogReader::new(options.id).with_archive(archive);
    loop {
        let (chunks, more) = reader.next(&mut connection).await?;
        for chunk in &chunks {
            printer.log(chunk)?;
        }
        if !more {
            printer.troubles(reader.troubles());
            return Ok(if reader.troubles().is_empty() { Outcome::Done } else { Outcome::Negative });
        }
    }
}

async fn follow(context: &Context, mut watch: Watch, id: Uuid, printer: &Printer<'_>) -> Result<Outcome, Failure> {
    let mut connection = context.connect().await?;
    let mut away = None;
    let machine = |error: std::io::Error| Failure::Machine(format!("cannot take signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(machine)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(machine)?;
    loop {
        let events = tokio::select! {
            events = watch.next(&mut connection) => events,
            _ = interrupt.recv() => return Ok(printer.interrupted(id)),
            _ = terminate.recv() => return Ok(printer.interrupted(id)),
        };
        let events = match events {
            Err(error) if error.is_outage() => {
                printer.remark(&format!("{error}; trying again for {} s", PATIENCE.as_secs()));
                connection = tokio::select! {
                    back = connect_again(context) => back?,
                    _ = interrupt.recv() => return Ok(printer.interrupted(id)),
                    _ = terminate.recv() => return Ok(printer.interrupted(id)),
                };
                continue;
            }
            events => events?,
        };
        for event in events {
            match event {
                Event::Status(state) => printer.status(&state)?,
                Event::Job(job) => printer.job(&job)?,
                Event::Log(chunk) => printer.log(&chunk)?,
                Event::Away(error, pause) => printer.away(&mut away, &error, pause),
                Event::End(ending) => {
                    printer.troubles(watch.troubles());
                    return printer.end(&ending);
                }
            }
        }
    }
}

async fn connect_again(context: &Context) -> Result<PgConnection, Failure> {
    let started = tokio::time::Instant::now();
    let address = context.address()?;
    loop {
        match address.connect(super::APPLICATION).await {
            Err(error) if error.is_outage() && started.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            connected => return Ok(connected?),
        }
    }
}

struct Printer<'a> {
    output: &'a Output,
    logs_only: bool,
}

/// A line of `--json`.
#[derive(Serialize)]
struct Line<'a, T> {
    r#type: &'a str,
    #[serde(flatten)]
    event: T,
}

impl Printer<'_> {
    fn remark(&self, text: &str) {
        self.output.remark(text);
    }

    fn troubles(&self, troubles: &[ArchiveError]) {
        for trouble in troubles {
            self.remark(&format!("error: {trouble}; hint: {}", trouble.hint()));
        }
    }

    /// Once for each reason, not at each try.
    fn away(&self, said: &mut Option<ArchiveError>, error: &ArchiveError, pause: Duration) {
        if said.as_ref() != Some(error) {
            let (hint, pause) = (error.hint(), pause.as_secs());
            self.remark(&format!("{error}; hint: {hint}; what is archived waits, trying again after {pause} s"));
            *said = Some(error.clone());
        }
    }

    fn line(&self, r#type: &str, event: impl Serialize) -> Result<(), Failure> {
        let line = Line { r#type, event };
        Ok(self.output.print(&line, String::new)?)
    }

    fn status(&self, state: &State) -> Result<(), Failure> {
        if self.logs_only {
            return Ok(());
        }
        if self.output.is_json() {
            let event = json!({"id": state.id, "status": state.status, "waiting_for": state.waiting_for,
                "error_message": state.error_message});
            return self.line("status", event);
        }
        let why = waits(state.waiting_for.as_deref());
        self.remark(&format!("== {}{why}", state.status));
        Ok(())
    }

    fn job(&self, job: &JobState) -> Result<(), Failure> {
        if self.logs_only {
            return Ok(());
        }
        if self.output.is_json() {
            let event = json!({"name": job.name, "kind": job.kind, "state": job.state, "reason": job.reason,
                "waiting_for": job.waiting_for, "attempts": job.attempts});
            return self.line("job", event);
        }
        let reason = job.reason.as_ref().map(|reason| format!(" ({reason})"));
        let why = waits(job.waiting_for.as_deref());
        self.remark(&format!("-- {}: {}{}{why}", job.name, job.state, reason.unwrap_or_default()));
        Ok(())
    }

    fn log(&self, chunk: &LogChunk) -> Result<(), Failure> {
        if self.output.is_json() {
            return self.line("log", chunk);
        }
        if let Some(kind) = &chunk.gap_kind {
            if matches!(kind.as_str(), "removed" | "archived" | "unreadable") {
                // The reader's own: it says what is missing where.
                return Ok(self.output.print_job_text(&format!("{} | {}", chunk.job, chunk.log_chunk.trim_end()))?);
            }
            let bytes = chunk.gap_bytes.map(|bytes| format!("{bytes} bytes of "));
            let text = format!("[{}output lost: {kind}]", bytes.unwrap_or_default());
            return Ok(self.output.print_job_text(&format!("{} | {text}", chunk.job))?);
        }
        let text = chunk.log_chunk.strip_suffix('\n').unwrap_or(&chunk.log_chunk);
        let lines: Vec<String> = text.split('\n').map(|line| format!("{} | {line}", chunk.job)).collect();
        Ok(self.output.print_job_text(&lines.join("\n"))?)
    }

    fn end(&self, ending: &Ending) -> Result<Outcome, Failure> {
        let state = &ending.state;
        let outcome = match state.status.as_str() {
            "SUCCESS" => Outcome::Done,
            "CANCELLED" => Outcome::Cancelled,
            _ => Outcome::Negative,
        };
        if !ending.logs_complete {
            self.remark("note: not all of the log has arrived; `tendril-broker logs` shows what comes later");
        }
        if self.logs_only {
            return Ok(outcome);
        }
        let event = json!({"id": state.id, "status": state.status, "error_message": state.error_message,
            "outputs": state.outputs, "logs_complete": ending.logs_complete});
        if self.output.is_json() {
            self.line("end", event)?;
            return Ok(outcome);
        }
        let mut text = tell_outputs(state.outputs.as_ref());
        text.push_str(&state.status);
        if let Some(message) = &state.error_message {
            text.push_str(": ");
            text.push_str(message);
        }
        self.output.print(&event, || text)?;
        Ok(outcome)
    }

    fn interrupted(&self, id: Uuid) -> Outcome {
        self.remark(&format!(
            "the deployment goes on without us; see it again: tendril-broker watch {id}, stop it: tendril-broker cancel {id}"
        ));
        Outcome::Interrupted
    }
}

fn waits(waiting_for: Option<&str>) -> String {
    waiting_for.map_or_else(String::new, |what| format!(", waiting for {what}"))
}

/// Outputs as `name = value`; terraform's own wrapping of value and type is taken off.
pub fn tell_outputs(outputs: Option<&Value>) -> String {
    let Some(Value::Object(outputs)) = outputs else {
        return String::new();
    };
    let line = |(name, output): (&String, &Value)| {
        let value = output.get("value").unwrap_or(output);
        match value {
            Value::String(text) => format!("{name} = {text}\n"),
            other => format!("{name} = {other}\n"),
        }
    };
    outputs.iter().map(line).collect()
}
