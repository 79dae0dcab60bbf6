//! `exec`: one program with its arguments, in the files of the template or in an empty folder.

use crate::command::{Command, Finished};
use crate::kinds::kind::{Kind, read_notes};
use crate::prepare::environment;
use crate::prepare::snapshot::Snapshot;
use crate::prepare::source::{self, Files};
use crate::programs::lookup;
use crate::run::Run;
use crate::sandbox::{Access, Profile};
use crate::stop::Stop;
use crate::supervise::Class;
use crate::toolbox::Toolbox;
use futures_util::future::BoxFuture;
use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tendril_broker::runner::Claimed;
use tendril_templates::{Tree, TreePath};

/// The kind.
pub struct Exec {
    toolbox: Arc<Toolbox>,
}

#[derive(Deserialize)]
struct Spec {
    argv: Vec<String>,
}

impl Exec {
    /// With the environment of this machine.
    pub fn new(toolbox: &Arc<Toolbox>) -> Self {
        Self { toolbox: toolbox.clone() }
    }

    async fn exec(&self, run: &mut Run) -> Result<Value, Stop> {
        let Spec { argv } =
            Spec::deserialize(&run.job.spec).map_err(|e| Stop::refused(format!("argv: cannot be read: {e}")))?;
        let [name, args @ ..] = argv.as_slice() else { return Err(Stop::refused("argv: has no program")) };
        let snapshot = Snapshot::read(&run.job.snapshot)?;
        let files = source::files(run, &self.toolbox, &snapshot).await?;
        let (tree, origin) = match files {
            Some(Files { tree, origin, .. }) => (tree, json!(origin)),
            None => (Tree::new(), Value::Null),
        };
        let cwd = run.work.tree();
        source::write(tree, &cwd).await?;
        let search_path = self.toolbox.env.get("PATH").map_or("", String::as_str);
        let program = resolve(name, &cwd, search_path)?;
        may_run(run, name, &program)?;
        let class = if run.job.mutating { Class::Mutating } else { Class::Reading };
        let env = environment::of_attempt(&self.toolbox.env, &run.work);
        let command = Command::new("exec", &program, cwd).args(args).env(env).class(class);
        let command = command.access(Access::of(Profile::Exec));
        let notes = Notes { program: name.clone(), source: origin };
        let finished = match class {
            Class::Mutating => run.start_command(command.hand_over(json!(notes))).await?,
            Class::Reading => run.command(command).await,
        };
        conclude(run, notes, finished)
    }
}

/// What is to be known at the program's end.
#[derive(Deserialize, Serialize)]
struct Notes {
    program: String,
    source: Value,
}

fn conclude(run: &Run, notes: Notes, finished: Result<Finished, Stop>) -> Result<Value, Stop> {
    let class = if run.job.mutating { Class::Mutating } else { Class::Reading };
    finished?.require_success(&notes.program, class)?;
    Ok(json!({ "source": notes.source }))
}

impl Kind for Exec {
    fn name(&self) -> &'static str {
        "exec"
    }

    fn available(&self) -> Result<(), String> {
        Ok(())
    }

    /// An empty folder is all that has to be made ready.
    fn starts_at_once(&self, job: &Claimed) -> bool {
        job.snapshot.get("template").is_none()
    }

    fn run<'a>(&'a self, run: &'a mut Run) -> BoxFuture<'a, Result<Value, Stop>> {
        Box::pin(self.exec(run))
    }

    fn conclude<'a>(
        &'a self,
        run: &'a mut Run,
        notes: Value,
        finished: Result<Finished, Stop>,
    ) -> BoxFuture<'a, Result<Value, Stop>> {
        Box::pin(async move { conclude(run, read_notes(notes)?, finished) })
    }
}

/// Where the settings list the programs of such jobs, this is one of them.
pub(super) fn may_run(run: &Run, name: &str, program: &Path) -> Result<(), Stop> {
    match &run.config().sandbox.exec_programs {
        Some(listed) if !listed.iter().any(|one| program.starts_with(one)) => Err(Stop::refused(format!(
            "program {name} is not one that jobs may run here; see sandbox.exec_programs of this runner's settings"
        ))),
        _ => Ok(()),
    }
}

/// The program that `argv[0]` names: an absolute path, a path within the tree, or a name on the PATH of jobs.
pub(super) fn resolve(name: &str, tree: &Path, search_path: &str) -> Result<PathBuf, Stop> {
    if !name.contains('/') {
        return lookup(name, search_path).ok_or_else(|| {
            Stop::refused(format!("program {name} is not on this runner's PATH for jobs, {search_path}"))
        });
    }
    let path = match name.starts_with('/') {
        true => PathBuf::from(name),
        false => {
            let inside = TreePath::new(name.strip_prefix("./").unwrap_or(name));
            tree.join(inside.map_err(|e| Stop::refused(format!("argv[0]: {e}")))?.as_str())
        }
    };
    if !path.is_file() {
        return Err(Stop::refused(format!(
            "program {name} does not exist; give a path in the template, or an absolute one"
        )));
    }
    match access(&path, AccessFlags::X_OK) {
        Ok(()) => Ok(path),
        // Inline files cannot be executable, so this names the way out.
        Err(_) => Err(Stop::refused(format!(
            "program {name} may not be executed; run it by its interpreter, as [\"sh\", \"{name}\"]"
        ))),
    }
}
