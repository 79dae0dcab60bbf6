//! The log pipeline of a runner process: collector, spool and shipper together, from its start to its end.

use crate::collect::Collector;
use crate::config::{Config, Logs};
use crate::metrics::Metrics;
use crate::off_loop::beside;
use crate::ship::Shipper;
use crate::spool::{self, Spool};
use crate::{chance, clock};
use anyhow::Context;
use std::sync::Arc;
use std::time::Duration;
use tendril_broker::connect::Connector;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A pipeline at work.
pub struct Pipeline {
    collector: Arc<Collector>,
    spool: Arc<Spool>,
    end: CancellationToken,
    task: JoinHandle<()>,
}

impl Pipeline {
    /// Starts it; what the spool holds already goes first.
    pub fn start(settings: &Logs, spool: Arc<Spool>, metrics: Arc<Metrics>, connector: Connector) -> Self {
        let collector = Arc::new(Collector::new(settings.clone(), spool.clone(), metrics.clone()));
        let shipper = Shipper::new(settings.clone(), spool.clone(), metrics);
        let end = CancellationToken::new();
        let task = tokio::spawn(work(collector.clone(), (spool.clone(), shipper), connector, end.clone()));
        Self { collector, spool, end, task }
    }

    /// Where jobs open their logs.
    pub fn collector(&self) -> Arc<Collector> {
        self.collector.clone()
    }

    /// Sends what is left, for as long as `patience` lasts. The rest stays on disk, for the next process.
    pub async fn end(self, patience: Duration) {
        self.end.cancel();
        if tokio::time::timeout(patience, self.task).await.is_err() {
            let bytes = self.spool.level().waiting_bytes;
            tracing::error!(bytes, "not all log text was stored; the next process with this state_dir sends it");
            let bytes = self.collector.captured_bytes();
            if bytes > 0 {
                tracing::error!(
                    bytes,
                    "the spool did not take the last of the log text, which is lost with this process"
                );
            }
        }
    }
}

async fn work(
    collector: Arc<Collector>,
    (spool, shipper): (Arc<Spool>, Shipper),
    connector: Connector,
    end: CancellationToken,
) {
    // What was collected last has to be shipped too.
    let collected = CancellationToken::new();
    let collect = async {
        collector.run(end).await;
        collected.cancel();
    };
    tokio::join!(collect, shipper.run(&connector, collected.clone()));
    // That it is stored is to be known to the next process, which would report all of it as given up.
    if let Err(error) = beside(move || spool.put(Vec::new(), &[])).await {
        tracing::warn!(%error, "the next process finds log text that is stored already");
    }
}

/// Opens the spool below `state_dir` and says what an earlier process has left in it.
///
/// # Errors
/// The token or the disk; in words for people.
pub fn open_spool(config: &Config) -> anyhow::Result<Arc<Spool>> {
    let dir = spool::folder(&config.state_dir, config.token()?.cluster());
    let (spool, left) = Spool::open_dir(&dir, config.logs.limits(), chance::id(), clock::wall())
        .with_context(|| format!("state_dir: the log spool {} cannot be used", dir.display()))?;
    if left.broken_bytes > 0 {
        let (bytes, spool) = (left.broken_bytes, dir.display());
        tracing::error!(bytes, %spool, "part of the log spool cannot be read; gaps stand for it");
    }
    let expired = spool.level().expired_bytes;
    if expired > 0 {
        tracing::error!(bytes = expired, "log text was too old to be sent any more; gaps stand in its place");
    }
    if left.logs > 0 {
        let (logs, cut_off, bytes) = (left.logs, left.cut_off, left.bytes);
        tracing::info!(logs, cut_off, bytes, "an earlier process has left log text; it is sent now");
    }
    Ok(Arc::new(spool))
}
