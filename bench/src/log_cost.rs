//! What a line costs: processor of the runner's pipeline and of the whole server, for a load that is fixed. Time alone would
//! say less: who waits for the disk or for the next flush holds up nobody else.

use crate::log_program::{self, Load};
use crate::processor::Server;
use crate::stage::Stage;
use anyhow::ensure;
use tendril_broker::baseline::log_tables::LogTable;

/// Of one load.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Microseconds of processor for a line: runner and server.
    pub line_us: f64,
    /// Those of the server among them.
    pub server_us: f64,
    /// Lines stored in a second of the clock.
    pub lines_per_s: f64,
    /// Rows that hold a thousand lines.
    pub rows: f64,
    /// Microseconds for which sessions of the database were busy for a line; waiting for the runner's next byte counts.
    pub database_us: f64,
    /// Lines stored.
    pub lines: f64,
}

/// Runs a load in a cluster of its own, and sees that all of it is stored.
///
/// # Errors
/// A program or the database failed, or lines are missing.
pub async fn of(stage: &Stage, server: &Server, name: &str, load: &Load) -> anyhow::Result<Cost> {
    let table = LogTable::open(&stage.operator_url()).await?;
    let mut before = (0.0, 0.0);
    let begins = async || {
        before = (server.processor_ms()?, table.busy_ms().await?);
        Ok(())
    };
    let (said, cluster) = log_program::run_beside(stage, name, load, begins).await?;
    let (server_ms, busy_ms) = (server.processor_ms()? - before.0, table.busy_ms().await? - before.1);
    let (rows, lines) = table.counted(cluster).await?;
    let printed = i64::from(load.streams) * i64::try_from(load.lines)?;
    ensure!(lines == printed, "{printed} lines were printed, {lines} are stored");
    let lines = lines as f64;
    Ok(Cost {
        line_us: (said.processor_ms + server_ms) * 1e3 / lines,
        server_us: server_ms * 1e3 / lines,
        lines_per_s: lines / said.stored_ms * 1e3,
        rows: rows as f64 * 1e3 / lines,
        database_us: busy_ms * 1e3 / lines,
        lines,
    })
}
