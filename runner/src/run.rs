//! A running attempt, as its kind sees it: say, start, run commands, keep and fetch artifacts.

use crate::attempt_log::AttemptLog;
use crate::attend::{attend, show_progress, tell_refusals};
use crate::clock::BootTime;
use crate::command::{Command, Finished, Stdout};
use crate::config::Config;
use crate::desk::Desk;
use crate::egress::{Rule, confined_egress};
use crate::handover::{Draft, Handover};
use crate::holdings::Held;
use crate::logs::Dialect;
use crate::metrics::Metrics;
use crate::output::Output;
use crate::prepare::secrets::Keyring;
use crate::ready::{Making, Ready};
use crate::sandbox::{Confinement, Folders, Kernel, Layer, Profile, plan};
use crate::seal::ArtifactKey;
use crate::secrets::Handed;
use crate::start::{LONGEST_WAIT, Start, Waits, asked_to_stop, waits};
use crate::stop::Stop;
use crate::supervise::{
    Class, DEFAULT_ORPHAN_LIMIT_BYTES, DEFAULT_UMASK, Exit, ExitRecord, Prepared, Step, StopReason, SuperviseError,
    Supervisors,
};
use crate::work::Work;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tendril_broker::runner::{BrokerError, Claimed};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// What a look at the remains of a killed command may take.
const LAST_LOOK: Duration = Duration::from_secs(20);
/// The broker's code for what is not there.
const NOT_FOUND: &str = "TD002";
/// How long an artifact of a job that has changed the world is offered to a broker that is away.
pub const KEEP_AFTER_START: Duration = Duration::from_secs(120);

/// What all runs of a process share.
#[derive(Clone)]
pub struct Means {
    /// The runner's settings.
    pub config: Arc<Config>,
    /// The cluster that the runner belongs to.
    pub cluster: Uuid,
    /// The broker's calls for running attempts.
    pub desk: Arc<dyn Desk>,
    /// What artifacts are sealed with.
    pub key: ArtifactKey,
    /// Where commands get their supervisors.
    pub supervisors: Arc<Supervisors>,
    /// What is kept out of logs, and where the secrets of jobs come from.
    pub keyring: Arc<Keyring>,
    /// The runner's figures.
    pub metrics: Arc<Metrics>,
}

/// A running attempt.
pub struct Run {
    /// The job.
    pub job: Claimed,
    /// The attempt's folder.
    pub work: Work,
    means: Means,
    log: Arc<AttemptLog>,
    held: Arc<Held>,
    begun: BootTime,
    deadline: BootTime,
    starting: Option<AbortOnDropHandle<Result<(), Stop>>>,
    started: bool,
    inherited: bool,
    records: Vec<ExitRecord>,
    children_dead: bool,
    keeps_folder: bool,
    known: Value,
    template_egress: Option<Vec<Rule>>,
    handed: Handed,
}

impl Run {
    /// A run at its beginning: the job's timeout counts from now.
    pub fn new(means: Means, job: Claimed, work: Work, log: Arc<AttemptLog>, held: impl Into<Arc<Held>>) -> Self {
        let begun = BootTime::now();
        let deadline = begun.after(job.timeout);
        Self {
            job,
            work,
            means,
            log,
            held: held.into(),
            begun,
            deadline,
            starting: None,
            started: false,
            inherited: false,
            records: Vec::new(),
            children_dead: true,
            keeps_folder: false,
            known: Value::Null,
            template_egress: None,
            handed: Handed::default(),
        }
    }

    /// A run whose last command was begun by an earlier process: it has started, and may not be begun anew.
    pub fn inherited(means: Means, job: Claimed, work: Work, log: Arc<AttemptLog>, held: Held) -> Self {
        Self { started: true, inherited: true, ..Self::new(means, job, work, log, held) }
    }

    /// The runner's settings.
    pub fn config(&self) -> &Config {
        &self.means.config
    }

    /// The cluster's id.
    pub fn cluster(&self) -> Uuid {
        self.means.cluster
    }

    /// Adds a line of Tendril's own to the job's log.
    pub fn say(&self, line: impl AsRef<str>) {
        self.log.say(line.as_ref());
    }

    /// The attempt's log.
    pub fn log(&self) -> &AttemptLog {
        &self.log
    }

    /// Records of the commands so far.
    pub fn records(&self) -> &[ExitRecord] {
        &self.records
    }

    /// Notes how a command ended.
    pub fn record(&mut self, record: ExitRecord) {
        Handed::take_back(&self.work);
        if let Some(traffic) = &record.egress {
            self.means.metrics.egress(traffic);
        }
        self.records.push(record);
    }

    /// Why the attempt should stop, if it should.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.held.stop_reason()
    }

    /// Whether its start is committed, or may be: it was asked for.
    pub fn has_started(&self) -> bool {
        self.started || self.starting.is_some()
    }

    /// Whether an earlier process has begun its last command, and has read some of what that printed.
    pub fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// Whether the next process of the place can go on with what is done now.
    pub fn hand_over(&self, can: bool) {
        self.held.hand_over(can);
    }

    /// Nobody can say whether all that was started is dead.
    pub fn doubt_children(&mut self) {
        self.children_dead = false;
    }

    /// Whether every process that was started is confirmed dead.
    pub fn children_dead(&self) -> bool {
        self.children_dead
    }

    /// Whether the attempt's folder is to stay: something in it is nowhere else, or may still be written to.
    pub fn keeps_folder(&self) -> bool {
        self.keeps_folder || self.started && !self.children_dead
    }

    /// The attempt's folder stays: something in it is nowhere else.
    pub fn keep_folder(&mut self) {
        self.keeps_folder = true;
    }

    /// What is known of a job that does not end well, beside why.
    pub fn known(&self) -> &Value {
        &self.known
    }

    /// Notes what is known, for a job that was stopped.
    pub fn note(&mut self, known: Value) {
        self.known = known;
    }

    /// Stops the job here if somebody asked for it, before the next thing is begun.
    ///
    /// # Errors
    /// The [`Stop`] that was asked for.
    pub fn check(&self) -> Result<(), Stop> {
        let Some(reason) = asked_to_stop(&self.held, self.deadline) else { return Ok(()) };
        match Stop::requested(reason, false) {
            // What has started cannot be handed back, even if nothing was done yet.
            Stop::Released(why) if self.started => Err(Stop::failed(format!("stopped after its start: {why}"))),
            stop => Err(stop),
        }
    }

    /// Takes on the start that was asked for when the job began.
    pub fn expect_start(&mut self, start: Option<AbortOnDropHandle<Result<(), Stop>>>) {
        self.starting = start;
    }

    /// Commits the start, just before the first command that changes the world. Only after `Ok` may it be run.
    ///
    /// # Errors
    /// Why it may not start.
    pub async fn start(&mut self) -> Result<(), Stop> {
        if let Some(asked) = self.starting.take() {
            asked.await.map_err(|e| Stop::failed(format!("asking for the start failed: {e}")))??;
            if self.held.lease_is_live() {
                self.started = true;
                return Ok(());
            }
        }
        let (desk, held) = (self.means.desk.clone(), self.held.clone());
        Start { desk, held, lease: self.job.lease, deadline: self.deadline }.ask().await?;
        self.started = true;
        Ok(())
    }

    /// Waits before the broker is asked again; a request to stop ends the wait, and the job.
    async fn pause(&self, waits: &mut Waits) -> Result<(), Stop> {
        self.check()?;
        tokio::select! {
            () = tokio::time::sleep(waits.next().unwrap_or(LONGEST_WAIT)) => Ok(()),
            _ = self.held.stopped() => self.check(),
        }
    }

    /// Seals and stores an artifact. While the broker is away it is tried until the job's deadline; after the start, for
    /// [`KEEP_AFTER_START`] at least.
    ///
    /// # Errors
    /// A failed job; the broker's refusal names the limit.
    pub async fn keep(&self, name: &str, media_type: &str, content: &[u8]) -> Result<(), Stop> {
        let sealed =
            self.means.key.seal(self.job.lease.attempt_id, name, content).map_err(|e| Stop::failed(e.to_string()))?;
        let begun = BootTime::now();
        let mut waits = waits();
        loop {
            let error = match self.means.desk.put(&self.job.lease, name, media_type, &sealed).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let reason = || format!("artifact {name} could not be stored: {error}");
            if !error.is_passing() {
                return Err(Stop::refused(reason()));
            }
            if self.started && begun.elapsed() >= KEEP_AFTER_START {
                return Err(Stop::failed(reason()));
            }
            match self.started {
                // What the world has become is offered also by a job that is to stop.
                true => tokio::time::sleep(waits.next().unwrap_or(LONGEST_WAIT)).await,
                false => self.pause(&mut waits).await?,
            }
        }
    }

    /// Fetches and opens an artifact of an earlier attempt.
    ///
    /// # Errors
    /// A failed job; says so when it was sealed with another key, or is not there.
    pub async fn fetch(&self, attempt: Uuid, name: &str) -> Result<Vec<u8>, Stop> {
        let missing = || Stop::refused(format!("attempt {attempt} has kept no artifact {name}"));
        self.fetch_if_kept(attempt, name).await?.ok_or_else(missing)
    }

    /// Fetches and opens an artifact of an earlier attempt, if there is one of that name.
    ///
    /// # Errors
    /// As [`Run::fetch`].
    pub async fn fetch_if_kept(&self, attempt: Uuid, name: &str) -> Result<Option<Vec<u8>>, Stop> {
        let mut waits = waits();
        loop {
            self.check()?;
            match self.means.desk.get(attempt, name).await {
                Ok(stored) => {
                    let opened = self.means.key.open(attempt, name, &stored.data);
                    return opened.map(Some).map_err(|e| Stop::refused(e.to_string()));
                }
                Err(BrokerError::Refused { code, .. }) if code == NOT_FOUND => return Ok(None),
                Err(error) if error.is_passing() => self.pause(&mut waits).await?,
                Err(error) => return Err(Stop::refused(format!("artifact {name} could not be fetched: {error}"))),
            }
        }
    }

    /// Runs a command under its supervisor to its end, and until nothing of it is left.
    ///
    /// A request to stop and the job's timeout reach the command as one SIGINT, later SIGKILL; the finish then says so.
    ///
    /// # Errors
    /// The job was asked to stop before the command began, or its supervisor could not be started or was lost.
    pub async fn command(&mut self, command: Command) -> Result<Finished, Stop> {
        self.check()?;
        let command = self.with_secrets(command).await?;
        let ready = self.making(&command)?.make().await;
        self.run_ready(command, ready).await
    }

    /// Commits the start and runs the command that it is for, which is made ready meanwhile, up to its exec.
    ///
    /// # Errors
    /// As [`Run::start`]: nothing has run. Within: as [`Run::command`].
    pub async fn start_command(&mut self, command: Command) -> Result<Result<Finished, Stop>, Stop> {
        let command = self.with_secrets(command).await?;
        let making = self.making(&command)?;
        let make = async {
            // Behind the request for the start, which has further to go.
            tokio::task::yield_now().await;
            making.make().await
        };
        let (started, ready) = tokio::join!(self.start(), make);
        if let Err(stop) = started.and_then(|()| self.check()) {
            ready.call_off().await;
            return Err(stop);
        }
        Ok(self.run_ready(command, ready).await)
    }

    fn making(&self, command: &Command) -> Result<Making, Stop> {
        let handover = command.handover.clone().map(|notes| {
            let (number, stdout) = (self.records.len(), command.stdout);
            Handover { job: self.job.clone(), number, command: command.name.to_owned(), stdout, notes }
        });
        let (supervisors, work) = (self.means.supervisors.clone(), self.work.clone());
        let step = self.step(command)?;
        self.say_sandbox(&step);
        Ok(Making { supervisors, step, handover, work })
    }

    async fn run_ready(&mut self, command: Command, ready: Ready) -> Result<Finished, Stop> {
        let class = command.class;
        let prepared = ready.prepared.map_err(|e| self.without_record(class, &e))?;
        // Before the word: whoever comes after this process knows of all that may have changed the world.
        match ready.handover.and_then(|draft| draft.map(Draft::put_in_force).transpose()) {
            Ok(Some(())) => self.held.hand_over(true),
            Ok(None) => {}
            Err(stop) => {
                prepared.call_off().await;
                return Err(stop);
            }
        }
        let finished = self.attended(prepared, &command, true).await?;
        self.held.hand_over(false);
        self.record(finished.record.clone());
        Ok(finished)
    }

    /// Runs a command that looks at what another has left that had to be killed. No request to stop reaches it: the job has
    /// heard of one already, perhaps. It may take 20 s, and leaves no record.
    ///
    /// # Errors
    /// Its supervisor could not be started or was lost.
    pub async fn last_look(&mut self, command: Command) -> Result<Finished, Stop> {
        let command = self.with_secrets(command).await?;
        let timeout_ms = u64::try_from(LAST_LOOK.as_millis()).unwrap_or(u64::MAX);
        let step = Step { timeout_ms, ..self.step(&command)? };
        let prepared =
            self.means.supervisors.prepare(step).await.map_err(|e| self.without_record(command.class, &e))?;
        let finished = self.attended(prepared, &command, false).await;
        Handed::take_back(&self.work);
        finished
    }

    /// With the secrets that the command is to have, which are kept out of the log from now on.
    async fn with_secrets(&mut self, command: Command) -> Result<Command, Stop> {
        self.handed.give((&self.means.keyring, &self.log), (&self.job, &self.work), command).await
    }

    /// Runs a command that may hear of requests to stop.
    async fn attended(&mut self, prepared: Prepared, command: &Command, hears: bool) -> Result<Finished, Stop> {
        let class = command.class;
        tracing::debug!(attempt.id = %self.job.lease.attempt_id, command = command.name, "running");
        self.log.begin_child(if command.stdout == Stdout::Events { Dialect::Events } else { Dialect::Text });
        let mut running = prepared.run().await.map_err(|e| self.without_record(class, &e))?;
        if self.records.is_empty() {
            self.means.metrics.started(&self.job.kind, self.begun.elapsed());
        }
        let over = CancellationToken::new();
        let output = Output { log: &self.log, held: &self.held, over: &over };
        let refusals = running.control.refusals();
        let ((stdout, stderr), (), (), ended) = tokio::join!(
            output.both(running.stdout, running.stderr, command.stdout),
            show_progress(&self.log, &*self.means.desk, &self.job.lease, (command.stdout, &over)),
            tell_refusals(&self.log, refusals),
            attend(running.control, hears.then_some(&*self.held), command.room.as_ref(), &over),
        );
        let (record, overfull) = ended.map_err(|e| self.without_record(class, &e))?;
        if matches!(record.exit, Exit::OutOfMemory { .. }) {
            self.means.metrics.out_of_memory();
        }
        Ok(Finished { record, stdout: stdout.bytes, cut: stdout.cut, stderr: stderr.bytes, overfull })
    }

    /// What becomes of a job whose command has no record. A supervisor that was killed leaves a doubt, which the report
    /// must not hide.
    fn without_record(&mut self, class: Class, error: &SuperviseError) -> Stop {
        self.held.hand_over(false);
        match error {
            SuperviseError::Launch { .. } | SuperviseError::Unopened { .. } | SuperviseError::Unsendable { .. } => {
                Stop::failed(error.to_string())
            }
            SuperviseError::Lost { .. } | SuperviseError::Channel { .. } => {
                self.children_dead = false;
                match class {
                    // It may be tried again.
                    Class::Reading => Stop::failed(error.to_string()),
                    Class::Mutating => Stop::refused(format!(
                        "{error}; what it has changed is not known, its state lock may be left behind"
                    )),
                }
            }
        }
    }

    fn step(&self, command: &Command) -> Result<Step, Stop> {
        let mut argv = vec![command.program.display().to_string()];
        argv.extend(command.args.iter().cloned());
        Ok(Step {
            name: command.name.to_owned(),
            argv,
            env: command.env.clone(),
            cwd: command.cwd.clone(),
            class: command.class,
            timeout_ms: u64::try_from(self.deadline.left().as_millis()).unwrap_or(u64::MAX),
            kill_grace_ms: u64::try_from(self.job.kill_grace.as_millis()).unwrap_or(u64::MAX),
            record_dir: self.work.record(self.records.len(), command.name),
            umask: DEFAULT_UMASK,
            secrets: command.secrets.clone(),
            orphan_limit_bytes: DEFAULT_ORPHAN_LIMIT_BYTES,
            sandbox: self.confinement(command)?,
        })
    }

    fn confinement(&self, command: &Command) -> Result<Confinement, Stop> {
        let own = [self.work.home(), self.work.tmp()];
        let folders = Folders { program: &command.program, cwd: &command.cwd, own: &own };
        let (config, access) = (self.config(), &command.access);
        let confined = Confinement::new(&config.sandbox, access, folders, &command.env);
        // What the runner needs for itself is no matter of the template's.
        let template = self.template_egress.as_deref().filter(|_| access.profile != Profile::Tool);
        Ok(match confined_egress(config, &command.env, template)? {
            Some(rules) => confined.through(rules, &config.egress, access),
            None => confined,
        })
    }

    /// From now on the job's own commands reach no more than these hosts, of those that the settings allow.
    ///
    /// # Errors
    /// An entry that is none.
    pub fn narrow_egress(&mut self, hosts: Option<&[String]>) -> Result<(), Stop> {
        let rule =
            |text: &String| Rule::try_from(text.clone()).map_err(|e| Stop::refused(format!("template egress: {e}")));
        self.template_egress = hosts.map(|all| all.iter().map(rule).collect::<Result<_, _>>()).transpose()?;
        Ok(())
    }

    /// Says once per attempt how far its commands are confined.
    fn say_sandbox(&self, step: &Step) {
        if self.records.is_empty() {
            let level = plan(&step.sandbox, &Kernel::detect()).level;
            self.say(level.notice(&self.config().sandbox));
            step.sandbox.egress.iter().for_each(|rules| self.say(rules.notice(level.held.contains(&Layer::Tcp))));
        }
    }
}
