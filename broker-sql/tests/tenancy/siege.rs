//! Two tenants on one database that is served: one attacks, the other one works.

use std::time::Duration;

use tendril_broker::serve::{self, Options};
use tendril_broker::testing::neighbour::Neighbour;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fleet::{Fleet, one};

/// Attacks on the server as a whole have it for themselves.
static SERVER: RwLock<()> = RwLock::const_new(());
/// Nothing here takes this long unless it does not happen.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Jobs that a neighbour does while an attack goes on.
pub const MEANWHILE: i64 = 5;

enum Turn {
    #[expect(dead_code, reason = "held until the test is over")]
    Shared(RwLockReadGuard<'static, ()>),
    #[expect(dead_code, reason = "held until the test is over")]
    Alone(RwLockWriteGuard<'static, ()>),
}

/// The attacker's cluster is the fleet's.
pub struct Siege {
    pub fleet: Fleet,
    pub neighbour: Neighbour,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    _turn: Turn,
}

impl Siege {
    pub async fn begin() -> Self {
        Self::with(Turn::Shared(SERVER.read().await)).await
    }

    /// With no other test of this suite on the server.
    pub async fn alone() -> Self {
        Self::with(Turn::Alone(SERVER.write().await)).await
    }

    async fn with(turn: Turn) -> Self {
        let fleet = Fleet::new().await;
        let stop = CancellationToken::new();
        let address = fleet.database.address();
        let options = Options { address, listen: None, beat: Duration::from_secs(1), archive: None };
        let stopped = stop.clone();
        let serving = tokio::spawn(async move { serve::run(options, stopped).await.unwrap() });
        let mut neighbour = Neighbour::at_work(&fleet.database, "neighbour").await;
        neighbour.goes_on(1).await;
        Self { fleet, neighbour, stop, serving, _turn: turn }
    }

    /// How the attacker connects.
    pub fn attackers_url(&self) -> String {
        self.fleet.database.runner_url(self.fleet.cluster.token.reveal())
    }

    /// Asks as the operator, in a session of its own since an attack may have ended or starved the last one, until the answer is
    /// yes. The neighbour works meanwhile.
    pub async fn until(&mut self, what: &str, sql: &str) {
        let asking = async {
            loop {
                if let Ok(true) = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut self.fleet.operator).await
                {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("did not happen: {what}"));
    }

    /// The neighbour does some more, and has lost nothing of all that it did.
    pub async fn end(mut self) {
        let went_on = self.neighbour.goes_on(MEANWHILE);
        tokio::time::timeout(PATIENCE, went_on).await.unwrap();
        self.neighbour.unharmed().await;
        let unfinished = "select count(*) from tendril.deployments d join tendril.clusters c on c.id = d.cluster_id
            where c.name = 'neighbour' and d.status <> 'SUCCESS'";
        assert_eq!(one::<i64>(&mut self.fleet.operator, unfinished).await, 0);
        self.stop.cancel();
        self.serving.await.unwrap();
    }
}
