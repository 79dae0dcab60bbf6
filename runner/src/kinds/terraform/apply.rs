//! `terraform.apply` and `terraform.destroy`: carry a plan out, exactly as it was made.

use crate::command::{Finished, Stdout};
use crate::engines::{Installed, Wanted};
use crate::kinds::kind::{Kind, read_notes};
use crate::kinds::terraform::bundle::{Bundle, Manifest};
use crate::kinds::terraform::ending::{self, Remains};
use crate::kinds::terraform::rescue::Rescued;
use crate::kinds::terraform::site::Site;
use crate::kinds::terraform::summary::Summary;
use crate::kinds::terraform::{
    ERRORED_STATE_ARTIFACT, PLAN_ARTIFACT, PLAN_FILE, available, labels, rescue, state_lock,
};
use crate::logs::MAX_EVENT_BYTES;
use crate::off_loop::off_loop;
use crate::prepare::snapshot::Snapshot;
use crate::run::Run;
use crate::stop::Stop;
use crate::supervise::Class;
use crate::toolbox::Toolbox;
use futures_util::future::BoxFuture;
use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The kind: it carries plans out, either those of a change or those of a destruction.
pub struct Apply {
    toolbox: Arc<Toolbox>,
    destroy: bool,
}

impl Apply {
    /// `terraform.apply`, with the tools of this machine.
    pub fn new(toolbox: &Arc<Toolbox>) -> Self {
        Self { toolbox: toolbox.clone(), destroy: false }
    }

    /// `terraform.destroy`, with the tools of this machine.
    pub fn destroying(toolbox: &Arc<Toolbox>) -> Self {
        Self { toolbox: toolbox.clone(), destroy: true }
    }

    async fn apply(&self, run: &mut Run) -> Result<Value, Stop> {
        let snapshot = Snapshot::read(&run.job.snapshot)?;
        let Some(plan_attempt) = run.job.plan_attempt else {
            return Err(Stop::refused("there is no plan to carry out; let the job need a terraform.plan"));
        };
        let packed = run.fetch(plan_attempt, PLAN_ARTIFACT).await?;
        let bundle = off_loop(move || Bundle::unpack(&packed).map_err(|e| Stop::refused(e.to_string()))).await?;
        let Bundle { manifest, plan, tree } = bundle;
        let engine = self.check(run, &snapshot, &manifest)?;
        run.narrow_egress(manifest.egress.as_deref())?;
        run.say(format!("{} {}, plan of attempt {plan_attempt}", engine.engine, engine.version));

        let mut site = Site::set_up(run, &self.toolbox, &snapshot, engine, tree).await?;
        run.work.write(PLAN_FILE, &plan)?;
        site.enter_workspace();
        if manifest.needs_init {
            site.init_again(run).await?;
        }
        self.carry_out(run, &site, &snapshot).await
    }

    async fn carry_out(&self, run: &mut Run, site: &Site, snapshot: &Snapshot) -> Result<Value, Stop> {
        let plan_file = run.work.file(PLAN_FILE).display().to_string();
        let args = ["-json", "-input=false", &site.lock_timeout(), &plan_file];
        let command = site.command("apply").args(args).class(Class::Mutating).stdout(Stdout::Events);
        let notes = Notes { engine: site.engine.engine.name().to_owned(), engine_version: site.engine.version.clone() };
        let finished = run.start_command(command.hand_over(json!(notes))).await?;
        // Once started: whatever happens is told, and state is not lost.
        let lock = match &finished {
            Ok(finished) if ending::was_killed(finished) => Some(state_lock::left_behind(run, site, snapshot).await),
            _ => None,
        };
        self.conclude_with(run, notes, (finished, lock)).await
    }

    async fn conclude_with(
        &self,
        run: &mut Run,
        notes: Notes,
        (finished, lock): (Result<Finished, Stop>, Option<String>),
    ) -> Result<Value, Stop> {
        let tree = run.work.tree();
        let remains = Remains { unsaved: rescue::errored_state(run, &tree).await, lock };

        let what = if self.destroy { "destroy" } else { "apply" };
        let progress = run.log().progress();
        let ended = finished.and_then(|finished| {
            let what = format!("{} {what}", notes.engine);
            ending::judge(&finished, &progress, &run.log().problems(), &what, &remains)
        });
        let mut result = Map::new();
        result.insert("engine".to_owned(), json!(notes.engine));
        result.insert("engine_version".to_owned(), json!(notes.engine_version));
        if remains.unsaved == Some(Rescued::Stored) {
            result.insert("artifacts".to_owned(), json!([ERRORED_STATE_ARTIFACT]));
        }
        match ended {
            Ok(ended) => {
                if ended == ending::Ended::AskedTooLate {
                    run.say(format!("the request to stop came when the {what} was complete"));
                }
                result.insert("summary".to_owned(), json!(progress.done.map(Summary::from)));
                // Of a plan outputs are announced too: a later event that was missed has their values.
                if run.is_inherited() && run.log().outputs().is_none() {
                    run.say(
                        "the outputs were told to the runner that was lost; they are in the state, and not kept here",
                    );
                } else if run.log().has_missed_an_event() {
                    run.say(format!(
                        "the outputs have more than {MAX_EVENT_BYTES} bytes; they are in the state, and not kept here"
                    ));
                } else {
                    result.insert("outputs".to_owned(), Value::Object(run.log().outputs().unwrap_or_default()));
                }
                Ok(Value::Object(result))
            }
            Err(Stop::Failed { reason, permanent, .. }) => {
                Err(Stop::Failed { reason, permanent, result: Value::Object(result) })
            }
            Err(stop) => {
                run.note(Value::Object(result));
                Err(stop)
            }
        }
    }

    /// The plan is one of this deployment, for this state and of this kind; returns the engine that made it.
    fn check(&self, run: &Run, snapshot: &Snapshot, manifest: &Manifest) -> Result<Installed, Stop> {
        let refuse =
            |what: &str| Err(Stop::refused(format!("the plan cannot be carried out: {what}; make a new plan")));
        if manifest.deployment_id != run.job.deployment_id {
            return refuse("it belongs to another deployment");
        }
        if manifest.destroy != self.destroy {
            return refuse(if manifest.destroy { "it plans a destruction" } else { "it plans no destruction" });
        }
        if manifest.state != snapshot.state_identity() {
            return refuse("it was made for another backend or workspace");
        }
        let engine = manifest.engine.parse().map_err(|e| Stop::refused(format!("the plan's engine: {e}")))?;
        let wanted = Wanted { engine: Some(engine), version: Some(manifest.engine_version.clone()) };
        let found = self.toolbox.engines.pick(&wanted, None).cloned();
        found.map_err(|e| Stop::refused(format!("the plan needs the engine that made it: {e}")))
    }
}

/// What is to be known at the engine's end.
#[derive(Deserialize, Serialize)]
struct Notes {
    engine: String,
    engine_version: Version,
}

impl Kind for Apply {
    fn name(&self) -> &'static str {
        if self.destroy { "terraform.destroy" } else { "terraform.apply" }
    }

    fn labels(&self) -> Vec<String> {
        labels(self.name(), &self.toolbox)
    }

    fn available(&self) -> Result<(), String> {
        available(&self.toolbox)
    }

    fn run<'a>(&'a self, run: &'a mut Run) -> BoxFuture<'a, Result<Value, Stop>> {
        Box::pin(self.apply(run))
    }

    fn conclude<'a>(
        &'a self,
        run: &'a mut Run,
        notes: Value,
        finished: Result<Finished, Stop>,
    ) -> BoxFuture<'a, Result<Value, Stop>> {
        Box::pin(async move {
            match read_notes(notes) {
                Ok(notes) => {
                    // The files for a look are those of the process before: others can look.
                    let lock = Some(state_lock::look_for_it(run));
                    self.conclude_with(run, notes, (finished, lock)).await
                }
                Err(stop) => {
                    let tree = run.work.tree();
                    rescue::errored_state(run, &tree).await;
                    Err(stop)
                }
            }
        })
    }
}
