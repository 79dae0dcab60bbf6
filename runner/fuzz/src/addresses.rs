//! One line that somebody gives as an address, a path, a name or a credential.

use std::hint::black_box;
use std::net::IpAddr;
use tendril_broker::archive::Location;
use tendril_broker::connect::{self, Tls};
use tendril_broker::portal::api_token::ApiToken;
use tendril_broker::token::AgentToken;
use tendril_runner::prepare::git::{Address, Transport, is_reference};
use tendril_runner::sandbox::port_of;
use tendril_runner::seal::ArtifactKey;
use tendril_templates::TreePath;
use uuid::Uuid;

const PASSWORD: &str = "hunter2-in-the-address";

/// Each reader takes what its rules say and nothing else, and shows no credential.
pub fn addresses(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    git(&text);
    path(&text);
    archive(&text);
    database(&text);
    credentials(&text, data);
    let _ = black_box(port_of(&text));
}

fn git(text: &str) {
    if let Ok(address) = Address::parse(text) {
        assert_eq!(address.to_string(), text);
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b":/@._~+-".contains(&b)), "{text}");
        assert!(!address.host.starts_with('-') && !text.starts_with('-') && !text.contains("::"));
        let by = if text.starts_with("https://") { Transport::Https } else { Transport::Ssh };
        assert_eq!(address.transport, by, "{text}");
        // Nothing that looks like a password: the one colon besides the scheme's is that of the port or of the path.
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        assert!(!rest.split('@').next().is_some_and(|user| rest.contains('@') && user.contains(':')), "{text}");
    }
    if is_reference(text) {
        assert!(
            text.len() <= 255 && !text.starts_with('-') && !text.contains([':', ' ', '*', '~', '^', '\\', '@', '\n'])
        );
    }
}

fn path(text: &str) {
    if let Ok(path) = TreePath::new(text) {
        assert_eq!(path.as_str(), text);
        let is_safe = |name: &str| {
            !name.is_empty()
                && name != "."
                && name != ".."
                && !name.eq_ignore_ascii_case(".git")
                && !name.contains(['\\', '\0', '\n'])
        };
        assert!(text.len() <= 512 && text.split('/').all(is_safe), "{text:?}");
    }
}

fn archive(text: &str) {
    if let Ok(location) = text.parse::<Location>() {
        assert_eq!(location.to_string().parse::<Location>().as_ref(), Ok(&location));
        assert!(
            !location.prefix.starts_with('/') && !location.prefix.split('/').any(|part| part == ".." || part == ".")
        );
    }
}

/// TLS is given up for loopback and sockets only, or by word; a password is refused, and never repeated.
fn database(text: &str) {
    for url in [text.to_owned(), format!("postgres://{text}")] {
        let Ok(address) = connect::Address::parse(&url) else { continue };
        let is_near = |(host, _): &(String, u16)| {
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        };
        let said = url.contains("sslmode=disable");
        assert!(said || address.tls() != Tls::Disable || address.endpoints().iter().all(is_near), "{url}");
    }
    // With a query of its own, what is put behind it would be a part of that.
    if text.contains("hunter2") || text.contains(['?', '#']) {
        return;
    }
    for url in [format!("postgres://me:{PASSWORD}@{text}"), format!("postgres://{text}?password={PASSWORD}")] {
        match connect::Address::parse(&url) {
            Ok(address) => assert!(!address.target().contains(PASSWORD), "{url}"),
            Err(error) => assert!(!error.to_string().contains(PASSWORD), "{error}"),
        }
        match url.parse::<tendril_broker::Address>() {
            Ok(address) => assert!(!format!("{address} {address:?}").contains(PASSWORD), "{url}"),
            Err(error) => assert!(!error.to_string().contains(PASSWORD), "{error}"),
        }
    }
}

fn credentials(text: &str, data: &[u8]) {
    if let Ok(token) = text.parse::<AgentToken>() {
        let (cluster, generation) = token
            .role()
            .strip_prefix("r_")
            .and_then(|role| Some((role.get(..32)?.to_owned(), role.get(33..)?.to_owned())))
            .expect("a role");
        assert_eq!(Uuid::try_parse(&cluster), Ok(token.cluster()));
        assert!(generation.parse::<u32>().is_ok_and(|number| number > 0), "{}", token.role());
        assert!(!format!("{token:?}").contains(token.secret()));
    }
    drop(text.parse::<ApiToken>());
    drop(ArtifactKey::parse(text));
    let key = ArtifactKey::parse("tak1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").expect("a key");
    assert!(key.open(Uuid::nil(), "plan", data).is_err(), "opened without a seal");
}
