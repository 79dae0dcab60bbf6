//! A real Prometheus with a folder of its own.

use crate::fleet::{Fleet, free_address};
use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where `./dev` has put it. Where Go is installed there has to be one, and in CI too.
pub fn program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("TENDRIL_TEST_PROMETHEUS") {
        return Some(path.into());
    }
    let has_go = std::process::Command::new("go").arg("version").output().is_ok_and(|output| output.status.success());
    let needed = has_go || std::env::var("CI").as_deref() == Ok("true");
    assert!(!needed, "TENDRIL_TEST_PROMETHEUS is not set; run the tests by ./dev test, which builds Prometheus");
    eprintln!("SKIPPED: TENDRIL_TEST_PROMETHEUS is not set, and there is no Go to build Prometheus with");
    None
}

/// A running server; it ends with this value.
pub struct Prometheus {
    at: String,
    _folder: TempDir,
    _child: Child,
}

impl Prometheus {
    /// Starts it, to scrape a fleet each second under the names that its pods would have.
    pub async fn start(program: &Path, fleet: &Fleet) -> Self {
        let (folder, at) = (tempfile::tempdir().unwrap(), free_address());
        let config = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n\
             - {{job_name: serve, static_configs: [{{targets: [{:?}], labels: {{namespace: tendril, pod: acme-tendril-serve-0}}}}]}}\n\
             - {{job_name: runner, static_configs: [{{targets: [{:?}], labels: {{namespace: tendril, pod: acme-runner-0}}}}]}}\n",
            fleet.broker_at, fleet.runner_at
        );
        std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(program);
        command.arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address={at}")).current_dir(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        let server = Self { at, _child: command.spawn().unwrap(), _folder: folder };
        let ready = async {
            let mut looks = tokio::time::interval(Duration::from_millis(100));
            while server.get("/-/ready").await.is_none_or(|(code, _)| code != 200) {
                looks.tick().await;
            }
        };
        let ready = tokio::time::timeout(PATIENCE, ready).await;
        let said = std::fs::read_to_string(server._folder.path().join("log")).unwrap_or_default();
        assert!(ready.is_ok(), "Prometheus does not start:\n{said}");
        server
    }

    /// Whether a query brings a number; its error when it is none.
    pub async fn ask(&self, query: &str) -> Result<bool, String> {
        let mut encoded = String::new();
        query.bytes().for_each(|byte| write!(encoded, "%{byte:02X}").unwrap());
        let (_, body) = self.get(&format!("/api/v1/query?query={encoded}")).await.ok_or("Prometheus is gone")?;
        let reply: Value = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
        if reply["status"] != "success" {
            return Err(reply["error"].to_string());
        }
        let values = reply["data"]["result"].as_array().into_iter().flatten();
        Ok(values.filter_map(|series| series["value"][1].as_str()).any(|value| value != "NaN"))
    }

    async fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.at).await.ok()?;
        // Of this version a reply comes in one piece.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").as_bytes()).await.ok()?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.ok()?;
        let code = reply.split(' ').nth(1)?.parse().ok()?;
        Some((code, reply.split_once("\r\n\r\n")?.1.to_owned()))
    }
}
