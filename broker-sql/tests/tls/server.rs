//! A server with a certificate of an authority of its own.

use crate::authority::Authority;
use tendril_broker::connect::{Address, ConnectError};
use tendril_broker::testing::TestDatabase;
use tendril_broker::token::AgentToken;

pub struct Server {
    // Keeps database and roles until the test is over.
    pub _database: TestDatabase,
    pub port: u16,
    pub name: String,
    pub token: AgentToken,
    pub authority: Authority,
}

/// Turns TLS on at the test server, with a certificate for `localhost` alone. None without a superuser.
pub async fn server() -> Option<Server> {
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
    pub async fn connect(&self, host: &str, query: &str) -> Result<bool, ConnectError> {
        let url = format!("postgres://{host}:{}/{}?{query}", self.port, self.name);
        let connector = Address::parse(&url).expect("an address").connector(&self.token)?;
        let (client, driver) = connector.connect("tls test").await?;
        let session = tokio::spawn(driver.run());
        let row = client
            .query_one("select coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false)", &[])
            .await
            .expect("a row");
        drop(client);
        session.await.expect("the session").expect("a clean end");
        Ok(row.get(0))
    }
}

pub fn port_of(database: &TestDatabase) -> u16 {
    let config: tokio_postgres::Config = database.url().parse().expect("a URL");
    config.get_ports()[0]
}
