//! Whom a runner believes.

use crate::authority::Authority;
use crate::middle;
use crate::server::{port_of, server};
use tendril_broker::connect::{Address, ConnectError};
use tendril_broker::testing::TestDatabase;
use tendril_broker::token::AgentToken;

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
async fn the_password_is_bound_to_the_channel_where_there_is_one() {
    let Some(server) = server().await else { return };
    for query in [
        format!("sslmode=verify-full&sslrootcert={}&channel_binding=require", server.authority.path.display()),
        "sslmode=require&channel_binding=require".to_owned(),
    ] {
        assert!(server.connect("localhost", &query).await.expect("connected"), "{query}");
    }
    // Without TLS there is nothing to bind to.
    let error = server.connect("127.0.0.1", "sslmode=disable&channel_binding=require").await.expect_err("a refusal");
    assert!(matches!(error, ConnectError::Tls { .. }) && error.to_string().contains("channel binding"), "{error:?}");
}

#[tokio::test]
async fn somebody_in_the_middle_is_found_out_even_where_any_certificate_is_believed() {
    let Some(mut server) = server().await else { return };
    let trusted = format!("sslmode=verify-full&sslrootcert={}", server.authority.path.display());
    server.port = middle::before(server.port, &server.authority.path).await;
    // By default, and when it has to be: the server sees that the client's TLS ended elsewhere.
    for query in ["sslmode=require", "sslmode=require&channel_binding=require"] {
        let error = server.connect("localhost", query).await.expect_err("a refusal");
        assert!(
            matches!(error, ConnectError::Tls { .. }) && error.to_string().contains("channel binding"),
            "{error:?}"
        );
    }
    // Its certificate alone gives it away where certificates are looked at.
    let error = server.connect("localhost", &trusted).await.expect_err("a refusal");
    assert!(error.to_string().contains("certificate"), "{error:?}");
    // What must not be done: neither looked at nor bound.
    assert!(server.connect("localhost", "sslmode=require&channel_binding=disable").await.expect("connected"));
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
