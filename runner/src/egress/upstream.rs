//! The proxy beyond this one: a customer's own.

use super::network::Network;
use super::refusal::{Reason, Refusal};
use super::request::{Head, read_head};
use super::rule::{Rule, Says};
use super::target::{Host, Target};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// A proxy: `http://user:password@host:port`. `Debug` does not show the password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Upstream {
    url: String,
    target: Target,
    credential: Option<String>,
}

impl Upstream {
    /// The header that it wants, if any.
    pub(super) fn authorization(&self) -> String {
        let given = self.credential.as_deref();
        given.map(|basic| format!("Proxy-Authorization: Basic {basic}\r\n")).unwrap_or_default()
    }

    /// A connection to it.
    pub(super) async fn connect(&self, network: &impl Network) -> Result<TcpStream, Refusal> {
        let refuse = |why: String| refusal(&self.target, format!("the proxy {} cannot be reached: {why}", self.target));
        let (name, port) = (self.target.host.to_string(), self.target.port);
        let addresses = match &self.target.host {
            Host::Address(address) => Ok(vec![(*address, port).into()]),
            Host::Name(_) => network.resolve(&name, port).await,
        };
        let mut last = "its name has no address".to_owned();
        for address in addresses.map_err(|error| refuse(error.to_string()))? {
            match network.connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error.to_string(),
            }
        }
        Err(refuse(last))
    }

    /// A tunnel through it, and what came right behind its answer.
    pub(super) async fn tunnel(
        &self,
        network: &impl Network,
        target: &Target,
        within: Duration,
    ) -> Result<(TcpStream, Vec<u8>), Refusal> {
        let mut stream = self.connect(network).await?;
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{}\r\n", self.authorization());
        let silent = |_| refusal(target, format!("the proxy {} did not answer for {target}", self.target));
        stream.write_all(request.as_bytes()).await.map_err(|_| silent(()))?;
        let Head { head, rest } = read_head(&mut stream, within).await.map_err(|_| silent(()))?;
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(&head).map_err(|_| silent(()))?;
        match response.code.filter(|_| parsed.is_complete()) {
            Some(200..=299) => Ok((stream, rest)),
            code => {
                let words: String = response.reason.unwrap_or_default().chars().take(100).collect();
                let code = code.unwrap_or_default();
                let text = format!("the proxy {} refuses {target}: {code} {words}; ask who runs it", self.target);
                Err(refusal(target, text))
            }
        }
    }

    /// The password, where there is one: it is not to be shown.
    #[must_use]
    pub fn password(&self) -> Option<&str> {
        let (_, rest) = self.url.split_once("://")?;
        let (user, _) = rest.rsplit_once('@')?;
        user.split_once(':').map(|(_, password)| password)
    }
}

fn refusal(target: &Target, text: String) -> Refusal {
    Refusal::new(target, Reason::Upstream, text)
}

impl TryFrom<String> for Upstream {
    type Error = String;

    fn try_from(url: String) -> Result<Self, String> {
        let wanted = "must look like http://proxy.example.com:3128";
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", &url));
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(format!("{wanted}; a proxy that is spoken to by {scheme} is not known here"));
        }
        let rest = rest.trim_end_matches('/');
        let (user, authority) = rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
        let target = Target::parse(authority, Some(80)).map_err(|why| format!("{wanted}: {authority:?} {why}"))?;
        let credential = user.map(|user| STANDARD.encode(percent_decoded(user)));
        Ok(Self { credential, target, url })
    }
}

/// User and password as they were before they were written into an address. A sign without two digits stands for itself.
#[must_use]
pub fn percent_decoded(text: &str) -> Vec<u8> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        // Digits only: a number may have a sign, and `%+1` is no byte.
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => bytes.extend([&[byte], &part.as_bytes()[2..]].concat()),
            None => bytes.extend([b"%", part.as_bytes()].concat()),
        }
    }
    bytes
}

impl From<Upstream> for String {
    fn from(upstream: Upstream) -> Self {
        upstream.url
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream({})", self.target)
    }
}

/// What goes past the proxy beyond, as NO_PROXY lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Exceptions(Vec<String>);

impl Exceptions {
    /// Reads `a.example,.intern.example,10.0.0.0/8,*`.
    #[must_use]
    pub fn read(list: &str) -> Self {
        Self(list.split([',', ' ']).map(str::trim).filter(|one| !one.is_empty()).map(str::to_ascii_lowercase).collect())
    }

    /// Whether the target is one of them. A name means what is below it too.
    #[must_use]
    pub fn has(&self, target: &Target) -> bool {
        let is = |entry: &String| {
            if entry == "*" {
                return true;
            }
            let with_port = entry.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']'));
            let (hosts, port) =
                with_port.map_or((entry.as_str(), None), |(hosts, port)| (hosts, port.parse::<u16>().ok()));
            if port.is_some_and(|port| port != target.port) {
                return false;
            }
            let domain = hosts.trim_start_matches("*.").trim_start_matches('.');
            let below =
                |name: &str| name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
            match &target.host {
                Host::Name(name) => !domain.is_empty() && below(name),
                Host::Address(address) if address.is_ipv6() && !hosts.starts_with('[') => {
                    within(&bracketed(hosts), target)
                }
                Host::Address(_) => within(hosts, target),
            }
        };
        self.0.iter().any(is)
    }
}

fn bracketed(net: &str) -> String {
    match net.split_once('/') {
        Some((net, bits)) => format!("[{net}]/{bits}"),
        None => format!("[{net}]"),
    }
}

fn within(net: &str, target: &Target) -> bool {
    Rule::try_from(format!("{net}:*")).is_ok_and(|rule| rule.says(target, None) == Says::Yes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_read_with_its_credential_which_is_not_shown() {
        let read = |url: &str| Upstream::try_from(url.to_owned());
        let proxy = read("http://me:p%40ss@proxy.example.com:3128/").unwrap();
        assert_eq!(proxy.authorization(), format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode("me:p@ss")));
        assert!(!format!("{proxy:?}").contains("p%40ss") && proxy.password() == Some("p%40ss"));
        assert_eq!(read("proxy:8080").unwrap().authorization(), "");
        for bad in ["https://proxy:1", "socks5://proxy:1", "http://", "http://proxy:x"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_escape_stands_for_itself() {
        for (text, decoded) in
            [("p%40ss", "p@ss"), ("%", "%"), ("%4", "%4"), ("%+1", "%+1"), ("%é1", "%é1"), ("%41%", "A%")]
        {
            assert_eq!(percent_decoded(text), decoded.as_bytes(), "{text}");
        }
    }

    #[test]
    fn what_goes_past_it_is_read_as_programs_read_no_proxy() {
        let list = Exceptions::read("intern.example, .svc,10.0.0.0/8 ,[2001:db8::1],fd00::/8,special.example:8443");
        let has = |text: &str| list.has(&Target::parse(text, None).unwrap());
        for past in [
            "intern.example:1",
            "a.intern.example:1",
            "x.svc:1",
            "10.9.9.9:1",
            "[2001:db8::1]:1",
            "[fd00::2]:1",
            "special.example:8443",
        ] {
            assert!(has(past), "{past}");
        }
        for through in ["notintern.example:1", "11.0.0.1:1", "special.example:1", "[2001:db8::2]:1"] {
            assert!(!has(through), "{through}");
        }
        assert!(Exceptions::read("*").has(&Target::parse("a:1", None).unwrap()));
    }
}
