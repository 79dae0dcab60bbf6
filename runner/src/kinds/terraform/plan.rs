//! `terraform.plan`: what an apply would do, kept so that exactly this is applied.

use crate::command::{Finished, Stdout};
use crate::kinds::kind::Kind;
use crate::kinds::terraform::bundle::{self, Bundle, Manifest};
use crate::kinds::terraform::failure;
use crate::kinds::terraform::kept::tree_after_plan;
use crate::kinds::terraform::site::Site;
use crate::kinds::terraform::summary::{self, Drift, Summary};
use crate::kinds::terraform::{PLAN_ARTIFACT, PLAN_FILE, PLAN_JSON_ARTIFACT, available, labels};
use crate::off_loop::off_loop;
use crate::prepare::snapshot::Snapshot;
use crate::prepare::source::{self, Files};
use crate::run::Run;
use crate::stop::Stop;
use crate::toolbox::Toolbox;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use tendril_templates::Tree;

const NAME: &str = "terraform.plan";
/// The plan's text beyond this is only in the log, in bytes.
const MAX_TEXT_BYTES: usize = 8 * 1024 * 1024;
/// Largest plan in JSON, in bytes.
const MAX_JSON_BYTES: usize = 64 * 1024 * 1024;
/// The kind.
pub struct Plan {
    toolbox: Arc<Toolbox>,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    destroy: bool,
    /// Whether somebody wants the plan in JSON: it takes another run of the engine.
    #[serde(default = "yes")]
    plan_json: bool,
}

fn yes() -> bool {
    true
}

/// What was planned, in figures; what is not known is none.
struct Figures {
    summary: Option<Summary>,
    drift: Option<Drift>,
    kept_json: bool,
}

impl Plan {
    /// With the tools of this machine.
    pub fn new(toolbox: &Arc<Toolbox>) -> Self {
        Self { toolbox: toolbox.clone() }
    }

    async fn plan(&self, run: &mut Run) -> Result<Value, Stop> {
        let spec = Spec::deserialize(&run.job.spec).map_err(|e| Stop::refused(format!("spec: cannot be read: {e}")))?;
        let snapshot = Snapshot::read(&run.job.snapshot)?;
        let Some(files) = source::files(run, &self.toolbox, &snapshot).await? else {
            return Err(Stop::refused("template: is missing"));
        };
        let Files { tree, origin, accepted, egress } = files;
        let engine = self.toolbox.engines.pick(&snapshot.engine, accepted.as_ref()).map_err(Stop::refused)?.clone();
        run.say(format!("{} {}", engine.engine, engine.version));
        let rendered = tree.digest();
        let mut site = Site::set_up(run, &self.toolbox, &snapshot, engine, tree.clone()).await?;
        site.init(run).await?;

        let plan_file = run.work.file(PLAN_FILE);
        let mut args = vec!["-no-color".to_owned(), "-input=false".to_owned(), site.lock_timeout()];
        args.push(format!("-out={}", plan_file.display()));
        args.extend(spec.destroy.then(|| "-destroy".to_owned()));
        args.extend(source::variables(run, &snapshot, &origin)?.map(|path| format!("-var-file={}", path.display())));
        let planned = run.command(site.command("plan").args(args).stdout(Stdout::Both(MAX_TEXT_BYTES))).await?;
        failure::of_text(&planned, &format!("{} plan", site.engine.engine))?;

        let figures = figures(run, &site, &planned, spec.plan_json).await?;
        let tree = tree_after_plan(run, tree, site.tree().to_owned()).await?;
        let manifest = Manifest {
            format: Manifest::FORMAT,
            engine: site.engine.engine.to_string(),
            engine_version: site.engine.version.clone(),
            deployment_id: run.job.deployment_id,
            destroy: spec.destroy,
            state: snapshot.state_identity(),
            tree_digest: tree.digest().to_string(),
            needs_init: site.has_installed(),
            egress,
        };
        let packed = off_loop(move || pack(manifest, plan_file, tree)).await?;
        run.keep(PLAN_ARTIFACT, bundle::MEDIA_TYPE, &packed).await?;
        let kept: &[&str] = if figures.kept_json { &[PLAN_ARTIFACT, PLAN_JSON_ARTIFACT] } else { &[PLAN_ARTIFACT] };
        Ok(json!({
            "engine": site.engine.engine.name(),
            "engine_version": site.engine.version,
            "destroy": spec.destroy,
            "summary": figures.summary,
            "drift": figures.drift,
            "source": origin,
            "tree_digest": rendered,
            "artifacts": kept,
        }))
    }
}

impl Kind for Plan {
    fn name(&self) -> &'static str {
        NAME
    }

    fn labels(&self) -> Vec<String> {
        labels(NAME, &self.toolbox)
    }

    fn available(&self) -> Result<(), String> {
        available(&self.toolbox)
    }

    fn run<'a>(&'a self, run: &'a mut Run) -> BoxFuture<'a, Result<Value, Stop>> {
        Box::pin(self.plan(run))
    }
}

async fn figures(run: &mut Run, site: &Site, planned: &Finished, wants_json: bool) -> Result<Figures, Stop> {
    let text = (!planned.cut).then(|| String::from_utf8_lossy(&planned.stdout));
    let mut figures = Figures { summary: text.and_then(|text| Summary::in_text(&text)), drift: None, kept_json: false };
    if !wants_json {
        return Ok(figures);
    }
    let plan_file = run.work.file(PLAN_FILE).display().to_string();
    let show = site.command("show").args(["-no-color", "-json", &plan_file]);
    let shown = run.command(show.stdout(Stdout::Capture(MAX_JSON_BYTES))).await?;
    failure::of_text(&shown, &format!("{} show", site.engine.engine))?;
    if shown.cut {
        run.say(format!("the plan in JSON has more than {MAX_JSON_BYTES} bytes and is not kept"));
        return Ok(figures);
    }
    if let Some((summary, drift)) = summary::of_json(&shown.stdout) {
        figures.summary = Some(summary);
        figures.drift = drift;
    }
    run.keep(PLAN_JSON_ARTIFACT, "application/json", &shown.stdout).await?;
    figures.kept_json = true;
    Ok(figures)
}

fn pack(manifest: Manifest, plan_file: PathBuf, tree: Tree) -> Result<Vec<u8>, Stop> {
    let size = std::fs::metadata(&plan_file).map_or(0, |metadata| metadata.len());
    if size > bundle::MAX_PLAN_BYTES as u64 {
        return Err(Stop::refused(format!("the plan file has {size} bytes, more than {}", bundle::MAX_PLAN_BYTES)));
    }
    let plan = std::fs::read(&plan_file).map_err(|e| Stop::failed(format!("the engine left no plan file: {e}")))?;
    Bundle { manifest, plan, tree }.pack().map_err(|e| Stop::refused(e.to_string()))
}
