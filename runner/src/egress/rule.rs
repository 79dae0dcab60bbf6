//! One entry of an allow-list.

use super::target::{Host, Target};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// Without a port, it is this one.
const USUAL_PORT: u16 = 443;

/// Hosts and a port that may be reached: `registry.terraform.io:443`, `*.amazonaws.com` (port 443), `10.0.0.0/8:5432`,
/// `[2001:db8::]/32:443`, `example.com:*`, `*:443`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    hosts: Hosts,
    /// None for all.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    All,
    One(String),
    /// All names that end so; the first character is a dot.
    Below(String),
    Net(IpAddr, u8),
}

/// What a rule says of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    Yes,
    No,
    /// That depends on the addresses of its name.
    ByAddress,
}

impl Rule {
    /// What it says of a target whose name has these addresses, when they are known.
    pub(super) fn says(&self, target: &Target, addresses: Option<&[IpAddr]>) -> Says {
        if self.port.is_some_and(|port| port != target.port) {
            return Says::No;
        }
        let yes = match (&self.hosts, &target.host, addresses) {
            (Hosts::All, _, _) => true,
            (Hosts::One(one), Host::Name(name), _) => one == name,
            (Hosts::Below(suffix), Host::Name(name), _) => name.len() > suffix.len() && name.ends_with(suffix.as_str()),
            (Hosts::Net(net, bits), Host::Address(address), _) => lies_in(*address, *net, *bits),
            (Hosts::Net(net, bits), Host::Name(_), Some(all)) => {
                !all.is_empty() && all.iter().all(|address| lies_in(*address, *net, *bits))
            }
            (Hosts::Net(..), Host::Name(_), None) => return Says::ByAddress,
            (Hosts::One(_) | Hosts::Below(_), Host::Address(_), _) => false,
        };
        if yes { Says::Yes } else { Says::No }
    }
}

/// An address of IPv4 that was mapped into IPv6 is one of IPv4.
fn lies_in(address: IpAddr, net: IpAddr, bits: u8) -> bool {
    match (address.to_canonical(), net.to_canonical()) {
        (IpAddr::V4(address), IpAddr::V4(net)) => {
            u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0) & (address.to_bits() ^ net.to_bits()) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(net)) => {
            u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0) & (address.to_bits() ^ net.to_bits())
                == 0
        }
        _ => false,
    }
}

impl TryFrom<String> for Rule {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let refuse =
            |why: &str| format!("{text:?} {why}; write host, host:port, *.domain:port, address/bits:port or host:*");
        let (hosts, port) = match text.rsplit_once(':') {
            Some((hosts, port)) if !hosts.contains(':') || hosts.contains(']') => (hosts, Some(port)),
            _ => (text.as_str(), None),
        };
        let port = match port {
            None => Some(USUAL_PORT),
            Some("*") => None,
            // A sign would be read, too.
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
                Some(port.parse().ok().filter(|port| *port > 0).ok_or_else(|| refuse("has no port"))?)
            }
            Some(_) => return Err(refuse("has no port")),
        };
        let hosts = match hosts {
            "*" => Hosts::All,
            _ => match (hosts.strip_prefix('*'), hosts.split_once('/')) {
                (Some(suffix), _) => match (suffix.strip_prefix('.'), Host::parse(suffix.trim_start_matches('.'))) {
                    (Some(_), Ok(Host::Name(name))) => Hosts::Below(format!(".{name}")),
                    _ => return Err(refuse("has a star that is not a whole part of the name")),
                },
                (None, Some((net, bits))) if !bits.starts_with('+') => match (Host::parse(net), bits.parse::<u8>()) {
                    (Ok(Host::Address(net)), Ok(bits)) if bits <= if net.is_ipv4() { 32 } else { 128 } => {
                        Hosts::Net(net, bits)
                    }
                    _ => return Err(refuse("is no network")),
                },
                (None, Some(_)) => return Err(refuse("is no network")),
                (None, None) => match Host::parse(hosts).map_err(refuse)? {
                    Host::Name(name) => Hosts::One(name),
                    Host::Address(address) => Hosts::Net(address, if address.is_ipv4() { 32 } else { 128 }),
                },
            },
        };
        Ok(Self { hosts, port })
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hosts {
            Hosts::All => f.write_str("*")?,
            Hosts::One(name) => f.write_str(name)?,
            Hosts::Below(suffix) => write!(f, "*{suffix}")?,
            Hosts::Net(net, bits) => write!(f, "{}/{bits}", Host::Address(*net))?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => f.write_str(":*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        Rule::try_from(text.to_owned()).unwrap_or_else(|error| panic!("{error}"))
    }

    fn says(text: &str, target: &str, addresses: Option<&[&str]>) -> Says {
        let addresses: Option<Vec<IpAddr>> = addresses.map(|all| all.iter().map(|one| one.parse().unwrap()).collect());
        rule(text).says(&Target::parse(target, None).unwrap(), addresses.as_deref())
    }

    #[test]
    fn a_rule_means_hosts_and_a_port_and_nothing_beside_them() {
        for (text, target, expected) in [
            ("registry.terraform.io", "registry.terraform.io:443", Says::Yes),
            ("Registry.Terraform.io:443", "REGISTRY.terraform.io.:443", Says::Yes),
            ("registry.terraform.io", "registry.terraform.io:80", Says::No),
            ("registry.terraform.io", "registry.terraform.io.evil.example:443", Says::No),
            ("*.amazonaws.com", "s3.eu-west-1.amazonaws.com:443", Says::Yes),
            ("*.amazonaws.com", "amazonaws.com:443", Says::No),
            ("*.amazonaws.com", "evilamazonaws.com:443", Says::No),
            ("example.com:*", "example.com:1", Says::Yes),
            ("*:443", "anything.example:443", Says::Yes),
            ("*:443", "192.0.2.1:443", Says::Yes),
            ("10.0.0.0/8:5432", "10.255.0.1:5432", Says::Yes),
            ("10.0.0.0/8:5432", "[::ffff:10.0.0.1]:5432", Says::Yes),
            ("10.0.0.0/8:5432", "11.0.0.1:5432", Says::No),
            ("192.0.2.1", "192.0.2.1:443", Says::Yes),
            ("192.0.2.1", "192.0.2.2:443", Says::No),
            ("[2001:db8::]/32:443", "[2001:db8:1::1]:443", Says::Yes),
            ("[2001:db8::1]", "[2001:db8::2]:443", Says::No),
            ("0.0.0.0/0:*", "198.51.100.7:9", Says::Yes),
            ("0.0.0.0/0:*", "[2001:db8::1]:9", Says::No),
            ("10.0.0.0/8:443", "intern.example:443", Says::ByAddress),
        ] {
            assert_eq!(says(text, target, None), expected, "{text} {target}");
        }
        let net = "10.0.0.0/8:443";
        assert_eq!(says(net, "intern.example:443", Some(&["10.0.0.1", "10.1.0.1"])), Says::Yes);
        assert_eq!(says(net, "intern.example:443", Some(&["10.0.0.1", "192.0.2.1"])), Says::No, "all of them count");
        assert_eq!(says(net, "intern.example:443", Some(&[])), Says::No);
    }

    #[test]
    fn a_rule_that_could_be_misread_is_refused_and_others_are_written_as_they_are_read() {
        for bad in [
            "",
            "a b",
            "*evil.com",
            "a.*.com",
            "*.",
            "a:0",
            "a:x",
            "a:+443",
            "http://a",
            "a/b",
            "10.0.0.0/33:1",
            "10.0.0.0/+8:1",
            "[::]/129:1",
            "127.1:80",
            "a:*:1",
        ] {
            assert!(Rule::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        for text in ["a.example:443", "*.a.example:8443", "*:*", "10.0.0.0/8:5432", "[2001:db8::]/32:443"] {
            assert_eq!(rule(text).to_string(), text);
        }
    }
}
