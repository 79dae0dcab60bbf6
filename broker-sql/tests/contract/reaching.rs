//! How a command reaches its database, and what it says when it does not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use tendril_broker::operator::grants::Scope;
use tendril_broker::testing::TestDatabase;

use crate::fleet::Fleet;
use crate::program::{broker, command};

/// What a server looks like that says this one byte when it is greeted, and goes away.
fn server_that_says(byte: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map(Result::unwrap) {
            // Unread, the greeting would reset the connection under the answer.
            drop(stream.read(&mut [0; 64]));
            drop(stream.write_all(&[byte]));
        }
    });
    address
}

#[tokio::test]
async fn an_unreachable_database_is_named_with_the_reason() {
    let database = TestDatabase::create().await;
    let url = database.url();
    let (login, rest) = url.split_once("://").unwrap().1.split_once('@').unwrap();
    let user = login.split(':').next().unwrap();
    let server = rest.split('/').next().unwrap();
    let (dying, without_tls) = (server_that_says(0), server_that_says(b'N'));
    for (url, code, words) in [
        (format!("postgres://{login}@{dying}/d"), 4, "broke off in the middle of the greeting"),
        (String::new(), 2, "no database is named: give --database-url, or set TENDRIL_DATABASE_URL or DATABASE_URL"),
        ("mysql://h/d".into(), 2, "does not begin with postgres://"),
        ("postgres://u:secret-word@h:port/d".into(), 2, "the database URL cannot be read"),
        (format!("postgres://{login}@127.0.0.1:1/d"), 4, "Connection refused"),
        (format!("postgres://{login}@host.invalid/d"), 4, "the host's name is not known"),
        (format!("postgres://{user}:secret-word@{rest}"), 4, "password authentication failed"),
        (format!("postgres://{login}@{server}/no_such_database"), 4, "database \"no_such_database\" does not exist"),
        (format!("postgres://{login}@{without_tls}/d?sslmode=require"), 4, "no TLS with"),
        (format!("postgres:///d?host=/nowhere&user={user}"), 4, "no socket there"),
    ] {
        let ran = broker(&url, &["list"]).await;
        assert_eq!(ran.code, code, "{url}: {}", ran.err);
        assert!(ran.err.contains(words), "{url}: wanted {words:?} in {}", ran.err);
        assert!(!ran.err.contains("secret-word"), "a password is never shown: {}", ran.err);
    }
    // The other ways to name it, in their order.
    let by_option = broker("postgres://x@127.0.0.1:1/x", &["list", "--database-url", &url]).await;
    assert_eq!(by_option.code, 0, "{}", by_option.err);
    let mut by_fallback = command("", &["list"]);
    assert!(by_fallback.env("DATABASE_URL", &url).output().await.unwrap().status.success());
    let without_password = format!("postgres://{user}@{rest}");
    let mut by_password = command(&without_password, &["list"]);
    let password = login.split_once(':').unwrap().1;
    assert!(by_password.env("PGPASSWORD", password).output().await.unwrap().status.success());
}

#[tokio::test]
async fn a_database_without_the_schema_or_the_rights_is_named() {
    let empty = TestDatabase::empty().await;
    let ran = broker(&empty.url(), &["list"]).await;
    assert_eq!(ran.code, 5);
    assert!(ran.err.contains("tendril-broker migrate"), "{}", ran.err);
    let fleet = Fleet::new().await;
    let portal = fleet.database.portal(Scope::All).await;
    for arguments in [
        &["cluster", "create", "x"][..],
        &["cluster", "list"],
        &["portal", "list"],
        &["key", "list"],
        &["migrate"],
        &["uninstall"],
    ] {
        let ran = broker(&portal.url, arguments).await;
        assert_eq!(ran.code, 1, "{arguments:?}: {}", ran.err);
        assert!(
            ran.err.contains("permission denied") && ran.err.contains("hint: operators connect as the role"),
            "{arguments:?}: {}",
            ran.err
        );
    }
}
