//! Where the archive is, and how its objects are called.

use std::fmt;
use std::str::FromStr;

use time::Date;
use uuid::Uuid;

/// `s3://BUCKET/PREFIX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The bucket.
    pub bucket: String,
    /// What all keys begin with; without slashes at its ends, perhaps empty.
    pub prefix: String,
}

/// What one needs to know to open an archive. Credentials come by the usual chain of AWS programs: environment, profile,
/// web identity, container, instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveOptions {
    /// Bucket and prefix.
    pub location: Location,
    /// Any S3-compatible service; addressed with the bucket in the path. `None`: AWS.
    pub endpoint: Option<String>,
    /// The region; `None`: by the usual chain, and with an endpoint `us-east-1`.
    pub region: Option<String>,
}

/// A URL that names no archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; an archive has the form s3://BUCKET/PREFIX")]
pub struct BadLocation(String);

impl FromStr for Location {
    type Err = BadLocation;

    fn from_str(url: &str) -> Result<Self, BadLocation> {
        let rest = url.strip_prefix("s3://");
        let rest = rest.ok_or_else(|| BadLocation(format!("{url:?} does not begin with s3://")))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(fits) {
            return Err(BadLocation(format!("{bucket:?} is no name of a bucket")));
        }
        let prefix = prefix.trim_matches('/');
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '/' | '=');
        if prefix.len() > 200 || !prefix.chars().all(fits) || prefix.split('/').any(|part| matches!(part, "." | "..")) {
            return Err(BadLocation(format!("{prefix:?} is no prefix of ours (letters, digits and - . _ / =)")));
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

/// The parts of an object's key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyOf {
    pub cluster: Uuid,
    pub day: Date,
    pub deployment: Uuid,
    pub attempt: Uuid,
}

impl Location {
    /// The same log has the same key whoever archives it, and however often.
    pub(crate) fn key(&self, of: KeyOf) -> String {
        self.below(&format!("{}/{}/{}/{}.tlog.zst", of.cluster, of.day, of.deployment, of.attempt))
    }

    /// Where it is tried whether objects can be put.
    pub(crate) fn key_of_trial(&self) -> String {
        self.below("tendril-doctor")
    }

    fn below(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }
}

/// `s3://BUCKET/KEY` taken apart.
pub(crate) fn parse_object(url: &str) -> Option<(&str, &str)> {
    url.strip_prefix("s3://")?.split_once('/').filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_bucket_with_an_optional_prefix() {
        for (url, shown) in [("s3://logs", "s3://logs"), ("s3://my.logs/a/b/", "s3://my.logs/a/b")] {
            assert_eq!(url.parse::<Location>().map(|location| location.to_string()), Ok(shown.to_owned()));
        }
        // Tried: another scheme, no bucket, a bucket that is too short or shouts, a prefix that climbs or has spaces.
        for url in
            ["logs", "https://x/logs", "s3://", "s3:///a", "s3://ab", "s3://LOGS", "s3://logs/../b", "s3://logs/a b"]
        {
            let error = url.parse::<Location>().expect_err(url).to_string();
            assert!(error.contains("s3://BUCKET/PREFIX"), "{error}");
        }
    }

    #[test]
    fn a_key_tells_cluster_day_deployment_and_attempt() {
        let day = Date::from_ordinal_date(2026, 32).expect("a day");
        let of = KeyOf { cluster: Uuid::nil(), day, deployment: Uuid::max(), attempt: Uuid::nil() };
        let nil = Uuid::nil();
        let key = "s3://logs/p".parse::<Location>().expect("a location").key(of);
        assert_eq!(key, format!("p/{nil}/2026-02-01/{}/{nil}.tlog.zst", Uuid::max()));
        assert_eq!(parse_object("s3://logs/a/b"), Some(("logs", "a/b")));
        assert_eq!(parse_object("s3://logs"), None);
    }
}
