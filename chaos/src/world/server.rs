//! The private Postgres, by way of `./dev`, which knows where its programs are and how to run one without root.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;
use tendril_broker::Address;
use tokio::process::Command;

/// A server that may be crashed; it ends with this value or with who runs us.
pub struct Server {
    dev: PathBuf,
    name: String,
    url: String,
    superuser_url: String,
}

#[derive(Deserialize)]
struct Started {
    database_url: String,
    superuser_url: String,
}

/// `./dev` of this tree, unless the environment names another.
pub fn dev_script() -> PathBuf {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../dev");
    std::env::var_os("TENDRIL_DEV").map_or_else(own, PathBuf::from)
}

impl Server {
    /// Starts one.
    ///
    /// # Errors
    /// What `./dev` says.
    pub async fn start(name: String) -> anyhow::Result<Self> {
        let dev = dev_script();
        let output = dev_server(&dev, "start", &name).await?;
        let started: Started = serde_json::from_str(output.trim()).context("./dev server start: no JSON")?;
        Ok(Self { dev, name, url: started.database_url, superuser_url: started.superuser_url })
    }

    /// Ends it as a crash would: every session breaks, and the next start recovers.
    ///
    /// # Errors
    /// What `./dev` says.
    pub async fn crash(&self) -> anyhow::Result<()> {
        dev_server(&self.dev, "crash", &self.name).await.map(drop)
    }

    /// Starts it again.
    ///
    /// # Errors
    /// What `./dev` says.
    pub async fn resume(&self) -> anyhow::Result<()> {
        dev_server(&self.dev, "resume", &self.name).await.map(drop)
    }

    /// Runs one of its Postgres' programs as the user that it belongs to.
    ///
    /// # Errors
    /// What the program says.
    pub async fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let arguments = [&[program], arguments].concat();
        dev_server_with(&self.dev, "run", &self.name, &arguments).await.map(drop)
    }

    /// Stops it and removes its data.
    ///
    /// # Errors
    /// What `./dev` says.
    pub async fn stop(&self) -> anyhow::Result<()> {
        dev_server(&self.dev, "stop", &self.name).await.map(drop)
    }

    /// The operator's way to the server's first database.
    ///
    /// # Errors
    /// A URL that is none.
    pub fn address(&self) -> anyhow::Result<Address> {
        Ok(self.url.parse()?)
    }

    /// The operator's way to a database.
    pub fn operator_url(&self, database: &str) -> String {
        self.operator_url_at(self.place(), database)
    }

    /// The operator's way to a database at any of these places, separated by commas.
    pub fn operator_url_at(&self, places: &str, database: &str) -> String {
        let (login, _) = self.parts();
        format!("postgres://{login}@{places}/{database}")
    }

    /// Somebody else's way to a database; without a login it is what a runner is told.
    pub fn url(&self, login: Option<(&str, &str)>, database: &str) -> String {
        let (_, place) = self.parts();
        let login = login.map_or_else(String::new, |(role, password)| format!("{role}:{password}@"));
        format!("postgres://{login}{place}/{database}")
    }

    /// Its `host:port`.
    pub fn place(&self) -> &str {
        self.parts().1
    }

    /// A superuser's way to a database.
    pub fn superuser_url(&self, database: &str) -> String {
        let server = self.superuser_url.rsplit_once('/').map_or(self.superuser_url.as_str(), |(server, _)| server);
        format!("{server}/{database}")
    }

    /// The same on another port of this machine, where a copy of the server listens.
    pub fn superuser_url_at(&self, port: u16, database: &str) -> String {
        let url = self.superuser_url(database);
        let here = url.rsplit_once('@').and_then(|(login, _)| Some((login, self.place().split_once(':')?.0)));
        here.map_or(url.clone(), |(login, host)| format!("{login}@{host}:{port}/{database}"))
    }

    /// Login and `host:port`.
    fn parts(&self) -> (&str, &str) {
        let rest = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        let (login, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
        (login, rest.split_once('/').map_or(rest, |(place, _)| place))
    }
}

async fn dev_server(dev: &Path, verb: &str, name: &str) -> anyhow::Result<String> {
    dev_server_with(dev, verb, name, &[]).await
}

async fn dev_server_with(dev: &Path, verb: &str, name: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(dev).args(["server", verb, name]).args(arguments).kill_on_drop(true).output().await;
    let output = output.with_context(|| format!("cannot run {}", dev.display()))?;
    if !output.status.success() {
        bail!("./dev server {verb}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_an_own_way_to_the_same_server() {
        let url = "postgres://ops:secret@127.0.0.1:5432/postgres".to_owned();
        let superuser_url = "postgres://root:secret@127.0.0.1:5432/postgres".to_owned();
        let server = Server { dev: PathBuf::new(), name: String::new(), url, superuser_url };
        assert_eq!(server.operator_url("a"), "postgres://ops:secret@127.0.0.1:5432/a");
        assert_eq!(server.url(Some(("portal", "x")), "a"), "postgres://portal:x@127.0.0.1:5432/a");
        assert_eq!(server.superuser_url("a"), "postgres://root:secret@127.0.0.1:5432/a");
        assert_eq!(server.superuser_url_at(7, "a"), "postgres://root:secret@127.0.0.1:7/a");
        assert_eq!(server.place(), "127.0.0.1:5432");
        assert_eq!(server.url(None, "a"), "postgres://127.0.0.1:5432/a");
    }
}
