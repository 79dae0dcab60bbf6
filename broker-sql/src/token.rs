//! The agent token: one opaque string for people, cluster, generation and secret for us.

use secrecy::{ExposeSecret, SecretString};
use std::str::FromStr;
use uuid::Uuid;

/// A runner's credential as `tendril-broker cluster create` prints it: `trt1.<cluster>.<generation>.<secret>`.
#[derive(Clone, Debug)]
pub struct AgentToken {
    cluster: Uuid,
    generation: u32,
    secret: SecretString,
}

/// Why a string is not an agent token. Never holds any part of the string.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an agent token: {0}; copy the whole token that cluster create or cluster rotate printed")]
pub struct BadToken(&'static str);

impl AgentToken {
    /// The cluster that the token belongs to.
    pub fn cluster(&self) -> Uuid {
        self.cluster
    }

    /// Name of the login role that the token opens.
    pub fn role(&self) -> String {
        format!("r_{}_{}", self.cluster.simple(), self.generation)
    }

    /// The role's password.
    pub fn secret(&self) -> &str {
        self.secret.expose_secret()
    }
}

impl FromStr for AgentToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let mut parts = text.trim().split('.');
        let (Some(prefix), Some(cluster), Some(generation), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(BadToken("it must have four parts, divided by dots"));
        };
        if prefix != "trt1" {
            return Err(BadToken("it must begin with trt1"));
        }
        let cluster = match Uuid::try_parse(cluster) {
            Ok(id) if cluster.len() == 32 => id,
            _ => return Err(BadToken("its second part must be 32 hex digits")),
        };
        let generation = match generation.parse() {
            Ok(number) if number > 0 => number,
            _ => return Err(BadToken("its third part must be a generation, 1 or more")),
        };
        if secret.len() < 32 || !secret.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(BadToken("its last part is cut short or has foreign characters"));
        }
        Ok(Self { cluster, generation, secret: secret.to_owned().into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "trt1.01a1fcd33b147d38b916592f23f46464.7.3c250084798c5d9773ba73b455a90fc601d9ee83709ab84c";

    #[test]
    fn a_token_names_its_role() {
        let token: AgentToken = format!(" {GOOD}\n").parse().unwrap();
        assert_eq!(token.role(), "r_01a1fcd33b147d38b916592f23f46464_7");
        assert_eq!(token.secret().len(), 48);
    }

    #[test]
    fn a_token_is_never_shown_by_debug() {
        let token: AgentToken = GOOD.parse().unwrap();
        assert!(!format!("{token:?}").contains("3c250084"));
    }

    #[test]
    fn what_is_not_a_token_is_refused_without_repeating_it() {
        for bad in [
            "",
            "trt1",
            "trt2.01a1fcd33b147d38b916592f23f46464.7.3c250084798c5d9773ba73b455a90fc6",
            "trt1.01a1fcd3-3b14-7d38-b916-592f23f46464.7.3c250084798c5d9773ba73b455a90fc6",
            "trt1.01a1fcd33b147d38b916592f23f46464.0.3c250084798c5d9773ba73b455a90fc6",
            "trt1.01a1fcd33b147d38b916592f23f46464.x.3c250084798c5d9773ba73b455a90fc6",
            "trt1.01a1fcd33b147d38b916592f23f46464.7.3c25",
            "trt1.01a1fcd33b147d38b916592f23f46464.7.3c250084798c5d97'3ba73b455a90fc6",
            "trt1.01a1fcd33b147d38b916592f23f46464.7.3c250084798c5d9773ba73b455a90fc6.more",
        ] {
            let said = bad.parse::<AgentToken>().unwrap_err().to_string();
            assert!(!said.contains("3c25"), "{said}");
        }
    }
}
