//! `terraform.lock` and `terraform.unlock`: who holds the engine's own lock of a state, and how it is taken from them.
//!
//! An unlock has the state's key while it runs, so no run of this cluster holds the lock meanwhile: it waits for one that
//! does, and for an operator's word where nobody knows whether one is dead. Others are told apart by the lock's id.

use crate::command::{Command, Finished, Stdout};
use crate::kinds::kind::Kind;
use crate::kinds::terraform::site::Site;
use crate::kinds::terraform::{available, failure, labels};
use crate::logs::{LockHolder, Problem};
use crate::prepare::snapshot::{Snapshot, State};
use crate::prepare::source::{self, Files, Origin};
use crate::run::Run;
use crate::stop::Stop;
use crate::supervise::Class;
use crate::toolbox::Toolbox;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// The kind: it shows a state's lock, or releases it.
pub struct StateLock {
    toolbox: Arc<Toolbox>,
    releases: bool,
}

#[derive(Deserialize)]
struct Spec {
    /// The lock that is to be released.
    lock_id: Option<String>,
    /// Who wants that, and why.
    #[serde(default)]
    actor: String,
    #[serde(default)]
    reason: String,
}

/// What was found.
enum Found {
    Free,
    /// Held; by whom, if the backend can tell.
    Held(Option<LockHolder>),
}

impl StateLock {
    /// `terraform.lock`, with the tools of this machine.
    pub fn new(toolbox: &Arc<Toolbox>) -> Self {
        Self { toolbox: toolbox.clone(), releases: false }
    }

    /// `terraform.unlock`, with the tools of this machine.
    pub fn releasing(toolbox: &Arc<Toolbox>) -> Self {
        Self { toolbox: toolbox.clone(), releases: true }
    }

    async fn look(&self, run: &mut Run) -> Result<Value, Stop> {
        let spec = Spec::deserialize(&run.job.spec).map_err(|e| Stop::refused(format!("spec: cannot be read: {e}")))?;
        let snapshot = Snapshot::read(&run.job.snapshot)?;
        if snapshot.state == State::Thrown {
            return Err(Stop::refused("the deployment is stateless: there is no state that could be locked"));
        }
        let Some(files) = source::files(run, &self.toolbox, &snapshot).await? else {
            return Err(Stop::refused("template: is missing"));
        };
        let Files { tree, origin, accepted, .. } = files;
        if let Some(id) = &spec.lock_id {
            run.say(format!("lock {id} is to be released for {}: {}", spec.actor, spec.reason));
        }
        let engine = self.toolbox.engines.pick(&snapshot.engine, accepted.as_ref()).map_err(Stop::refused)?.clone();
        let mut site = Site::set_up(run, &self.toolbox, &snapshot, engine, tree).await?;
        site.init(run).await?;
        let asked = run.command(question(&site, variables(run, &snapshot, &origin)?)).await?;
        match (answer(&asked, &site)?, self.releases.then_some(spec.lock_id).flatten()) {
            (Found::Free, _) => {
                run.say("the state is not locked");
                Ok(json!({"locked": false}))
            }
            (Found::Held(holder), None) => {
                run.say(format!("the state is locked, held by {}", named(holder.as_ref())));
                Ok(json!({"locked": true, "lock": holder}))
            }
            (Found::Held(Some(holder)), Some(id)) if holder.id == id => self.release(run, &site, holder).await,
            (Found::Held(holder), Some(id)) => Err(Stop::refused(format!(
                "nothing was unlocked: the state is not locked by {id} but held by {}",
                named(holder.as_ref())
            ))),
        }
    }

    async fn release(&self, run: &mut Run, site: &Site, holder: LockHolder) -> Result<Value, Stop> {
        run.start().await?;
        let unlock = site.command("force-unlock").args(["-force", &holder.id]).class(Class::Mutating);
        let finished = run.command(unlock).await?;
        finished.require_success(&format!("{} force-unlock", site.engine.engine), Class::Mutating)?;
        run.say(format!("unlocked; it was held by {holder}"));
        Ok(json!({"locked": false, "unlocked": holder}))
    }
}

/// What an apply that had to be killed has left of the engine's lock, in words for people. Nothing of it lives any more.
pub async fn left_behind(run: &mut Run, site: &Site, snapshot: &Snapshot) -> String {
    if snapshot.state == State::Thrown {
        return "its state is thrown away".to_owned();
    }
    match look_again(run, site, snapshot).await {
        Ok(Found::Free) => "the state's lock is free".to_owned(),
        Ok(Found::Held(Some(holder))) => format!(
            "the state is locked, held by {holder}, and nothing of this attempt lives any more: if the lock is its own, \
             tendril-broker state unlock {} --lock-id {}",
            run.job.deployment_id, holder.id
        ),
        Ok(Found::Held(None)) => format!("the state is locked, held by {}", named(None)),
        Err(_) => look_for_it(run),
    }
}

/// An apply initialises only where it has to, and a plan does not run without.
async fn look_again(run: &mut Run, site: &Site, snapshot: &Snapshot) -> Result<Found, Stop> {
    let variables = variables(run, snapshot, &Origin::Inline)?;
    let init = run.last_look(site.init_command()).await?;
    failure::of_text(&init, &format!("{} init", site.engine.engine))?;
    answer(&run.last_look(question(site, variables)).await?, site)
}

/// Who can say more of the lock.
pub fn look_for_it(run: &Run) -> String {
    format!("its lock may be left behind: tendril-broker state lock {}", run.job.deployment_id)
}

fn variables(run: &Run, snapshot: &Snapshot, origin: &Origin) -> Result<Option<String>, Stop> {
    Ok(source::variables(run, snapshot, origin)?.map(|path| format!("-var-file={}", path.display())))
}

/// Asks for the lock, as a plan that looks at nothing real does first.
fn question(site: &Site, variables: Option<String>) -> Command {
    let asks = ["-input=false", "-no-color", "-refresh=false", "-lock-timeout=0s"];
    site.command("plan").args(asks).args(variables).stdout(Stdout::Capture(0))
}

fn answer(finished: &Finished, site: &Site) -> Result<Found, Stop> {
    match Problem::in_text(&finished.words()) {
        Some(problem) if problem.is_lock_conflict() => Ok(Found::Held(problem.lock)),
        // With any other error nobody can say whether it was asked for.
        _ => failure::of_text(finished, &format!("{} plan", site.engine.engine)).map(|()| Found::Free),
    }
}

fn named(holder: Option<&LockHolder>) -> String {
    holder.map_or_else(|| "somebody whom the backend does not name".to_owned(), ToString::to_string)
}

impl Kind for StateLock {
    fn name(&self) -> &'static str {
        if self.releases { "terraform.unlock" } else { "terraform.lock" }
    }

    fn labels(&self) -> Vec<String> {
        labels(self.name(), &self.toolbox)
    }

    fn available(&self) -> Result<(), String> {
        available(&self.toolbox)
    }

    fn run<'a>(&'a self, run: &'a mut Run) -> BoxFuture<'a, Result<Value, Stop>> {
        Box::pin(self.look(run))
    }
}
