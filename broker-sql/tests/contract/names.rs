//! Several names of one server in an address.

use std::time::Duration;

use tendril_broker::connect::{Address, Connector};
use tendril_broker::testing::TestDatabase;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Another name of the server at `port`: a port of its own, at which whoever connects waits while the gate is shut.
async fn another_name(port: u16, gate: watch::Receiver<bool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut gate = gate.clone();
            tokio::spawn(async move {
                gate.wait_for(|is_open| *is_open).await.unwrap();
                let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
            });
        }
    });
    own
}

async fn backend(connector: &Connector) -> (tokio_postgres::Client, tokio::task::JoinHandle<()>) {
    let (client, driver) = connector.connect("test").await.unwrap();
    (client, tokio::spawn(async move { drop(driver.run().await) }))
}

#[tokio::test]
async fn sessions_outlive_a_slow_connect_after_which_another_name_of_their_server_has_the_lead() {
    let database = TestDatabase::create().await;
    let token = database.cluster("one").await.token;
    let url = database.runner_url(token.reveal());
    let (_, at) = url.rsplit_once('@').unwrap();
    let (server, name) = at.split_once('/').unwrap();
    let port = server.rsplit_once(':').unwrap().1.parse().unwrap();
    let (open, gate) = watch::channel(true);
    let slow = another_name(port, gate).await;
    let address = Address::parse(&format!("postgres://localhost:{slow},127.0.0.1:{port}/{name}")).unwrap();
    let connector = address.connector(&token.reveal().parse().unwrap()).unwrap();

    let (first, mut driven) = backend(&connector).await;
    open.send(false).unwrap();
    // The name that had the lead says nothing for as long as it takes; the other one answers.
    let (second, _) = backend(&connector).await;
    first.simple_query("-- still here\nselect 1").await.unwrap();
    second.simple_query("-- here, too\nselect 1").await.unwrap();
    let left = tokio::time::timeout(Duration::ZERO, &mut driven).await;
    assert!(left.is_err(), "it is driven on");
}
