//! The charts, as a real Helm renders them: what is refused, what comes out, and whether Kubernetes would take it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here, and says where")]
#![expect(clippy::expect_used, reason = "as above, with what was looked for")]

mod alerts;
mod chart;
mod dashboards;
mod files;
mod golden;
mod image;
mod network;
mod objects;
mod pods;
mod promtool;
mod refusals;
mod settings;
mod table;
