//! API tokens: 256 random bits for people and programs, and their SHA-256 for the database.

use std::fmt;
use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::clock::random_bits;

/// So that secret scanners and people know one when they see it.
const PREFIX: &str = "tapi1_";

/// A token of the HTTP API, as its holder has it: `tapi1_` and 64 hex digits. Neither `Debug` nor an error shows it.
#[derive(Clone, Debug)]
pub struct ApiToken(SecretString);

/// What the database knows of a token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash([u8; 32]);

/// Not the form of an API token; holds no part of what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an API token: it has the form tapi1_ and 64 hex digits; `tendril-broker token create` prints one")]
pub struct BadApiToken;

impl ApiToken {
    /// A new one.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let digits: String = random_bits()?.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self(format!("{PREFIX}{digits}").into()))
    }

    /// The token itself, for the one place where it is shown.
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }

    /// What is stored of it, and looked for.
    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.0.expose_secret().as_bytes()).into())
    }
}

impl FromStr for ApiToken {
    type Err = BadApiToken;

    fn from_str(text: &str) -> Result<Self, BadApiToken> {
        let digits = text.strip_prefix(PREFIX).ok_or(BadApiToken)?;
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match digits.len() == 64 && digits.bytes().all(is_digit) {
            true => Ok(Self(text.to_owned().into())),
            false => Err(BadApiToken),
        }
    }
}

impl TokenHash {
    /// The digest's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for TokenHash {
    /// The first digits tell tokens apart in a log, and open nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({:02x}{:02x}{:02x}..)", self.0[0], self.0[1], self.0[2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_and_no_two_are_alike() {
        let (one, other) = (ApiToken::generate().unwrap(), ApiToken::generate().unwrap());
        assert_eq!(one.reveal().parse::<ApiToken>().unwrap().hash(), one.hash());
        assert_ne!(one.hash(), other.hash());
        assert!(!format!("{one:?} {:?}", one.hash()).contains(&one.reveal()[PREFIX.len()..PREFIX.len() + 8]));
    }

    #[test]
    fn the_hash_is_that_of_the_whole_token() {
        let token: ApiToken = format!("{PREFIX}{}", "0".repeat(64)).parse().unwrap();
        let expected: [u8; 32] = Sha256::digest(token.reveal()).into();
        assert_eq!(token.hash().as_bytes(), expected);
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let digits = "0".repeat(64);
        // Tried: nothing, no prefix, a runner's token, too short, too long, upper case, a space behind.
        for text in [
            String::new(),
            digits.clone(),
            "trt1.01a1fcd33b147d38b916592f23f46464.7.3c250084798c5d9773ba73b455a90fc6".to_owned(),
            format!("{PREFIX}{}", &digits[1..]),
            format!("{PREFIX}{digits}0"),
            format!("{PREFIX}{}", "A".repeat(64)),
            format!("{PREFIX}{digits} "),
        ] {
            assert_eq!(text.parse::<ApiToken>().unwrap_err(), BadApiToken);
        }
    }
}
