//! What becomes of a runner's sessions when a standby has taken over, and the old primary goes on answering; and of a credential
//! that a standby does not know yet.

use std::time::Duration;

use tendril_broker::connect::{Address, ConnectError, Connector};
use tendril_broker::operator::clusters::{self, IssuedCredential};
use tendril_broker::operator::migration::migrate;
use tendril_broker::runner::{Broker, Doorbell, Heart, LogWriter, Registration};
use tendril_broker::testing::history;
use tendril_broker::testing::standby::Primary;
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use crate::world::DATABASE;
use crate::world::pair::Pair;
use crate::world::server::Server;

const PATIENCE: Duration = Duration::from_secs(30);
const RUNNER: Uuid = Uuid::from_u128(0x0190_bbbb_0000_7000_8000_0000_0000_0001);

/// A process has one pair at a time: all look for a free port at the same place.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Two servers, the second of which follows the first, with a cluster that both know.
async fn pair(name: &str) -> (Pair, IssuedCredential, MutexGuard<'static, ()>) {
    let alone = ALONE.lock().await;
    let server = Server::start(format!("chaos-{name}-{}", std::process::id())).await.unwrap();
    let mut pair = Pair::of(server).await.unwrap();
    history::create_database(&pair.server.address().unwrap(), DATABASE, "portal").await.unwrap();
    let operator = pair.server.operator_url(DATABASE).parse::<tendril_broker::Address>().unwrap();
    let mut operator = operator.connect("test").await.unwrap();
    migrate(&mut operator).await.unwrap();
    let cluster = clusters::create(&mut operator, "early", None).await.unwrap();
    pair.is_followed().await.unwrap();
    Primary::of(&pair.primary_url()).await.unwrap().commit_alone().await.unwrap();
    (pair, cluster, alone)
}

/// The way to the servers at these ports, in that order.
fn connector(ports: [u16; 2], token: &str) -> Connector {
    let [first, second] = ports;
    let address = Address::parse(&format!("postgres://127.0.0.1:{first},127.0.0.1:{second}/{DATABASE}")).unwrap();
    address.connector(&token.parse().unwrap()).unwrap()
}

fn registration() -> Registration {
    let version = "0".to_owned();
    Registration { name: "test".into(), version, place: None, labels: Vec::new(), slots: 1, log_writer: RUNNER }
}

#[tokio::test]
async fn no_session_stays_at_an_old_primary_that_goes_on_answering() {
    let (mut pair, cluster, _alone) = pair("replaced").await;
    let connector = connector(pair.ports(), cluster.token.reveal());
    let broker = Broker::new(connector.clone(), RUNNER, 2).unwrap();
    let registered = broker.register(&registration()).await.unwrap();
    let mut heart = Heart::new(connector.clone());
    heart.beat(RUNNER, 0, &[], PATIENCE).await.unwrap();
    let mut bell = Doorbell::listen(&connector, &registered.channel).await.unwrap();
    let logs = LogWriter::take_over(&connector, RUNNER).await.unwrap();
    let old = pair.primary_url();
    assert_eq!(Primary::of(&old).await.unwrap().runners_sessions().await.unwrap(), 4);
    // The standby has all of that before it is alone.
    pair.is_followed().await.unwrap();
    broker.register(&registration()).await.unwrap();
    Primary::of(&pair.primary_url()).await.unwrap().commit_alone().await.unwrap();

    pair.freeze().unwrap();
    let astray = pair.take_over_from_the_silent().await.unwrap();
    heart.beat(RUNNER, 0, &[], Duration::from_secs(1)).await.unwrap_err();
    heart.beat(RUNNER, 0, &[], PATIENCE).await.unwrap();
    pair.goes_on(&astray).unwrap();

    // Not one of those that were idle asks it for anything more, or hears of it.
    tokio::time::timeout(PATIENCE, bell.ring()).await.expect("it is told").unwrap_err();
    tokio::time::timeout(PATIENCE, logs.positions()).await.expect("it is told").unwrap_err();
    broker.register(&registration()).await.unwrap();
    let mut old = Primary::of(&old).await.unwrap();
    let left = async {
        while old.runners_sessions().await.unwrap() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, left).await.expect("all of them have left the old primary");
    let mut new = Primary::of(&pair.primary_url()).await.unwrap();
    assert_eq!(new.runners_sessions().await.unwrap(), 2, "the heartbeat's, and that of the calls");
    pair.is_fenced(astray).await.unwrap();
    pair.stop().await.unwrap();
}

async fn refusal(connector: &Connector) -> ConnectError {
    connector.connect("test").await.map(drop).unwrap_err()
}

#[tokio::test]
async fn only_a_primary_says_that_a_credential_was_revoked() {
    let (mut pair, early, _alone) = pair("lagging").await;
    let [primary, standby] = pair.ports();
    pair.cut_off_standby().await.unwrap();
    let operator = pair.server.operator_url(DATABASE).parse::<tendril_broker::Address>().unwrap();
    let late = clusters::create(&mut operator.connect("test").await.unwrap(), "late", None).await.unwrap();
    for ports in [[primary, standby], [standby, primary]] {
        connector(ports, late.token.reveal()).connect("test").await.unwrap();
    }
    let known = connector([standby, primary], late.token.reveal());
    known.connect("test").await.unwrap();

    pair.crash().await.unwrap();
    for ports in [[primary, standby], [standby, primary]] {
        let told = refusal(&connector(ports, late.token.reveal())).await;
        assert!(matches!(told, ConnectError::Unreachable { .. }), "the standby does not know it yet: {told:?}");
        // The same for people's sessions.
        let (token, [one, two]) = (late.token.reveal().parse::<tendril_broker::token::AgentToken>().unwrap(), ports);
        let url = format!(
            "postgres://{}:{}@127.0.0.1:{one},127.0.0.1:{two}/{DATABASE}?sslmode=disable",
            token.role(),
            token.secret()
        );
        let told = url.parse::<tendril_broker::Address>().unwrap().connect("test").await.map(drop).unwrap_err();
        assert!(told.is_outage(), "{told:?}");
    }
    let told = refusal(&known).await;
    assert!(matches!(told, ConnectError::Unreachable { .. }), "{told:?}");

    pair.resume().await.unwrap();
    let mut session = operator.connect("test").await.unwrap();
    for cluster in [early.id, late.id] {
        clusters::revoke(&mut session, cluster, true).await.unwrap();
    }
    // Whoever has had a session there, and whoever hears of the standby that it is none, has the primary's word for it.
    let of_early = [[primary, standby], [standby, primary]].map(|ports| connector(ports, early.token.reveal()));
    for connector in of_early.iter().chain([&known]) {
        let told = refusal(connector).await;
        assert!(matches!(told, ConnectError::Credential { .. }), "{told:?}");
    }
    pair.stop().await.unwrap();
}
