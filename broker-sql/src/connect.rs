//! How a runner reaches its Postgres: the address, TLS, and errors that say why it failed.

pub use crate::driver::Driver;
use crate::driver::which_server;
use crate::hosts::{self, Lead};
use crate::token::AgentToken;
use crate::trust;
pub use crate::trust::Tls;
use futures_util::future::BoxFuture;
use std::path::PathBuf;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::{Client, Config, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How often a session is asked for its backend, each time in a transaction of its own: pools are small.
const TURNS: usize = 3;

/// Where the broker's Postgres is; holds no credential.
#[derive(Clone, Debug)]
pub struct Address {
    /// One for each host that may be the primary.
    hosts: Vec<Config>,
    tls: Tls,
    root_cert: Option<PathBuf>,
}

/// Why there is no connection, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is not a usable Postgres URL.
    #[error("database address: {0}")]
    Address(String),
    /// Certificate authorities could not be read, or the server's certificate does not hold.
    #[error("TLS to {target}: {reason}; check sslmode and sslrootcert in the database address")]
    Tls {
        /// Host and port.
        target: String,
        /// What rustls or the file system said.
        reason: String,
    },
    /// Nobody answers.
    #[error("cannot reach {target}: {reason}; check host and port, and that outbound connections to it are allowed")]
    Unreachable {
        /// Host and port.
        target: String,
        /// What the operating system said.
        reason: String,
    },
    /// The server does not accept the credential.
    #[error(
        "{target} refuses role {role}: {reason}; the credential was revoked or rotated, or the token is another database's"
    )]
    Credential {
        /// Host and port.
        target: String,
        /// The login role.
        role: String,
        /// What the server said.
        reason: String,
    },
    /// A pooler stands before the server, and lends a session for one transaction only.
    #[error(
        "{target} is a pooler in transaction mode: what a runner listens to, prepares and appends logs by ends with each transaction \
         there; use a pooler's session mode, or the server's own address"
    )]
    Pooled {
        /// Host and port.
        target: String,
    },
    /// The server answered with another error.
    #[error("{target}: {reason}")]
    Server {
        /// Host and port.
        target: String,
        /// What the server said.
        reason: String,
    },
}

impl Address {
    /// Parses `postgres://host[:port][,host[:port]...]/database[?sslmode=...&sslrootcert=...]`.
    ///
    /// `sslmode` is disable, require or verify-full. Without it, verify-full holds for every host but loopback and
    /// unix sockets. Of several hosts, the one that takes writes is found (`target_session_attrs=read-write` goes without saying).
    ///
    /// # Errors
    /// [`ConnectError::Address`] names what is wrong; a user or password in the address is refused, since the token
    /// carries both.
    pub fn parse(url: &str) -> Result<Self, ConnectError> {
        let bad = |text: &str| ConnectError::Address(text.to_owned());
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut tls, mut root_cert, mut rest, mut must_write) = (None, None, Vec::new(), false);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", "disable")) => tls = Some(Tls::Disable),
                Some(("sslmode", "require")) => tls = Some(Tls::Require),
                Some(("sslmode", "verify-full")) => tls = Some(Tls::VerifyFull),
                Some(("sslmode", _)) => return Err(bad("sslmode must be disable, require or verify-full")),
                Some(("sslrootcert", path)) => root_cert = Some(PathBuf::from(path.replace("%2F", "/"))),
                Some(("target_session_attrs", word)) if hosts::may_write(word) => must_write = true,
                Some(("target_session_attrs", _)) => return Err(bad("target_session_attrs must be read-write")),
                _ => rest.push(pair),
            }
        }
        let urls = hosts::each(&format!("{base}?{}", rest.join("&")));
        let mut hosts = urls.iter().map(|url| host(url)).collect::<Result<Vec<_>, _>>()?;
        if must_write || hosts.len() > 1 {
            for host in &mut hosts {
                host.target_session_attrs(TargetSessionAttrs::ReadWrite);
            }
        }
        // An address overrules the host's name when it comes to connecting.
        let addresses = |host: &Config| host.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback);
        let near = hosts.iter().all(|host| host.get_hosts().iter().all(is_near) && addresses(host));
        let tls = tls.unwrap_or(if near { Tls::Disable } else { Tls::VerifyFull });
        Ok(Self { hosts, tls, root_cert })
    }

    /// What the server's certificate must prove.
    pub fn tls(&self) -> Tls {
        self.tls
    }

    /// Host and port, of all hosts, for messages.
    pub fn target(&self) -> String {
        self.hosts.iter().map(target).collect::<Vec<_>>().join(",")
    }

    /// Every host that may be connected to over TCP, with its port.
    pub fn endpoints(&self) -> Vec<(String, u16)> {
        self.hosts.iter().flat_map(endpoints).collect()
    }

    /// Adds the credential, and so makes something that can connect.
    ///
    /// # Errors
    /// [`ConnectError::Tls`] when the certificate authorities cannot be read.
    pub fn connector(&self, token: &AgentToken) -> Result<Connector, ConnectError> {
        let mut hosts = self.hosts.clone();
        for config in &mut hosts {
            config
                .user(token.role())
                .password(token.secret())
                .connect_timeout(Duration::from_secs(10))
                .keepalives_idle(Duration::from_secs(15))
                .keepalives_interval(Duration::from_secs(5))
                .keepalives_retries(3)
                .tcp_user_timeout(Duration::from_secs(30))
                .ssl_mode(if self.tls == Tls::Disable { SslMode::Disable } else { SslMode::Require });
        }
        let tls = trust::client_config(self.tls, self.root_cert.as_deref())
            .map_err(|reason| ConnectError::Tls { target: self.target(), reason })?;
        let (tls, lead) = (MakeRustlsConnect::new(tls), Lead::default());
        Ok(Connector { hosts, lead, tls, target: self.target(), role: token.role() })
    }
}

/// The settings for one host.
fn host(url: &str) -> Result<Config, ConnectError> {
    let bad = |text: &str| ConnectError::Address(text.to_owned());
    let config: Config = url.parse().map_err(|e| {
        bad(&format!("{}; it looks like postgres://host:5432/database?sslmode=verify-full", root_cause(&e)))
    })?;
    if config.get_user().is_some() || config.get_password().is_some() {
        return Err(bad("must not hold a user or password: the agent token carries both"));
    }
    if config.get_hosts().is_empty() || config.get_dbname().is_none() {
        return Err(bad("needs a host and a database: postgres://host:5432/database"));
    }
    Ok(config)
}

fn target(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => String::new(),
    };
    format!("{host}:{}", config.get_ports().first().copied().unwrap_or(5432))
}

fn endpoints(config: &Config) -> Vec<(String, u16)> {
    let ports = config.get_ports();
    let port = |index: usize| ports.get(index).or(ports.first()).copied().unwrap_or(5432);
    let tcp = |(index, host): (usize, &Host)| match host {
        Host::Tcp(name) => Some((name.clone(), port(index))),
        Host::Unix(_) => None,
    };
    let named = config.get_hosts().iter().enumerate().filter_map(tcp);
    let addresses = config.get_hostaddrs().iter().enumerate();
    named.chain(addresses.map(|(index, address)| (address.to_string(), port(index)))).collect()
}

fn is_near(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    }
}

/// Address and credential together: opens connections.
#[derive(Clone)]
pub struct Connector {
    hosts: Vec<Config>,
    lead: Lead,
    tls: MakeRustlsConnect,
    target: String,
    role: String,
}

impl Connector {
    /// Opens one connection; `purpose` shows as `application_name` in `pg_stat_activity`.
    ///
    /// # Errors
    /// Any [`ConnectError`].
    pub async fn connect(&self, purpose: &str) -> Result<(Client, Driver), ConnectError> {
        self.open(purpose).await.map_err(|e| self.explain(&e))
    }

    /// Makes sure that a connection is a session of the server's, directly or through a pooler in session mode: two of them
    /// keep their backends, each its own, while one is in a transaction and when both are idle again. Transaction mode hands
    /// out whichever was free last, or whichever was free longest.
    ///
    /// # Errors
    /// [`ConnectError::Pooled`], or any other on the way.
    pub async fn require_sessions(&self) -> Result<(), ConnectError> {
        const BACKEND: &str = "-- which backend\nselect pg_backend_pid()";
        const HELD: &str = "-- which backend, and keep it\nbegin; select pg_backend_pid()";
        const LET_GO: &str = "-- let it go\nrollback";
        let ((one, first), (other, second)) = tokio::try_join!(self.connect("start"), self.connect("start"))?;
        let drivers = [tokio::spawn(first.run()), tokio::spawn(second.run())];
        let ask = async |client: &Client, sql: &str| {
            let messages = client.simple_query(sql).await.map_err(|error| self.explain(&error))?;
            Ok(messages.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            }))
        };
        let own = ask(&one, BACKEND).await?;
        let held = ask(&other, HELD).await?;
        let mut is_session = own != held;
        // Beside one that is held, and beside one that is free: where sessions take turns, two may fall out alike by chance.
        for turn in 0..2 * TURNS {
            if turn == TURNS {
                ask(&other, LET_GO).await?;
            }
            is_session &= ask(&one, BACKEND).await? == own;
        }
        drop((one, other));
        for driver in drivers {
            // Both have said goodbye by then: nothing of the check is left when the runner begins.
            drop(driver.await);
        }
        if is_session { Ok(()) } else { Err(ConnectError::Pooled { target: self.target.clone() }) }
    }

    async fn open(&self, purpose: &str) -> Result<(Client, Driver), tokio_postgres::Error> {
        let one = |host: usize| {
            let (mut config, tls) = (self.hosts[host].clone(), self.tls.clone());
            config.application_name(format!("tendril-runner {purpose}"));
            async move {
                let (client, mut line) = config.connect(tls).await?;
                let server = if self.hosts.len() > 1 { which_server(&client, &mut line).await? } else { None };
                Ok(((client, line), server))
            }
        };
        let ((client, line), term) = self.lead.follow(self.hosts.len(), one, weight).await?;
        Ok((client, Driver::new(line, self.lead.passed_on(term))))
    }

    /// What a pool opens its sessions with.
    pub fn for_pool(&self, purpose: &'static str) -> PoolConnector {
        PoolConnector { connector: self.clone(), purpose }
    }

    /// Turns a failed connection attempt into words.
    pub fn explain(&self, error: &tokio_postgres::Error) -> ConnectError {
        let target = self.target.clone();
        if let Some(db) = error.as_db_error() {
            let reason = match remedy(db.code().code()) {
                Some(remedy) => format!("{}; {remedy}", db.message()),
                None => db.message().to_owned(),
            };
            return match db.code().code() {
                // Not the credential: TLS does not end where the password was checked.
                "28000" if reason.contains("channel binding") => ConnectError::Tls { target, reason },
                code if is_credential(code) => ConnectError::Credential { target, role: self.role.clone(), reason },
                _ => ConnectError::Server { target, reason },
            };
        }
        let reason = root_cause(error);
        if std::error::Error::source(error).is_some_and(is_tls) || reason.contains("channel binding") {
            return ConnectError::Tls { target, reason };
        }
        ConnectError::Unreachable { target, reason }
    }
}

/// Opens the sessions of a pool.
pub struct PoolConnector {
    connector: Connector,
    purpose: &'static str,
}

impl deadpool_postgres::Connect for PoolConnector {
    fn connect(&self, _: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), tokio_postgres::Error>> {
        Box::pin(async {
            let (client, driver) = self.connector.open(self.purpose).await?;
            let driven = async {
                if let Err(error) = driver.run().await {
                    tracing::debug!(%error, "a session of the pool ended");
                }
            };
            Ok((client, tokio::spawn(driven)))
        })
    }
}

/// How much an error says: a server that answers more than one that is on its way, and that more than silence. A credential that
/// is refused where nobody has had a session says less than that: a standby that lags behind does not know it yet, while the primary
/// is the one that is silent. A standby that lets us in says nothing.
fn weight(error: &tokio_postgres::Error, had_a_session: bool) -> u8 {
    match error.as_db_error().map(|db| db.code().code()) {
        None if is_standby(error) => 0,
        Some(code) if is_credential(code) && !had_a_session => 1,
        None => 2,
        Some(code) if code.starts_with("57P") => 3,
        Some(_) => 4,
    }
}

fn is_credential(code: &str) -> bool {
    matches!(code, "28P01" | "28000")
}

/// A session came about, and takes no writes: the driver's own words, not the system's.
fn is_standby(error: &tokio_postgres::Error) -> bool {
    let inner = std::error::Error::source(error).and_then(|inner| inner.downcast_ref::<std::io::Error>());
    inner.is_some_and(|io| io.kind() == std::io::ErrorKind::PermissionDenied && io.raw_os_error().is_none())
}

/// What to do about errors of the server that do not say it.
fn remedy(code: &str) -> Option<&'static str> {
    match code {
        "3D000" => Some("check the database's name in the address"),
        "42501" => Some("an operator has to GRANT CONNECT; `tendril-broker doctor` names the statement"),
        "53300" => Some("all its connections are in use: run fewer runners, or raise the limit that is named"),
        _ => None,
    }
}

fn is_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let inner = error.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
    inner.is_some_and(|e| e.is::<rustls::Error>()) || error.is::<rustls::Error>() || error.to_string().contains("TLS")
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_host_is_verified_unless_the_address_says_otherwise() {
        assert_eq!(Address::parse("postgres://db.example.com/tendril").unwrap().tls(), Tls::VerifyFull);
        assert_eq!(Address::parse("postgres://db.example.com/t?sslmode=require").unwrap().tls(), Tls::Require);
        assert_eq!(Address::parse("postgres://127.0.0.1:5433/t").unwrap().tls(), Tls::Disable);
        assert_eq!(Address::parse("postgres://localhost/t").unwrap().target(), "localhost:5432");
        let elsewhere = "postgres://localhost/t?hostaddr=192.0.2.1";
        assert_eq!(Address::parse(elsewhere).unwrap().tls(), Tls::VerifyFull, "a near name at an address that is not");
        assert_eq!(Address::parse("postgres://127.0.0.1/t?sslmode=verify-full").unwrap().tls(), Tls::VerifyFull);
    }

    #[test]
    fn a_bad_address_is_refused_by_name() {
        for (url, word) in [
            ("postgres://u:p@h/t", "token"),
            ("postgres://h", "database"),
            ("mysql://h/t", "postgres://host"),
            ("postgres://h/t?sslmode=prefer", "sslmode"),
            ("postgres://h/t?colour=red", "colour"),
        ] {
            let said = Address::parse(url).unwrap_err().to_string();
            assert!(said.contains(word), "{url}: {said}");
        }
    }

    #[test]
    fn an_address_may_name_several_hosts_and_always_means_the_one_that_takes_writes() {
        let address = Address::parse("postgres://one,two:5433/t?target_session_attrs=read-write").unwrap();
        assert_eq!(address.target(), "one:5432,two:5433");
        assert_eq!(address.endpoints(), [("one".to_owned(), 5432), ("two".to_owned(), 5433)]);
        assert_eq!(address.tls(), Tls::VerifyFull);
        let writes = |host: &Config| host.get_target_session_attrs() == TargetSessionAttrs::ReadWrite;
        assert!(Address::parse("postgres://one,two/t").unwrap().hosts.iter().all(writes));
        // Tried: a standby, a host without a name, a credential for the second.
        for (url, word) in [
            ("postgres://one,two/t?target_session_attrs=standby", "read-write"),
            ("postgres://one,/t", "host"),
            ("postgres://one,u:p@two/t", "token"),
        ] {
            let said = Address::parse(url).unwrap_err().to_string();
            assert!(said.contains(word), "{url}: {said}");
        }
    }

    #[test]
    fn a_missing_authority_file_is_named() {
        let address = Address::parse("postgres://h/t?sslrootcert=/nowhere/ca.pem").unwrap();
        let token = "trt1.01a1fcd33b147d38b916592f23f46464.7.3c250084798c5d9773ba73b455a90fc6".parse().unwrap();
        let said = address.connector(&token).err().unwrap().to_string();
        assert!(said.contains("/nowhere/ca.pem"), "{said}");
    }
}
