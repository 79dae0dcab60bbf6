//! What one command may reach: decided by functions without any effect.

use super::forbidden;
use super::refusal::{Reason, Refusal};
use super::rule::{Rule, Says};
use super::target::{Host, Target};
use super::upstream::{Exceptions, Upstream};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// All that the proxy of a command goes by; travels with the step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// What the settings allow.
    pub allow: Vec<Rule>,
    /// What the job's template wants of it; all, if none.
    pub template: Option<Vec<Rule>>,
    /// What is closed beside what is closed for all.
    pub closed: Vec<Closed>,
    /// Through which proxy, if not directly.
    pub upstream: Option<Upstream>,
    /// What goes past that proxy.
    pub upstream_except: Exceptions,
    /// What the command's requests must bear. Never shown.
    pub token: Token,
    /// Bounds.
    pub limits: Limits,
}

/// A secret that `Debug` does not show.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(pub String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// Something that no job may reach, whatever is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// Its name or address.
    pub host: String,
    /// Its port; all, if none.
    pub port: Option<u16>,
    /// What it is, for people.
    pub what: String,
}

/// Bounds of a command's proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Connections at once.
    pub connections: u32,
    /// How long a request's head may take, in milliseconds.
    pub head_ms: u64,
    /// How long resolving and connecting may take together, in milliseconds.
    pub connect_ms: u64,
}

impl Closed {
    /// Whether it may be what the target is, going by the port alone.
    fn is_near(&self, target: &Target) -> bool {
        self.port.is_none_or(|port| port == target.port)
    }

    fn refusal(&self, target: &Target) -> Refusal {
        forbidden_as(target, &self.what)
    }
}

impl Rules {
    /// What can be said before a name is resolved.
    ///
    /// # Errors
    /// The refusal.
    pub fn first_look(&self, target: &Target) -> Result<(), Refusal> {
        let what = match &target.host {
            Host::Name(name) => forbidden::name(name),
            Host::Address(address) => forbidden::address(*address),
        };
        if let Some(what) = what {
            return Err(forbidden_as(target, what));
        }
        let same = |closed: &&Closed| closed.is_near(target) && Host::parse(&closed.host).as_ref() == Ok(&target.host);
        if let Some(closed) = self.closed.iter().find(same) {
            return Err(closed.refusal(target));
        }
        self.listed(target, None)
    }

    /// What is to be said once all addresses of the target are known, and those of what is closed: `known` resolves a name.
    /// All addresses count, whichever one is connected to: a name with one that is forbidden is not trusted with the others.
    ///
    /// # Errors
    /// The refusal.
    pub fn check(&self, target: &Target, addresses: &[IpAddr], closed: &[(usize, IpAddr)]) -> Result<(), Refusal> {
        if let Some(what) = addresses.iter().find_map(|address| forbidden::address(*address)) {
            return Err(forbidden_as(target, what));
        }
        let mut same = closed
            .iter()
            .filter(|(_, one)| addresses.iter().any(|address| address.to_canonical() == one.to_canonical()));
        if let Some(closed) = same.next().and_then(|(index, _)| self.closed.get(*index)) {
            return Err(closed.refusal(target));
        }
        self.listed(target, Some(addresses))
    }

    /// What is closed and could be meant by the target: these names are to be resolved beside it.
    pub fn near(&self, target: &Target) -> impl Iterator<Item = (usize, &Closed)> {
        self.closed.iter().enumerate().filter(|(_, closed)| closed.is_near(target))
    }

    /// The proxy beyond this one, if the target goes through it.
    #[must_use]
    pub fn upstream_for(&self, target: &Target) -> Option<&Upstream> {
        self.upstream.as_ref().filter(|_| !self.upstream_except.has(target))
    }

    fn listed(&self, target: &Target, addresses: Option<&[IpAddr]>) -> Result<(), Refusal> {
        if !is_listed(&self.allow, target, addresses) {
            let text = format!(
                "{target} is not among the hosts that jobs may reach here; to allow it, add \"{target}\" to egress.allow of this runner's settings"
            );
            return Err(Refusal::new(target, Reason::NotAllowed, text));
        }
        match &self.template {
            Some(list) if !is_listed(list, target, addresses) => {
                let text = format!(
                    "{target} is not among the hosts that the job's template reaches; to allow it, add \"{target}\" to egress in its template.yaml"
                );
                Err(Refusal::new(target, Reason::NotInTemplate, text))
            }
            _ => Ok(()),
        }
    }
}

fn is_listed(rules: &[Rule], target: &Target, addresses: Option<&[IpAddr]>) -> bool {
    rules.iter().any(|rule| rule.says(target, addresses) != Says::No)
}

fn forbidden_as(target: &Target, what: &str) -> Refusal {
    let text = format!("{target} is {what}: no job may reach it, and no setting opens it");
    Refusal::new(target, Reason::Forbidden, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[&str], template: Option<&[&str]>) -> Rules {
        let list = |all: &[&str]| all.iter().map(|one| Rule::try_from((*one).to_owned()).unwrap()).collect();
        Rules {
            allow: list(allow),
            template: template.map(list),
            closed: vec![
                Closed { host: "db.example.com".into(), port: Some(5432), what: "the broker".into() },
                Closed { host: "10.96.0.1".into(), port: None, what: "the Kubernetes API".into() },
            ],
            upstream: None,
            upstream_except: Exceptions::default(),
            token: Token("t".into()),
            limits: Limits { connections: 1, head_ms: 1, connect_ms: 1 },
        }
    }

    fn target(text: &str) -> Target {
        Target::parse(text, None).unwrap()
    }

    #[test]
    fn a_template_narrows_what_the_settings_allow_and_widens_nothing() {
        let both = rules(&["*.example.com:443"], Some(&["a.example.com", "b.other.example"]));
        assert_eq!(both.first_look(&target("a.example.com:443")), Ok(()));
        let refused = both.first_look(&target("b.example.com:443")).unwrap_err();
        assert!(refused.reason == Reason::NotInTemplate && refused.text.contains("template.yaml"), "{refused:?}");
        let refused = both.first_look(&target("b.other.example:443")).unwrap_err();
        assert!(refused.reason == Reason::NotAllowed && refused.text.contains("egress.allow"), "{refused:?}");
        assert!(rules(&["*:*"], Some(&[])).first_look(&target("a.example.com:443")).is_err(), "an empty list is none");
    }

    #[test]
    fn what_is_closed_stays_closed_by_name_by_address_and_by_another_name() {
        let open = rules(&["*:*"], None);
        for closed in [
            "db.example.com:5432",
            "DB.example.com.:5432",
            "10.96.0.1:443",
            "[::ffff:127.0.0.1]:1",
            "localhost:1",
            "169.254.169.254:80",
        ] {
            assert_eq!(open.first_look(&target(closed)).unwrap_err().reason, Reason::Forbidden, "{closed}");
        }
        assert_eq!(open.first_look(&target("db.example.com:443")), Ok(()), "another port of the broker's host");
        // Tried: another name for the broker, one with a forbidden address among good ones, a mapped one.
        let broker: IpAddr = "192.0.2.7".parse().unwrap();
        let alias = target("alias.example:5432");
        let near: Vec<usize> = open.near(&alias).map(|(index, _)| index).collect();
        assert_eq!(near, [0, 1]);
        let check = |all: &[&str]| {
            let all: Vec<IpAddr> = all.iter().map(|one| one.parse().unwrap()).collect();
            open.check(&alias, &all, &[(0, broker)]).map_err(|refusal| refusal.text)
        };
        assert!(check(&["::ffff:192.0.2.7"]).unwrap_err().contains("the broker"));
        assert!(check(&["192.0.2.8", "127.0.0.1"]).unwrap_err().contains("the machine itself"));
        assert_eq!(check(&["192.0.2.8"]), Ok(()));
    }

    #[test]
    fn a_name_is_allowed_by_its_addresses_only_if_all_lie_within() {
        let net = rules(&["10.0.0.0/8:443"], None);
        let name = target("intern.example:443");
        assert_eq!(net.first_look(&name), Ok(()), "not known yet");
        let check =
            |all: &[&str]| net.check(&name, &all.iter().map(|one| one.parse().unwrap()).collect::<Vec<_>>(), &[]);
        assert_eq!(check(&["10.0.0.5"]), Ok(()));
        assert_eq!(check(&["10.0.0.5", "192.0.2.1"]).unwrap_err().reason, Reason::NotAllowed);
    }
}
