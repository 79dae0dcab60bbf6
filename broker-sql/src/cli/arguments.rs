//! The command line as types. `tendril-broker help COMMAND` is made from these comments.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use uuid::Uuid;

use crate::archive::{ArchiveOptions, Location};
use crate::cli::lost_work::{DeclareLost, Key, State};
use crate::cli::queue::{DeadLetters, Limit, Pause, Runner, Snooze};
use crate::cli::schedule::Schedule;
use crate::cli::set_back::AfterRestore;
use crate::cli::token::Token;

const EXIT_CODES: &str = "Exit codes:
  0    done; watch: the deployment ended as SUCCESS
  1    refused by the database, or a check found something; watch: the deployment ended as FAILED
  2    wrong usage: an unknown option, a file that is no JSON, no database URL
  3    watch: the deployment was CANCELLED
  4    the database cannot be reached: no server, no TLS, wrong password, no such database
  5    schema and program do not fit together: run `migrate`, or use the other's version
  130  interrupted; a deployment that was watched goes on";

/// The operator's and the portal builder's tool at SQL level.
#[derive(Debug, Parser)]
#[command(name = "tendril-broker", version, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Arguments {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Where the database is: postgres://USER@HOST:5432/DATABASE?sslmode=verify-full. Without it TENDRIL_DATABASE_URL
    /// and then DATABASE_URL count; a password may also come from PGPASSWORD or the password file.
    #[arg(long, global = true, value_name = "URL", env = "TENDRIL_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Print JSON: one object, or one object per line where a command streams.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Put the schema into the database, or bring it up to date.
    Migrate(Migrate),
    /// Do the broker's duties until SIGTERM: the pulse, expiry, deadlines, partitions, counters. Any number may run.
    Serve(Serve),
    /// Register clusters, and issue and withdraw their credentials.
    #[command(subcommand)]
    Cluster(Cluster),
    /// List runners, and pause or drain one.
    #[command(subcommand)]
    Runner(Runner),
    /// Say which roles may see and submit what.
    #[command(subcommand)]
    Portal(Portal),
    /// Make, list and revoke tokens of the HTTP API.
    #[command(subcommand)]
    Token(Token),
    /// Queue a deployment.
    Submit(Box<Submit>),
    /// Follow a deployment live until its end; its status is the exit code. Ctrl-C leaves the deployment running.
    Watch(Watch),
    /// Print the log of a deployment.
    Logs(Logs),
    /// Show a deployment with its jobs.
    Status(One),
    /// List deployments, the newest first.
    List(List),
    /// Cancel a deployment: at once what waits; what runs is asked to stop.
    Cancel(Cancel),
    /// Let the jobs go on that wait for approval.
    Approve(Approve),
    /// End the jobs that wait for approval, and skip what waits behind them.
    Reject(Approve),
    /// Submit the same snapshot of a failed or cancelled deployment again, as a new deployment.
    Retry(Retry),
    /// Let the waiting jobs of a deployment run only after a moment, or wake them.
    Snooze(Snooze),
    /// Show jobs that only read and have used up their attempts, and do them again.
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// Deployments by the clock, and detection of drift.
    #[command(subcommand)]
    Schedule(Schedule),
    /// End a started job whose runner is silent, as FAILED. Refused while the runner is heard; its state key stays held.
    DeclareLost(DeclareLost),
    /// After a restore of the database that nothing shows by itself: leave all changes that wait to people's approval.
    AfterRestore(AfterRestore),
    /// Show and free held state keys.
    #[command(subcommand)]
    Key(Key),
    /// Show who holds the engine's lock of a deployment's state, and release it.
    #[command(subcommand)]
    State(State),
    /// Check templates, and register their versions so that submits are checked against their inputs.
    #[command(subcommand)]
    Template(Template),
    /// Look at server, roles, privileges, schema, settings, clock and pulse; say what to mend.
    Doctor(ArchiveFlags),
    /// Remove all of Tendril from the database: schemas, data, credentials, roles.
    Uninstall(Uninstall),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub struct Migrate {
    /// Print the whole schema as SQL instead, for people who keep their own migrations. Needs no database.
    #[arg(long, conflicts_with = "check")]
    pub print: bool,
    /// Change nothing; exit with 1 when migrations are missing.
    #[arg(long)]
    pub check: bool,
}

#[derive(Debug, Args)]
pub struct Serve {
    /// Serve /metrics, /healthz and /readyz at this address, as in 0.0.0.0:9100.
    #[arg(long, value_name = "ADDRESS", env = "TENDRIL_BROKER_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Milliseconds between two beats of the pulse; a gap of 2 s renews all leases.
    #[arg(long, value_name = "MS", default_value = "1000", value_parser = parse_interval)]
    pub interval_ms: Duration,
    /// Log JSON lines.
    #[arg(long)]
    pub log_json: bool,
    #[command(flatten)]
    pub archive: ArchiveFlags,
}

/// Where closed logs go, and old ones are read from. Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or
/// as with other AWS programs from a profile, a web identity, a container or an instance.
#[derive(Debug, Args)]
pub struct ArchiveFlags {
    /// The archive of logs: a bucket and a prefix.
    #[arg(long, value_name = "s3://BUCKET/PREFIX", env = "TENDRIL_ARCHIVE_URL")]
    pub archive: Option<Location>,
    /// Any S3-compatible service, as in `https://minio.example:9000`.
    #[arg(long, value_name = "URL", env = "TENDRIL_ARCHIVE_ENDPOINT")]
    pub archive_endpoint: Option<String>,
    /// The bucket's region, unless AWS_REGION says it.
    #[arg(long, value_name = "REGION", env = "TENDRIL_ARCHIVE_REGION")]
    pub archive_region: Option<String>,
}

impl ArchiveFlags {
    /// `None` when no archive is named.
    pub fn options(&self) -> Option<ArchiveOptions> {
        let (endpoint, region) = (self.archive_endpoint.clone(), self.archive_region.clone());
        self.archive.clone().map(|location| ArchiveOptions { location, endpoint, region })
    }
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(ms @ 50..=1500) => Ok(Duration::from_millis(ms)),
        _ => Err("it must lie between 50 and 1500 milliseconds".into()),
    }
}

#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// Register a cluster and print its runner's token, this once.
    Create {
        /// Letters, digits, space, dot, dash, underscore; at most 63 characters.
        name: String,
        /// The portal's user that owns it.
        #[arg(long)]
        user_id: Option<String>,
    },
    /// List clusters with their credentials.
    List,
    /// Issue a new credential and print its token; the old one finishes what it holds.
    Rotate {
        /// Name or id.
        cluster: String,
        /// How long the old credential may finish, as in '30 min'.
        #[arg(long, value_name = "INTERVAL")]
        drain: Option<String>,
    },
    /// Withdraw a cluster's credentials for good: nothing more is claimed, what runs may finish.
    Revoke {
        /// Name or id.
        cluster: String,
        /// End its sessions at once; results of what runs stay on the runner's disk.
        #[arg(long)]
        now: bool,
    },
    /// Claim nothing more for a while; what is held goes on, and submits wait.
    Pause(Pause),
    /// Claim nothing more and take no submits; what is held goes on to its end.
    Drain(Pause),
    /// Take a pause or a drain back.
    Resume {
        /// Name or id.
        cluster: String,
    },
    /// Show or set how many jobs may run at once, in all or of one kind.
    Limit(Limit),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ScopeName {
    /// Every cluster: for a trusted service.
    All,
    /// What belongs to tendril.portal_user(): for roles that cannot run SQL of their own, as behind Supabase.
    Own,
    /// What a presented API token may: for the role of tendril-api, and nothing beside it.
    Tokens,
    /// One cluster; may be granted several times.
    Cluster,
}

#[derive(Debug, Subcommand)]
pub enum Portal {
    /// Let a role see and submit.
    Grant {
        /// An existing role of the server.
        role: String,
        /// How far it sees.
        #[arg(long)]
        scope: ScopeName,
        /// Name or id, with --scope cluster.
        #[arg(long, required_if_eq("scope", "cluster"))]
        cluster: Option<String>,
    },
    /// Take all grants of a role back.
    Revoke {
        /// The role.
        role: String,
    },
    /// List grants.
    List,
}

#[derive(Debug, Args)]
pub struct Submit {
    /// Where it runs: name or id.
    #[arg(long)]
    pub cluster: String,
    #[command(flatten)]
    pub source: Source,
    #[command(flatten)]
    pub template: TemplateFlags,
    /// The deployment's id (UUIDv7), made here when it is left out. The same id twice queues once.
    #[arg(long)]
    pub id: Option<Uuid>,
    /// Print the plain INSERT that is sent, and send nothing.
    #[arg(long)]
    pub print_sql: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Source {
    /// A file with the whole config_snapshot as JSON; - is standard input.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A template that the runners carry or that is registered.
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,
}

#[derive(Debug, Args)]
#[group(id = "flags", conflicts_with = "file")]
pub struct TemplateFlags {
    /// The template's version (SemVer).
    #[arg(long, value_name = "VERSION")]
    pub template_version: Option<String>,
    /// What to do; apply when it is left out.
    #[arg(long, value_parser = ["plan", "apply", "destroy"])]
    pub action: Option<String>,
    /// An input of the template: NAME=TEXT, or NAME:=JSON. May be given several times.
    #[arg(long = "input", value_name = "NAME=VALUE", value_parser = parse_input)]
    pub inputs: Vec<(String, serde_json::Value)>,
    /// A file with the template's inputs as a JSON object; --input counts more.
    #[arg(long, value_name = "FILE")]
    pub inputs_file: Option<PathBuf>,
    /// terraform or tofu.
    #[arg(long)]
    pub engine: Option<String>,
    /// Its version.
    #[arg(long, requires = "engine")]
    pub engine_version: Option<String>,
    /// Where the state lies, as in '{"type": "s3", "config": {"bucket": "b", "key": "k"}}'.
    #[arg(long, value_name = "JSON", value_parser = parse_object, conflicts_with = "stateless")]
    pub backend: Option<serde_json::Value>,
    /// The state's identity where it cannot be derived from the backend.
    #[arg(long)]
    pub state_key: Option<String>,
    /// The Terraform workspace.
    #[arg(long)]
    pub workspace: Option<String>,
    /// Throw the state away with the work folder.
    #[arg(long)]
    pub stateless: bool,
    /// A label that the runner must have. May be given several times.
    #[arg(long = "label")]
    pub labels: Vec<String>,
    /// Seconds that each job may run.
    #[arg(long, value_name = "S")]
    pub timeout_s: Option<u64>,
    /// Attempts of jobs that only read.
    #[arg(long, value_name = "N")]
    pub max_attempts: Option<u64>,
    /// Wait for `approve` before the apply or destroy.
    #[arg(long)]
    pub approval: bool,
    /// Place in the queue, 0 to 100: smaller is claimed earlier.
    #[arg(long, value_name = "N")]
    pub priority: Option<u64>,
    /// Not before this moment, as in 2026-01-31T06:00:00Z.
    #[arg(long, value_name = "MOMENT")]
    pub run_after: Option<String>,
    /// Whether to estimate the cost.
    #[arg(long, value_parser = ["auto", "on", "off"])]
    pub cost: Option<String>,
}

fn parse_input(text: &str) -> Result<(String, serde_json::Value), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| "it has the form NAME=TEXT or NAME:=JSON".to_owned())?;
    match name.strip_suffix(':') {
        Some(name) => {
            let value = serde_json::from_str(value);
            let value = value.map_err(|error| format!("the value of {name} is not JSON: {error}"));
            Ok((name.to_owned(), value?))
        }
        None => Ok((name.to_owned(), value.into())),
    }
}

fn parse_object(text: &str) -> Result<serde_json::Value, String> {
    match serde_json::from_str(text) {
        Ok(object @ serde_json::Value::Object(_)) => Ok(object),
        Ok(_) => Err("it is not a JSON object".into()),
        Err(error) => Err(format!("it is not JSON: {error}")),
    }
}

#[derive(Debug, Args)]
pub struct One {
    /// The deployment's id.
    pub id: Uuid,
}

#[derive(Debug, Args)]
pub struct Watch {
    /// The deployment's id.
    pub id: Uuid,
    #[command(flatten)]
    pub archive: ArchiveFlags,
}

#[derive(Debug, Args)]
pub struct Logs {
    /// The deployment's id.
    pub id: Uuid,
    /// Go on until the deployment has ended.
    #[arg(long, short)]
    pub follow: bool,
    #[command(flatten)]
    pub archive: ArchiveFlags,
}

#[derive(Debug, Args)]
pub struct List {
    /// Only those of one cluster: name or id.
    #[arg(long)]
    pub cluster: Option<String>,
    /// Only those with this status.
    #[arg(long, ignore_case = true, value_parser = ["QUEUED", "PROCESSING", "AWAITING_APPROVAL", "SUCCESS", "FAILED", "CANCELLED"])]
    pub status: Option<String>,
    /// At most so many.
    #[arg(long, default_value = "50", value_parser = clap::value_parser!(i64).range(1..=10_000))]
    pub limit: i64,
}

#[derive(Debug, Args)]
pub struct Cancel {
    /// The deployment's id.
    pub id: Uuid,
    /// Why; shown with the deployment.
    #[arg(long)]
    pub reason: Option<String>,
}

#[derive(Debug, Args)]
pub struct Approve {
    /// The deployment's id.
    pub id: Uuid,
    /// Only this job.
    #[arg(long)]
    pub job: Option<String>,
    /// Why; kept with the decision.
    #[arg(long)]
    pub reason: Option<String>,
}

#[derive(Debug, Args)]
pub struct Retry {
    /// The deployment's id.
    pub id: Uuid,
    /// The new deployment's id (UUIDv7), made here when it is left out. The same id twice queues once.
    #[arg(long, value_name = "ID")]
    pub new_id: Option<Uuid>,
}

#[derive(Debug, Subcommand)]
pub enum Template {
    /// Check a template's folder; exit with 1 when something is wrong.
    Lint {
        /// The folder with template.yaml.
        dir: PathBuf,
    },
    /// Register a template's version; a registered version never changes.
    Register {
        /// The folder with template.yaml.
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct Uninstall {
    /// Really do it.
    #[arg(long)]
    pub yes: bool,
    /// Also drop objects of yours that depend on Tendril's tables (views, foreign keys).
    #[arg(long)]
    pub cascade: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_free_of_contradictions() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_input_is_text_unless_it_says_json() {
        // Tried: text with a second =, JSON, broken JSON, no = at all.
        assert_eq!(parse_input("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_input("n:=3"), Ok(("n".into(), 3.into())));
        assert!(parse_input("n:={").is_err_and(|error| error.contains("value of n")));
        assert!(parse_input("n").is_err_and(|error| error.contains("NAME=TEXT")));
    }
}
