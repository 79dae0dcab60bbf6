//! Addresses of repositories: https and ssh, and nothing that git would read as something else.

use std::fmt;

/// An address that git may be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    url: String,
    /// How it is reached.
    pub transport: Transport,
    /// Host, with its port unless that is the usual one; in lower case.
    pub host: String,
}

/// How a repository is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `https://host/path`
    Https,
    /// `ssh://user@host/path` or `user@host:path`
    Ssh,
}

impl Transport {
    /// Git's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Ssh => "ssh",
        }
    }
}

impl Address {
    /// Reads an address. What is refused here never reaches git: other transports (`file`, `ext`, plain `http`), a
    /// password, a query, whatever begins like an option.
    ///
    /// # Errors
    /// What would do instead.
    pub fn parse(url: &str) -> Result<Self, String> {
        let parsed = match (url.strip_prefix("https://"), url.strip_prefix("ssh://")) {
            (Some(rest), _) => in_url(rest, false).map(|host| (Transport::Https, without_port(&host, ":443"))),
            (None, Some(rest)) => in_url(rest, true).map(|host| (Transport::Ssh, without_port(&host, ":22"))),
            (None, None) => short(url).map(|host| (Transport::Ssh, host)),
        };
        let (transport, host) = parsed.ok_or_else(|| {
            "must be https://host/path, ssh://user@host/path or user@host:path, without a password".to_owned()
        })?;
        Ok(Self { url: url.to_owned(), transport, host: host.to_ascii_lowercase() })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// The host of `[user@]host[:port]/path`.
fn in_url(rest: &str, may_name_user: bool) -> Option<String> {
    let (authority, path) = rest.split_once('/')?;
    let host = match authority.split_once('@') {
        Some((user, host)) if may_name_user && is_user(user) => host,
        Some(_) => return None,
        None => authority,
    };
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let port_fits = port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    (is_host(name) && port_fits && is_path(path)).then(|| host.to_owned())
}

/// The host of `user@host:path`.
fn short(url: &str) -> Option<String> {
    let (user, rest) = url.split_once('@')?;
    let (host, path) = rest.split_once(':')?;
    (is_user(user) && is_host(host) && is_path(path)).then(|| host.to_owned())
}

fn without_port(host: &str, usual: &str) -> String {
    host.strip_suffix(usual).unwrap_or(host).to_owned()
}

fn is_user(user: &str) -> bool {
    user.starts_with(|c: char| c.is_ascii_lowercase())
        && user.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b))
}

fn is_host(host: &str) -> bool {
    host.starts_with(|c: char| c.is_ascii_alphanumeric())
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b))
}

fn is_path(path: &str) -> bool {
    path.starts_with(|c: char| c.is_ascii_alphanumeric() || "_~.".contains(c))
        && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"_./~+-".contains(&b))
}

/// A branch, a tag or a whole commit id: never an option, a pattern or two names.
pub fn is_reference(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && name.len() <= 255
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_./+-".contains(&b))
        && !["..", "//", "/."].iter().any(|bad| name.contains(bad))
        && !["/", ".", ".lock"].iter().any(|bad| name.ends_with(bad))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_and_ssh_are_taken_and_their_hosts_known() {
        for (url, transport, host) in [
            ("https://github.com/acme/infra.git", Transport::Https, "github.com"),
            ("https://Git.Example.com:8443/a/~b/c_d+e", Transport::Https, "git.example.com:8443"),
            ("https://git.example.com:443/x", Transport::Https, "git.example.com"),
            ("ssh://git@host:2222/a/b", Transport::Ssh, "host:2222"),
            ("ssh://host/a", Transport::Ssh, "host"),
            ("git@github.com:acme/infra.git", Transport::Ssh, "github.com"),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!(
                (address.transport, address.host.as_str(), address.to_string().as_str()),
                (transport, host, url)
            );
        }
    }

    #[test]
    fn whatever_else_git_would_understand_is_refused() {
        for url in [
            "",
            "file:///etc",
            "/etc",
            "../x",
            "./x",
            "http://host/x",
            "git://host/x",
            "ext::sh -c id",
            "https::ext::sh",
            "fd::7",
            "ftp://host/x",
            "--upload-pack=touch /tmp/x",
            "-oProxyCommand=id@host:x",
            "git@-oProxyCommand=id:x",
            "ssh://-oProxyCommand=id/x",
            "ssh://git@-oProxyCommand=id/x",
            "ssh://u:p@host/x",
            "https://user:token@host/x",
            "https://token@host/x",
            "https://host/x?y",
            "https://host/x#y",
            "https://host/-x",
            "https://host/",
            "https://host",
            "https://[::1]/x",
            "https://host:/x",
            "https://host:8a/x",
            "https://host/x y",
            "https://host/x\ny",
            "https://host/x;id",
            "git@host:-x",
            "git@host:$(id)",
            "host:path",
            "C:/x",
        ] {
            assert!(Address::parse(url).is_err(), "{url} was taken");
        }
    }

    #[test]
    fn a_reference_is_one_plain_name() {
        for good in ["main", "feature/x-1", "v1.2.3", "0123456789abcdef0123456789abcdef01234567", "_x", "a+b"] {
            assert!(is_reference(good), "{good}");
        }
        for bad in [
            "",
            "-x",
            "--upload-pack=x",
            "a:b",
            "+a",
            "a b",
            "a..b",
            "a*",
            "a/",
            "a.lock",
            "a//b",
            "a@{1}",
            "a^",
            "/a",
            "a/.b",
        ] {
            assert!(!is_reference(bad), "{bad}");
        }
    }
}
