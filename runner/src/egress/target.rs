//! Where a request wants to go, in one spelling.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Longest name of a host, as DNS has it.
const MAX_NAME_BYTES: usize = 253;

/// A host, in one spelling: lower case, no dot at the end, addresses as addresses.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub enum Host {
    /// A name.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// A host and a port.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
}

impl Host {
    /// Reads a name, an IPv4 address, or an IPv6 address in brackets or without.
    ///
    /// # Errors
    /// What is wrong with it. Addresses in unusual spellings (`0x7f.1`, `2130706433`) are refused rather than understood: two
    /// readers might understand them differently.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or("has no closing bracket")?;
            return inner.parse::<Ipv6Addr>().map(|ip| Self::Address(IpAddr::V6(ip))).map_err(|_| "is no IPv6 address");
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        };
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.split('.').all(is_label) {
            return Err("is no name of a host");
        }
        // What a C library would read as an address.
        let last = name.rsplit('.').next().unwrap_or_default();
        let hex = last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
        match hex || last.bytes().all(|b| b.is_ascii_digit()) {
            true => Err("is an address in an unusual spelling; write it as 192.0.2.1"),
            false => Ok(Self::Name(name)),
        }
    }
}

impl Target {
    /// Reads `host:port`; without a port it is `default`, if there is one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, default: Option<u16>) -> Result<Self, &'static str> {
        let (host, port) = match text.rsplit_once(':') {
            // The colons of an address are not that of a port.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let port = match (port, default) {
            // A sign would be read, too.
            (Some(port), _) if port.bytes().all(|b| b.is_ascii_digit()) => port.parse().ok(),
            (None, Some(default)) => Some(default),
            _ => None,
        };
        match port {
            Some(port) if port > 0 => Ok(Self { host: Host::parse(host)?, port }),
            _ => Err("needs a port from 1 to 65535"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_spelling() {
        for (text, shown) in [
            ("Registry.Terraform.IO.:443", "registry.terraform.io:443"),
            ("192.0.2.1:8443", "192.0.2.1:8443"),
            ("[2001:DB8::0001]:443", "[2001:db8::1]:443"),
            ("xn--bcher-kva.example:1", "xn--bcher-kva.example:1"),
            ("a_b.example", "a_b.example:443"),
            ("2001:db8::1", "[2001:db8::1]:443"),
        ] {
            assert_eq!(Target::parse(text, Some(443)).unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn odd_spellings_are_refused_and_not_guessed() {
        for text in [
            "",
            ":443",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a:1:2",
            "a b:443",
            "a..b:443",
            "-a:443",
            "a\u{0}:443",
            "bücher.example:443",
            "2130706433:80",
            "0x7f000001:80",
            "0x7f.1:80",
            "127.1:80",
            "0177.0.0.1:80",
            "127.0.0.1.:80",
            "1.2.3.4.5:80",
            "a.0x1:80",
            "[::1:80",
            "[::1]80",
            "[fe80::1%eth0]:80",
            "[127.0.0.1]:80",
            "user@host:80",
            "host/path:80",
        ] {
            assert!(Target::parse(text, None).is_err(), "{text:?}");
        }
        assert!(Target::parse(&format!("{}:1", "a.".repeat(200)), None).is_err());
    }
}
