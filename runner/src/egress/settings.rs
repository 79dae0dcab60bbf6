//! The operator's say: `[egress]` of the settings.

use super::rule::Rule;
use super::rules::{Closed, Limits, Rules, Token};
use super::upstream::{Exceptions, Upstream};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Whether jobs are held to the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They connect by themselves, to the ports of `sandbox.connect`.
    #[default]
    Off,
    /// They reach what is listed, through the proxy, and nothing else.
    Enforce,
}

/// `[egress]`, as written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Whether jobs are held to the list.
    pub mode: Mode,
    /// What they may reach.
    pub allow: Vec<Rule>,
    /// The proxy through which all of it goes; else that of the jobs' own variables, else none.
    pub upstream: Option<Upstream>,
    /// What does not go through it, as in NO_PROXY.
    pub upstream_except: Vec<String>,
    /// TCP ports that jobs may connect to past the proxy, at any address: for what knows no proxy.
    pub direct_ports: Vec<u16>,
    /// Whether jobs may send UDP, past the proxy.
    pub udp: bool,
    /// Connections of one command at once.
    pub max_connections: u32,
    /// Seconds for resolving a name and connecting.
    pub connect_timeout_s: u32,
    /// Seconds in which a request must be there.
    pub request_timeout_s: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Off,
            allow: Vec::new(),
            upstream: None,
            upstream_except: Vec::new(),
            direct_ports: Vec::new(),
            udp: false,
            max_connections: 256,
            connect_timeout_s: 10,
            request_timeout_s: 10,
        }
    }
}

impl Settings {
    /// Whether jobs are held to the list.
    #[must_use]
    pub fn is_enforced(&self) -> bool {
        self.mode == Mode::Enforce
    }

    /// What is wrong with a value: its key, and what would be right.
    ///
    /// # Errors
    /// The first that is.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if !(1..=4096).contains(&self.max_connections) {
            return Err(("egress.max_connections", "must be between 1 and 4096"));
        }
        if !(1..=300).contains(&self.connect_timeout_s) || !(1..=300).contains(&self.request_timeout_s) {
            return Err(("egress", "connect_timeout_s and request_timeout_s must be between 1 and 300"));
        }
        if self.direct_ports.contains(&0) {
            return Err(("egress.direct_ports", "ports from 1 to 65535"));
        }
        Ok(())
    }

    /// What the proxy of a command goes by; none where jobs are not held to the list. The proxy in the command's own
    /// variables, a customer's, becomes the one beyond.
    ///
    /// # Errors
    /// That one cannot be used.
    pub fn rules(
        &self,
        env: &BTreeMap<String, String>,
        template: Option<&[Rule]>,
        closed: Vec<Closed>,
        token: String,
    ) -> Result<Option<Rules>, String> {
        if !self.is_enforced() {
            return Ok(None);
        }
        let first = |names: &[&str]| names.iter().find_map(|name| env.get(*name).filter(|value| !value.is_empty()));
        let own = first(&["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"]);
        let (upstream, except) = match (&self.upstream, own) {
            (Some(upstream), _) => (Some(upstream.clone()), self.upstream_except.join(",")),
            (None, Some(url)) => {
                let read = Upstream::try_from(url.clone());
                let read = read.map_err(|why| {
                    format!("the proxy in the variables of jobs cannot be used: it {why}; set egress.upstream")
                })?;
                let except = first(&["NO_PROXY", "no_proxy"]).cloned().unwrap_or_default();
                (Some(read), [except, self.upstream_except.join(",")].join(","))
            }
            (None, None) => (None, String::new()),
        };
        Ok(Some(Rules {
            allow: self.allow.clone(),
            template: template.map(<[Rule]>::to_vec),
            closed,
            upstream,
            upstream_except: Exceptions::read(&except),
            token: Token(token),
            limits: Limits {
                connections: self.max_connections,
                head_ms: u64::from(self.request_timeout_s) * 1000,
                connect_ms: u64::from(self.connect_timeout_s) * 1000,
            },
        }))
    }
}

/// What no job may reach on this machine: the broker, at each of these hosts and ports, and the Kubernetes API, by the variables of
/// a pod.
#[must_use]
pub fn closed(broker: &[(String, u16)], own: &BTreeMap<String, String>) -> Vec<Closed> {
    let broker =
        broker.iter().map(|(host, port)| Closed { host: host.clone(), port: Some(*port), what: "the broker".into() });
    let kubernetes = own.get("KUBERNETES_SERVICE_HOST").into_iter();
    broker
        .chain(kubernetes.map(|host| Closed { host: host.clone(), port: None, what: "the Kubernetes API".into() }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_of_the_jobs_variables_becomes_the_one_beyond_unless_the_settings_name_another() {
        let env: BTreeMap<_, _> = [("HTTPS_PROXY", "http://u:p@corp:3128"), ("NO_PROXY", ".intern")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let mut settings = Settings { mode: Mode::Enforce, ..Settings::default() };
        let rules = |settings: &Settings, env| settings.rules(env, None, Vec::new(), "t".into());
        let own = rules(&settings, &env).unwrap().unwrap();
        assert_eq!(format!("{:?}", own.upstream), "Some(Upstream(corp:3128))");
        assert_eq!(own.upstream_except, Exceptions::read(".intern"));
        settings.upstream = Some(Upstream::try_from("http://other:1".to_owned()).unwrap());
        assert_eq!(format!("{:?}", rules(&settings, &env).unwrap().unwrap().upstream), "Some(Upstream(other:1))");
        settings.upstream = None;
        let socks = [("https_proxy".to_owned(), "socks5://a:1".to_owned())].into();
        assert!(rules(&settings, &socks).unwrap_err().contains("egress.upstream"));
        assert_eq!(rules(&Settings::default(), &socks), Ok(None), "nobody asks for it");
    }

    #[test]
    fn the_broker_is_closed_at_its_port_and_the_kubernetes_api_at_all() {
        let own = [("KUBERNETES_SERVICE_HOST".to_owned(), "10.96.0.1".to_owned())].into();
        let closed = closed(&[("db".to_owned(), 5432)], &own);
        let said: Vec<_> = closed.iter().map(|one| (one.host.as_str(), one.port)).collect();
        assert_eq!(said, [("db", Some(5432)), ("10.96.0.1", None)]);
    }
}
