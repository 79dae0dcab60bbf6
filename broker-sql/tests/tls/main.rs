//! TLS as a runner meets it: a server with a certificate of its own authority.
#![expect(clippy::expect_used, reason = "a test that cannot be set up has nothing to go on with")]

mod authority;

use authority::Authority;
use tendril_broker::connect::{Address, ConnectError};
use tendril_broker::testing::TestDatabase;
use tendril_broker::token::AgentToken;

struct Server {
    // Keeps database and roles until the test is over.
    _database: TestDatabase,
    port: u16,
    name: String,
    token: AgentToken,
    authority: Authority,
}

/// Turns TLS on at the test server, with a certificate for `localhost` alone. None without a superuser.
async fn server() -> Option<Server> {
    let database = TestDatabase::create().await;
    let Some(superuser) = database.superuser_url() else {
        eprintln!("skipped: TENDRIL_TEST_SUPERUSER_URL is not set");
        return None;
    };
    let authority = Authority::of_the_test_run(&superuser).await;
    let token = database.cluster("tls").await.token.reveal().parse().expect("a token");
    let port = port_of(&database);
    Some(Server { name: database.name().to_owned(), port, token, authority, _database: database })
}

impl Server {
    async fn connect(&self, host: &str, query: &str) -> Result<bool, ConnectError> {
        let url = format!("postgres://{host}:{}/{}?{query}", self.port, self.name);
        let connector = Address::parse(&url).expect("an address").connector(&self.token)?;
        let (client, driver) = connector.connect("tls test").await?;
        let session = tokio::spawn(driver);
        let row = client
            .query_one("select coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false)", &[])
            .await
            .expect("a row");
        drop(client);
        session.await.expect("the session").expect("a clean end");
        Ok(row.get(0))
    }
}

fn port_of(database: &TestDatabase) -> u16 {
    let config: tokio_postgres::Config = database.url().parse().expect("a URL");
    config.get_ports()[0]
}

#[tokio::test]
async fn verify_full_accepts_the_own_authority_and_encrypts() {
    let Some(server) = server().await else { return };
    let query = format!("sslmode=verify-full&sslrootcert={}", server.authority.path.display());
    assert!(server.connect("localhost", &query).await.expect("connected"));
}

#[tokio::test]
async fn verify_full_refuses_another_authority_and_another_name_and_says_why() {
    let Some(server) = server().await else { return };
    let stranger = Authority::stranger();
    let foreign = format!("sslmode=verify-full&sslrootcert={}", stranger.path.display());
    let own = format!("sslmode=verify-full&sslrootcert={}", server.authority.path.display());
    // The certificate names localhost only; the address does not.
    for (host, query) in [("localhost", foreign), ("127.0.0.1", own)] {
        let error = server.connect(host, &query).await.expect_err("a refusal");
        assert!(matches!(error, ConnectError::Tls { .. }), "{error:?}");
        let said = error.to_string();
        assert!(said.contains("certificate") && said.contains("sslrootcert"), "{said}");
    }
}

#[tokio::test]
async fn require_encrypts_and_believes_whoever_answers() {
    let Some(server) = server().await else { return };
    assert!(server.connect("127.0.0.1", "sslmode=require").await.expect("connected"));
    assert!(!server.connect("127.0.0.1", "sslmode=disable").await.expect("connected"));
}

#[tokio::test]
async fn each_failure_to_connect_says_which_it_is() {
    let database = TestDatabase::create().await;
    let token: AgentToken = database.cluster("errors").await.token.reveal().parse().expect("a token");
    let port = port_of(&database);
    let connect = async |url: String, token: &AgentToken| {
        let connector = Address::parse(&url).expect("an address").connector(token).expect("a connector");
        connector.connect("test").await.map(drop).expect_err("a refusal")
    };
    // A secret of another cluster's token, a port where nobody listens, a database that is not there.
    let wrong: AgentToken = format!("trt1.{}.1.{}", token.cluster().simple(), "0".repeat(48)).parse().expect("a token");
    let refused = connect(format!("postgres://127.0.0.1:{port}/{}", database.name()), &wrong).await;
    assert!(matches!(refused, ConnectError::Credential { .. }), "{refused:?}");
    assert!(!refused.to_string().contains("000000"), "{refused}");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let closed = silent.local_addr().expect("its address").port();
    drop(silent);
    let nobody = connect(format!("postgres://127.0.0.1:{closed}/x"), &token).await;
    assert!(matches!(nobody, ConnectError::Unreachable { .. }), "{nobody:?}");
    let absent = connect(format!("postgres://127.0.0.1:{port}/not_there"), &token).await;
    assert!(absent.to_string().contains("not_there"), "{absent}");
}
