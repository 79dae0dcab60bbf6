//! `policy`: a command of the user's that reads a plan in JSON, and passes it, asks for an approval of what follows, or refuses.

use crate::command::Command;
use crate::kinds::exec::{may_run, resolve};
use crate::kinds::kind::Kind;
use crate::kinds::terraform::PLAN_JSON_ARTIFACT;
use crate::prepare::environment;
use crate::prepare::snapshot::Snapshot;
use crate::prepare::source;
use crate::run::Run;
use crate::sandbox::{Access, Profile};
use crate::stop::Stop;
use crate::supervise::{Class, Exit};
use crate::toolbox::Toolbox;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use tendril_templates::Tree;

const NAME: &str = "policy";
/// Where the command finds the plan.
const PLAN_VARIABLE: &str = "TENDRIL_PLAN_JSON";
/// The exit code that asks for an approval.
const ASKS: i32 = 3;
/// Longest reason that is passed on, in characters.
const MAX_REASON_CHARS: usize = 300;

/// The kind.
pub struct Policy {
    toolbox: Arc<Toolbox>,
}

#[derive(Deserialize)]
struct Spec {
    argv: Vec<String>,
}

impl Policy {
    /// With the environment of this machine.
    pub fn new(toolbox: &Arc<Toolbox>) -> Self {
        Self { toolbox: toolbox.clone() }
    }

    async fn judge(&self, run: &mut Run) -> Result<Value, Stop> {
        let Spec { argv } =
            Spec::deserialize(&run.job.spec).map_err(|e| Stop::refused(format!("argv: cannot be read: {e}")))?;
        let [name, args @ ..] = argv.as_slice() else { return Err(Stop::refused("argv: has no program")) };
        let Some(attempt) = run.job.plan_attempt else { return Err(Stop::refused("there is no plan to read")) };
        let Some(plan) = run.fetch_if_kept(attempt, PLAN_JSON_ARTIFACT).await? else {
            return Err(Stop::refused("the plan was not kept in JSON; is it too large?"));
        };
        let snapshot = Snapshot::read(&run.job.snapshot)?;
        let tree = source::files(run, &self.toolbox, &snapshot).await?.map_or_else(Tree::new, |files| files.tree);
        let cwd = run.work.tree();
        source::write(tree, &cwd).await?;
        let plan = run.work.write("plan.json", &plan)?;
        let search_path = self.toolbox.env.get("PATH").map_or("", String::as_str);
        let program = resolve(name, &cwd, search_path)?;
        may_run(run, name, &program)?;
        let mut env = environment::of_attempt(&self.toolbox.env, &run.work);
        env.insert(PLAN_VARIABLE.to_owned(), plan.display().to_string());
        let command = Command::new(NAME, &program, cwd).args(args).env(env).class(Class::Reading);
        let command = command.access(Access { read: vec![plan], ..Access::of(Profile::Exec) });
        let finished = run.command(command).await?;
        let said = reason(&finished.stderr);
        match finished.record.exit {
            Exit::Failure { code: ASKS } => {
                run.say(format!("what follows needs an approval: {}", said.as_deref().unwrap_or("no reason given")));
                Ok(json!({"verdict": "approval", "reason": said}))
            }
            Exit::Failure { code } => {
                let said = said.unwrap_or_else(|| format!("{name} ended with code {code}"));
                Err(Stop::refused(format!("refused by policy: {said}")))
            }
            _ => {
                finished.require_success(name, Class::Reading)?;
                Ok(json!({"verdict": "pass"}))
            }
        }
    }
}

/// The first line of what a command said on standard error.
fn reason(stderr: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().filter(|c| !c.is_control()).take(MAX_REASON_CHARS).collect())
}

impl Kind for Policy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn available(&self) -> Result<(), String> {
        Ok(())
    }

    fn run<'a>(&'a self, run: &'a mut Run) -> BoxFuture<'a, Result<Value, Stop>> {
        Box::pin(self.judge(run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_first_line_that_says_something_and_bounded() {
        // Tried: nothing, blanks, control characters, bytes that are no text, a line without end.
        assert_eq!(reason(b""), None);
        assert_eq!(reason(b" \n\t\n"), None);
        assert_eq!(reason(b"\n too \x07open \nmore"), Some("too open".into()));
        assert_eq!(reason(b"\xff no"), Some("\u{fffd} no".into()));
        assert_eq!(reason("x".repeat(10_000).as_bytes()).unwrap().len(), MAX_REASON_CHARS);
    }
}
