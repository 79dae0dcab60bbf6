//! The command line `tendril-broker`: parse, do, print, exit code.
//!
//! The JSON objects of `--json` are the serialized types of [`crate::operator`] and [`crate::portal`]; docs/CLI.md lists them.

mod arguments;
mod cluster;
mod deployment;
mod display;
mod exit;
mod grant;
mod input;
mod lost_work;
mod output;
mod queue;
mod schedule;
mod schema;
mod serve;
mod set_back;
mod submit;
mod template;
mod token;
mod watch;

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use sqlx::postgres::PgConnection;

use crate::cli::arguments::{Arguments, Command, Common};
use crate::cli::exit::{Failure, Outcome};
use crate::cli::output::Output;
use crate::session::Address;

/// Name of our sessions in `pg_stat_activity`.
const APPLICATION: &str = "tendril-broker";

/// What every command has.
struct Context {
    common: Common,
    output: Output,
}

impl Context {
    fn address(&self) -> Result<Address, Failure> {
        let given = self.common.database_url.clone();
        let url = given.or_else(|| std::env::var("DATABASE_URL").ok());
        let url = url.ok_or_else(|| {
            Failure::Usage(
                "no database is named: give --database-url, or set TENDRIL_DATABASE_URL or DATABASE_URL".into(),
            )
        })?;
        Ok(url.parse::<Address>()?)
    }

    async fn connect(&self) -> Result<PgConnection, Failure> {
        let address = self.address()?;
        if address.is_open_to_listeners() {
            self.output
                .remark("note: the line to the database is not verified; sslmode=verify-full in the URL makes it so");
        }
        Ok(address.connect(APPLICATION).await?)
    }
}

/// Runs the command line of this process.
pub async fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return exit::misused(&error),
    };
    let json = arguments.common.json;
    let context = Context { output: Output::new(json), common: arguments.common };
    match dispatch(&context, arguments.command).await {
        Ok(outcome) => outcome.into(),
        Err(failure) => failure.report(json),
    }
}

async fn dispatch(context: &Context, command: Command) -> Result<Outcome, Failure> {
    match command {
        Command::Migrate(options) => schema::migrate(context, &options).await,
        Command::Serve(options) => serve::serve(context, &options).await,
        Command::Cluster(command) => cluster::cluster(context, command).await,
        Command::Runner(command) => queue::runner(context, command).await,
        Command::Portal(command) => grant::portal(context, command).await,
        Command::Token(command) => token::token(context, command).await,
        Command::Submit(options) => submit::submit(context, *options).await,
        Command::Watch(options) => watch::watch(context, &options).await,
        Command::Logs(options) => watch::logs(context, &options).await,
        Command::Status(one) => deployment::status(context, one.id).await,
        Command::List(options) => deployment::list(context, options).await,
        Command::Cancel(options) => deployment::cancel(context, &options).await,
        Command::Approve(options) => deployment::approve(context, &options).await,
        Command::Reject(options) => deployment::reject(context, &options).await,
        Command::Retry(options) => deployment::retry(context, &options).await,
        Command::Snooze(options) => queue::snooze(context, &options).await,
        Command::DeadLetters(command) => queue::dead_letters(context, command).await,
        Command::Schedule(command) => schedule::schedule(context, command).await,
        Command::DeclareLost(options) => lost_work::declare_lost(context, &options).await,
        Command::AfterRestore(options) => set_back::after_restore(context, &options).await,
        Command::Key(command) => lost_work::key(context, command).await,
        Command::State(command) => lost_work::state(context, command).await,
        Command::Template(command) => template::template(context, command).await,
        Command::Doctor(options) => schema::doctor(context, options).await,
        Command::Uninstall(options) => schema::uninstall(context, &options).await,
        Command::Completions { shell } => {
            let mut command = Arguments::command();
            clap_complete::generate(shell, &mut command, APPLICATION, &mut io::stdout());
            Ok(Outcome::Done)
        }
    }
}
