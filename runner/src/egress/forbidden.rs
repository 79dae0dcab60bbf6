//! What no setting opens: the machine itself, its links, and what hands out credentials to whoever asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const METADATA: &str = "a cloud's metadata service, which hands out the machine's own credentials";
const OWN: &str = "an address of the machine itself";
const LINK: &str = "a link-local address, where clouds keep their metadata";
const NO_HOST: &str = "no address of a single host";

/// Metadata services at addresses that are not link-local: Alibaba, Oracle, Azure's agent.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(168, 63, 129, 16)];
/// Names by which clouds and machines call such addresses.
const NAMES: [(&str, &str); 9] = [
    ("metadata.google.internal", METADATA),
    ("metadata.goog", METADATA),
    ("metadata", METADATA),
    ("instance-data", METADATA),
    ("instance-data.ec2.internal", METADATA),
    ("metadata.azure.internal", METADATA),
    ("metadata.tencentyun.com", METADATA),
    ("localhost", OWN),
    ("localhost.localdomain", OWN),
];
/// Kubernetes' API by name.
const KUBERNETES: [&str; 4] =
    ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];

/// What a name stands for, if no job may reach it. The name is in lower case, without a dot at its end.
pub(super) fn name(name: &str) -> Option<&'static str> {
    if KUBERNETES.contains(&name) {
        return Some("the Kubernetes API");
    }
    let by_suffix = name.ends_with(".localhost").then_some(OWN);
    NAMES.iter().find(|(one, _)| *one == name).map(|(_, what)| *what).or(by_suffix)
}

/// What an address is, if no job may reach it; also when it is hidden in one of IPv6.
pub(super) fn address(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => v4(address),
        IpAddr::V6(address) => v6(address),
    }
}

fn v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        _ if METADATA_V4.contains(&address) => Some(METADATA),
        [169, 254, ..] => Some(LINK),
        [0 | 127, ..] => Some(OWN),
        [224..=255, ..] => Some(NO_HOST),
        _ => None,
    }
}

fn v6(address: Ipv6Addr) -> Option<&'static str> {
    if let Some(hidden) = hidden(address) {
        return v4(hidden);
    }
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Some(OWN),
        // Amazon's and Google's, among addresses that are private otherwise.
        [0xfd00, 0x0ec2, ..] | [0xfd20, 0x00ce, ..] => Some(METADATA),
        // Link-local, and site-local, which is out of use.
        [0xfe80..=0xfeff, ..] => Some(LINK),
        [0xff00..=0xffff, ..] => Some(NO_HOST),
        _ => None,
    }
}

/// The address of IPv4 that is meant by one of IPv6: mapped, compatible, translated (NAT64), or tunnelled (6to4, Teredo, ISATAP).
fn hidden(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let pair = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => pair(high, low),
        [0x64, 0xff9b, 0 | 1, .., high, low] => pair(high, low),
        [0x2002, high, low, ..] => pair(high, low),
        [0x2001, 0, .., high, low] => pair(!high, !low),
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => pair(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_job_may_reach_is_known_in_every_spelling_of_its_address() {
        for bad in [
            "127.0.0.1",
            "127.255.0.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.170.2",
            "169.254.170.23",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "::ffff:0:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::7f00:1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2001:0:1:2:3:4:5601:5601",
            "2001:db8::5efe:7f00:1",
            "fd00::200:5efe:169.254.169.254",
        ] {
            assert!(address(bad.parse().unwrap()).is_some(), "{bad}");
        }
        for good in [
            "192.0.2.1",
            "10.0.0.1",
            "172.16.0.1",
            "100.64.0.1",
            "8.8.8.8",
            "2001:db8::1",
            "fd00::2",
            "::ffff:192.0.2.1",
            "64:ff9b::c000:201",
        ] {
            assert_eq!(address(good.parse().unwrap()), None, "{good}");
        }
    }

    #[test]
    fn names_of_metadata_services_of_this_machine_and_of_the_kubernetes_api_are_known() {
        for bad in ["metadata.google.internal", "localhost", "a.localhost", "kubernetes.default.svc", "instance-data"] {
            assert!(name(bad).is_some(), "{bad}");
        }
        for good in ["metadata.example.com", "localhost.example.com", "registry.terraform.io"] {
            assert_eq!(name(good), None, "{good}");
        }
    }
}
