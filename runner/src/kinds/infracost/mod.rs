//! `infracost.breakdown`: what a plan, or the files themselves, will cost per month.

mod estimate;

pub use estimate::{Estimate, EstimateError, MAX_UNKNOWN, Unknown};

use crate::command::{Command, Stdout};
use crate::config::read;
use crate::kinds::kind::Kind;
use crate::kinds::terraform::{PLAN_JSON_ARTIFACT, failure};
use crate::prepare::environment;
use crate::prepare::snapshot::Snapshot;
use crate::prepare::source;
use crate::run::Run;
use crate::sandbox::{Access, Profile, port_of};
use crate::stop::Stop;
use crate::toolbox::Toolbox;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

const NAME: &str = "infracost.breakdown";
const COST_ARTIFACT: &str = "cost";
const API_KEY: &str = "INFRACOST_API_KEY";
/// Largest breakdown, in bytes.
const MAX_BREAKDOWN_BYTES: usize = 32 * 1024 * 1024;

/// The kind.
pub struct Infracost {
    toolbox: Arc<Toolbox>,
}

impl Infracost {
    /// With the tools of this machine.
    pub fn new(toolbox: &Arc<Toolbox>) -> Self {
        Self { toolbox: toolbox.clone() }
    }

    async fn breakdown(&self, run: &mut Run) -> Result<Value, Stop> {
        let Some(program) = &self.toolbox.infracost else { return Err(Stop::refused("infracost is not installed")) };
        let env = self.env(run)?;
        let (subject, args) = match self.plan(run).await? {
            Some(path) => ("plan", vec!["--path".to_owned(), path.display().to_string()]),
            None => ("files", self.files(run).await?),
        };
        // In a folder of its own: it reads settings from where it runs.
        let cwd = run.work.file("cost");
        std::fs::create_dir(&cwd).map_err(|e| Stop::disk("make", &cwd, &e))?;
        let command = Command::new("infracost", program, cwd)
            .args(["breakdown", "--format", "json", "--no-color"])
            .args(args)
            .env(env)
            .access(self.access(run))
            .stdout(Stdout::Capture(MAX_BREAKDOWN_BYTES));
        let finished = run.command(command).await?;
        failure::of_text(&finished, "infracost breakdown")?;
        if finished.cut {
            return Err(Stop::refused(format!("infracost wrote more than {MAX_BREAKDOWN_BYTES} bytes")));
        }
        run.keep(COST_ARTIFACT, "application/json", &finished.stdout).await?;
        let estimate = Estimate::read(&finished.stdout, &finished.stderr).map_err(|e| unknown(&e, subject))?;
        tell(run, &estimate);
        let mut result = json!(estimate);
        result["subject"] = json!(subject);
        result["artifacts"] = json!([COST_ARTIFACT]);
        Ok(result)
    }

    /// The plan in JSON, if there is one; it says more than the files, and is read without anybody's modules.
    async fn plan(&self, run: &Run) -> Result<Option<PathBuf>, Stop> {
        let Some(attempt) = run.job.plan_attempt else { return Ok(None) };
        let Some(plan) = run.fetch_if_kept(attempt, PLAN_JSON_ARTIFACT).await? else { return Ok(None) };
        run.work.write("plan.json", &plan).map(Some)
    }

    async fn files(&self, run: &mut Run) -> Result<Vec<String>, Stop> {
        let snapshot = Snapshot::read(&run.job.snapshot)?;
        let Some(files) = source::files(run, &self.toolbox, &snapshot).await? else {
            return Err(Stop::refused("template: is missing"));
        };
        let tree = run.work.tree();
        source::write(files.tree, &tree).await?;
        let mut args = vec!["--path".to_owned(), tree.display().to_string()];
        if let Some(workspace) = &snapshot.workspace {
            args.extend(["--terraform-workspace".to_owned(), workspace.clone()]);
        }
        if let Some(path) = source::variables(run, &snapshot, &files.origin)? {
            args.extend(["--terraform-var-file".to_owned(), path.display().to_string()]);
        }
        Ok(args)
    }

    fn access(&self, run: &Run) -> Access {
        let read = ["plan.json", source::VARIABLES_FILE].map(|name| run.work.file(name)).to_vec();
        let read = [read, vec![run.work.tree()]].concat();
        let port = run.config().infracost.pricing_endpoint.as_deref().and_then(port_of);
        Access { read, connect: port.into_iter().collect(), ..Access::of(Profile::Tool) }
    }

    fn env(&self, run: &Run) -> Result<BTreeMap<String, String>, Stop> {
        let settings = &run.config().infracost;
        let mut env = environment::of_attempt(&self.toolbox.env, &run.work);
        let key = settings.api_key_file.as_deref().map(|path| read("infracost.api_key_file", path)).transpose();
        let key = key.map_err(|e| Stop::refused(e.to_string()))?;
        let given = [
            (API_KEY, key.map(|key| key.trim().to_owned())),
            ("INFRACOST_PRICING_API_ENDPOINT", settings.pricing_endpoint.clone()),
            ("INFRACOST_CURRENCY", settings.currency.clone()),
        ];
        let fixed = [
            ("INFRACOST_SKIP_UPDATE_CHECK", "true"),
            ("INFRACOST_NO_COLOR", "true"),
            // What it says of prices that it could not read is read here.
            ("INFRACOST_LOG_LEVEL", "info"),
            // It takes prices from a file in the tree, or in any folder above it, even while the server is down.
            ("INFRACOST_PRICING_CACHE_DISABLED", "true"),
            // Nothing of the plan is sent anywhere but for prices.
            ("INFRACOST_ENABLE_CLOUD", "false"),
            ("INFRACOST_ENABLE_CLOUD_UPLOAD", "false"),
            // It asks terraform for its version, and terraform asks the world whether there is a newer one.
            ("CHECKPOINT_DISABLE", "true"),
            // A file `.env` among the job's files would send the key elsewhere.
            ("INFRACOST_DISABLE_ENVFILE", "true"),
        ];
        let given = given.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let fixed = fixed.map(|(name, value)| (name, value.to_owned()));
        env.extend(given.chain(fixed).map(|(name, value)| (name.to_owned(), value)));
        // A server of one's own asks for no key, but Infracost does not start without.
        env.entry(API_KEY.to_owned()).or_insert_with(|| "none".to_owned());
        Ok(env)
    }
}

impl Kind for Infracost {
    fn name(&self) -> &'static str {
        NAME
    }

    fn available(&self) -> Result<(), String> {
        match (&self.toolbox.infracost, self.toolbox.has_prices) {
            (None, _) => Err("infracost is not on PATH; install it, or set infracost.path".to_owned()),
            (_, false) => Err("it has no prices; set infracost.api_key_file or infracost.pricing_endpoint".to_owned()),
            (Some(_), true) => Ok(()),
        }
    }

    fn run<'a>(&'a self, run: &'a mut Run) -> BoxFuture<'a, Result<Value, Stop>> {
        Box::pin(self.breakdown(run))
    }
}

/// A failure, with a result that says the same to machines: the cost is not known.
fn unknown(error: &EstimateError, subject: &str) -> Stop {
    let mut result = Map::new();
    result.insert("total_monthly_cost".to_owned(), Value::Null);
    result.insert("unknown".to_owned(), json!([Unknown { what: subject.to_owned(), reason: error.to_string() }]));
    result.insert("unknown_count".to_owned(), json!(1));
    result.insert("artifacts".to_owned(), json!([COST_ARTIFACT]));
    Stop::Failed { reason: error.to_string(), permanent: false, result: Value::Object(result) }
}

fn tell(run: &Run, estimate: &Estimate) {
    let currency = &estimate.currency;
    match (&estimate.total_monthly_cost, &estimate.known_monthly_cost) {
        (Some(total), _) => run.say(format!("monthly cost: {total} {currency}")),
        (None, Some(known)) => run.say(format!("monthly cost: unknown, at least {known} {currency}")),
        (None, None) => run.say("monthly cost: unknown"),
    }
    if let Some(diff) = &estimate.diff {
        run.say(format!("difference to now: {diff} {currency}"));
    }
    for unknown in &estimate.unknown {
        run.say(format!("unknown: {}: {}", unknown.what, unknown.reason));
    }
    if estimate.unknown_count > estimate.unknown.len() {
        run.say(format!("unknown: {} more", estimate.unknown_count - estimate.unknown.len()));
    }
}
