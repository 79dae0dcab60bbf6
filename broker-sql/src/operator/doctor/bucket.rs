//! The archive's bucket, tried with what archiving does.

use std::time::Duration;

use sqlx::postgres::PgConnection;

use crate::archive::{Archive, ArchiveError, ArchiveOptions};
use crate::operator::doctor::Finding;
use crate::refusal::Error;

/// Somebody waits for the answer; what is sent is small.
const PATIENCE: Duration = Duration::from_secs(30);
const CHECK: &str = "archive_bucket";

pub async fn examine(connection: &mut PgConnection, archive: Option<&ArchiveOptions>) -> Result<Vec<Finding>, Error> {
    let used = sqlx::query_scalar!(
        r#"-- archive in use
        select archive_url from tendril_core.settings"#
    );
    let used = used.fetch_one(connection).await?;
    let Some(options) = archive else {
        let told = used.map(|url| {
            let how = "name it with --archive and so on, with the credentials of serve";
            Finding::ok(CHECK, format!("the archive {url} was not looked at; to have it tried, {how}"))
        });
        return Ok(told.into_iter().collect());
    };
    let named = options.location.to_string();
    let tried = match Archive::open(options).await {
        Ok(archive) => {
            let silent = || Err(ArchiveError::Unavailable(named.clone(), "it does not answer".into()));
            tokio::time::timeout(PATIENCE, archive.try_out()).await.unwrap_or_else(|_| silent())
        }
        Err(error) => Err(error),
    };
    let mut findings = vec![told(&named, tried)];
    if let Some(used) = used.filter(|used| *used != named) {
        let message = format!("serve archives in {used}, and this is {named}");
        let remedy = "name the same archive, or start serve with this one: its next start says which one counts";
        findings.insert(0, Finding::warn(CHECK, message, remedy));
    }
    Ok(findings)
}

fn told(named: &str, tried: Result<(), ArchiveError>) -> Finding {
    match tried {
        Ok(()) => Finding::ok(CHECK, format!("{named} takes objects and parts, and gives them back")),
        Err(error) => Finding::fail(CHECK, error.to_string(), error.hint()),
    }
}
