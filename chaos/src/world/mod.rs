//! The world of a run: a private Postgres, `serve`, runners, all of them the real programs.

mod program;
mod runner;
mod serve;
mod server;
mod standby;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use sqlx::postgres::PgConnection;
use tendril_broker::Address;
use tendril_broker::testing::history;
use tokio::sync::Mutex;
use uuid::Uuid;

pub use program::{Program, beside_this_one, output};
pub use runner::{RunnerSeat, STATES, Seat};
pub use serve::ServeSeat;
pub use server::{Server, dev_script};
pub use standby::Standby;

use crate::op::OpName;
use crate::options::{Engine, Options, TIMES};
use crate::processes;

const PORTAL_PASSWORD: &str = "portal";
const CLUSTER: &str = "chaos";

/// Everything that a run stands on.
pub struct World {
    /// The database server; locked by who crashes it.
    pub server: Mutex<Server>,
    /// Who follows it, where a failover is to come.
    pub standby: Mutex<Option<Standby>>,
    /// The runners.
    pub runners: Vec<RunnerSeat>,
    /// The replicas of `serve`.
    pub serves: Vec<ServeSeat>,
    /// The cluster that everything runs on.
    pub cluster: Uuid,
    broker: PathBuf,
    operator_url: String,
    portal_url: String,
}

#[derive(Deserialize)]
struct Cluster {
    id: Uuid,
    token: String,
}

impl World {
    /// Builds it: server, schema, portal, cluster, `serve`, runners.
    ///
    /// # Errors
    /// What the programs say.
    pub async fn start(folder: &Path, options: &Options, engine: Option<&Engine>) -> anyhow::Result<Self> {
        let broker = beside_this_one("tendril-broker")?;
        let server = Server::start(format!("chaos-world-{}", std::process::id())).await?;
        match Self::settle(folder, options, engine, (&broker, &server)).await {
            Ok((cluster, runners, serves, standby)) => Ok(Self {
                standby: Mutex::new(standby),
                runners,
                serves,
                cluster,
                broker,
                operator_url: server.operator_url(DATABASE),
                portal_url: server.url(Some((&format!("{DATABASE}_portal"), PORTAL_PASSWORD)), DATABASE),
                server: Mutex::new(server),
            }),
            Err(error) => {
                let _ = server.stop().await;
                Err(error)
            }
        }
    }

    async fn settle(
        folder: &Path,
        options: &Options,
        engine: Option<&Engine>,
        (broker, server): (&Path, &Server),
    ) -> anyhow::Result<(Uuid, Vec<RunnerSeat>, Vec<ServeSeat>, Option<Standby>)> {
        history::create_database(&server.address()?, DATABASE, PORTAL_PASSWORD).await?;
        let url = server.operator_url(DATABASE);
        let run = async |arguments: &[&str]| output(broker, arguments, &[("TENDRIL_DATABASE_URL", &url)]).await;
        run(&["migrate"]).await?;
        let mut operator = url.parse::<Address>()?.connect("tendril-chaos").await?;
        history::prepare(&mut operator, TIMES).await?;
        if let Some(mutant) = options.mutant {
            mutant.put_into(&mut operator).await?;
        }
        run(&["portal", "grant", &format!("{DATABASE}_portal"), "--scope", "all"]).await?;
        let cluster: Cluster = serde_json::from_str(&run(&["cluster", "create", CLUSTER, "--json"]).await?)?;
        let standby = match options.ops.contains(&OpName::Failover) {
            true => Some(Standby::of(server).await?),
            false => None,
        };

        let mut serves = Vec::new();
        for number in 0..options.serves {
            serves.push(ServeSeat::start(broker, folder, number, &url)?);
        }
        let runner = beside_this_one("tendril-runner")?;
        let key = folder.join("artifact.key");
        fs::write(&key, output(&runner, &["artifact-key"], &[]).await?)?;
        let seat = Seat {
            program: runner,
            folder: folder.to_owned(),
            database_url: server.url(None, DATABASE),
            token: cluster.token,
            slots: options.slots,
            engine: engine.cloned(),
        };
        let runners = (0..options.runners).map(|number| RunnerSeat::start(seat.clone(), number));
        Ok((cluster.id, runners.collect::<anyhow::Result<_>>()?, serves, standby))
    }

    /// Where the operator connects.
    ///
    /// # Errors
    /// A URL that is none.
    pub fn operator(&self) -> anyhow::Result<Address> {
        Ok(self.operator_url.parse()?)
    }

    /// Where the portal connects.
    ///
    /// # Errors
    /// A URL that is none.
    pub fn portal(&self) -> anyhow::Result<Address> {
        Ok(self.portal_url.parse()?)
    }

    /// A session of the operator, also while the server is just coming up.
    ///
    /// # Errors
    /// What waiting does not mend.
    pub async fn operator_session(&self) -> anyhow::Result<PgConnection> {
        let address = self.operator()?;
        loop {
            match address.connect("tendril-chaos").await {
                Ok(session) => return Ok(session),
                Err(error) if error.is_outage() => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(error) => return Err(error).context("the operator cannot connect"),
            }
        }
    }

    /// What an operator would do about a key whose holder is known to be dead.
    ///
    /// # Errors
    /// What `tendril-broker` says.
    pub async fn release_key(&self, key: &str) -> anyhow::Result<()> {
        let arguments = ["key", "release", "--cluster", CLUSTER, key, "--reason", "its holder was killed"];
        output(&self.broker, &arguments, &[("TENDRIL_DATABASE_URL", &self.operator_url)]).await.map(drop)
    }

    /// Ends everything, whatever state it is in. Only processes that descend from this one are ended.
    pub async fn stop(&self) {
        for process in processes::descendants().iter().filter(|process| !process.dead) {
            let _ = kill(Pid::from_raw(process.identity.pid), Signal::SIGKILL);
        }
        let server = self.server.lock().await;
        if let Some(standby) = self.standby.lock().await.take()
            && let Err(error) = standby.stop(&server).await
        {
            eprintln!("the standby was not stopped: {error:#}");
        }
        if let Err(error) = server.stop().await {
            eprintln!("the server was not stopped: {error:#}");
        }
    }
}

/// The database of a run; the server is private.
const DATABASE: &str = "chaos";
