//! The world of a run: a private Postgres, `serve`, runners, all of them the real programs.

mod pair;
mod program;
mod runner;
mod serve;
mod server;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex as SyncMutex;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use sqlx::postgres::PgConnection;
use tendril_broker::Address;
use tendril_broker::testing::{history, tenant};
use tokio::sync::Mutex;
use uuid::Uuid;

pub use pair::{Pair, Place};
pub use program::{Program, beside_this_one, output};
pub use runner::{RunnerSeat, STATES, Seat, Way};
pub use serve::ServeSeat;
pub use server::{Server, dev_script};

use crate::logs::room::Room;
use crate::op::OpName;
use crate::options::{Engine, Options, TIMES};
use crate::processes;

const PORTAL_PASSWORD: &str = "portal";
const CLUSTER: &str = "chaos";

/// Everything that a run stands on.
pub struct World {
    /// The database server, and who follows it; locked by who crashes it.
    pub server: Mutex<Pair>,
    /// The runners.
    pub runners: Vec<RunnerSeat>,
    /// The replicas of `serve`.
    pub serves: Vec<ServeSeat>,
    /// The small disk that the queue's tables are on, where they are.
    pub room: Option<Room>,
    /// The cluster that everything runs on.
    pub cluster: Uuid,
    token: SyncMutex<String>,
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
        let mut pair = Pair::of(server).await?;
        match Self::settle(folder, options, engine, (&broker, &mut pair)).await {
            Ok((cluster, token, runners, serves, room)) => {
                let portal = (format!("{DATABASE}_portal"), PORTAL_PASSWORD);
                let places = places(options, &pair);
                Ok(Self {
                    room,
                    runners,
                    serves,
                    cluster,
                    token: SyncMutex::new(token),
                    broker,
                    operator_url: pair.server.operator_url_at(&places, DATABASE),
                    portal_url: format!("postgres://{}:{}@{places}/{DATABASE}", portal.0, portal.1),
                    server: Mutex::new(pair),
                })
            }
            Err(error) => {
                let _ = pair.stop().await;
                Err(error)
            }
        }
    }

    async fn settle(
        folder: &Path,
        options: &Options,
        engine: Option<&Engine>,
        (broker, pair): (&Path, &mut Pair),
    ) -> anyhow::Result<(Uuid, String, Vec<RunnerSeat>, Vec<ServeSeat>, Option<Room>)> {
        history::create_database(&pair.server.address()?, DATABASE, PORTAL_PASSWORD).await?;
        let places = places(options, pair);
        let url = pair.server.operator_url_at(&places, DATABASE);
        let run = async |arguments: &[&str]| output(broker, arguments, &[("TENDRIL_DATABASE_URL", &url)]).await;
        run(&["migrate"]).await?;
        let mut operator = url.parse::<Address>()?.connect("tendril-chaos").await?;
        history::prepare(&mut operator, TIMES).await?;
        tenant::make_room_for(&mut operator, options.runners).await?;
        if let Some(mutant) = options.mutant {
            mutant.put_into(&mut operator).await?;
        }
        run(&["portal", "grant", &format!("{DATABASE}_portal"), "--scope", "all"]).await?;
        let cluster: Cluster = serde_json::from_str(&run(&["cluster", "create", CLUSTER, "--json"]).await?)?;
        let mut room = None;
        if options.ops.iter().any(|op| op.needs_standby()) {
            pair.is_followed().await?;
        } else if options.ops.contains(&OpName::DiskFull) && Room::can_be() {
            let disk = Room::new("queue", pair.first_process()?).await?;
            let superuser: Address = pair.server.superuser_url(DATABASE).parse()?;
            history::keep_queue_at(&mut superuser.connect("tendril-chaos").await?, &disk.folder()).await?;
            room = Some(disk);
        }

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
            token: cluster.token.clone(),
            slots: options.slots,
            engine: engine.cloned(),
        };
        let mut runners = Vec::new();
        for number in 0..options.runners {
            let way = Way::to(&places, options.ops.iter().any(|op| op.needs_line())).await?;
            runners.push(RunnerSeat::start(seat.clone(), number, way)?);
        }
        Ok((cluster.id, cluster.token, runners, serves, room))
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
        self.operate(&["key", "release", "--cluster", CLUSTER, key, "--reason", "its holder was killed"])
            .await
            .map(drop)
    }

    /// Runs `tendril-broker` as the operator; returns what it printed.
    ///
    /// # Errors
    /// What `tendril-broker` says.
    pub async fn operate(&self, arguments: &[&str]) -> anyhow::Result<String> {
        output(&self.broker, arguments, &[("TENDRIL_DATABASE_URL", &self.operator_url)]).await
    }

    /// The credential that runners are given now.
    pub fn token(&self) -> String {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// There is another credential: the next processes of all runners get it.
    pub fn rotated(&self, token: String) {
        self.runners.iter().for_each(|seat| seat.give(&token));
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// How somebody reaches the database with a login, `role:secret`.
    pub fn url_of(&self, login: &str) -> String {
        let places = self.operator_url.rsplit_once('@').map_or("", |(_, places)| places);
        format!("postgres://{login}@{places}")
    }

    /// Ends everything, whatever state it is in. Only processes that descend from this one are ended.
    pub async fn stop(&self) {
        for process in processes::descendants().iter().filter(|process| !process.dead) {
            let _ = kill(Pid::from_raw(process.identity.pid), Signal::SIGKILL);
        }
        if let Err(error) = self.server.lock().await.stop().await {
            eprintln!("the server was not stopped: {error:#}");
        }
        if let Some(room) = &self.room {
            room.remove().await;
        }
    }
}

/// Where the database is or may come to be: one address, or one for each server where clients have to find it.
fn places(options: &Options, pair: &Pair) -> String {
    let ports = pair.ports();
    let several = options.ops.iter().any(|op| op.moves_the_server());
    let ports = if several { &ports[..] } else { &ports[..1] };
    ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
}

/// The database of a run; the server is private.
pub const DATABASE: &str = "chaos";
