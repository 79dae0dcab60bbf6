//! What must be true of any bytes, for each parser of what others write. README.md lists the parsers.

mod addresses;
mod api;
mod archive;
mod bundle;
mod engine;
mod feed;
mod forms;
mod logs;
mod process;
mod proxy;
mod snapshot;
mod spool;
mod templates;

pub use forms::{FORMS, Form};
pub use logs::{covered, left_of};

/// Something that must be true of any bytes: it panics where it is not.
#[derive(Clone, Copy)]
pub struct Check {
    /// The name of its program in `fuzz_targets`, and of its folder in `seeds`.
    pub name: &'static str,
    /// The check itself.
    pub check: fn(&[u8]),
    /// How often tests run it.
    pub rounds: u32,
}

const fn check(name: &'static str, rounds: u32, check: fn(&[u8])) -> Check {
    Check { name, check, rounds }
}

/// All checks.
pub const CHECKS: [Check; 16] = [
    check("framing", 20_000, logs::framing),
    check("redaction", 20_000, logs::redaction),
    check("request", 5_000, proxy::request),
    check("rules", 10_000, proxy::rules),
    check("spool", 10_000, spool::records),
    check("events", 5_000, engine::events),
    check("estimate", 5_000, engine::estimate),
    check("bundle", 500, bundle::bundle),
    check("addresses", 5_000, addresses::addresses),
    check("snapshot", 5_000, snapshot::snapshot),
    check("manifest", 500, templates::manifest),
    check("pattern", 500, templates::pattern),
    check("literals", 500, templates::literals),
    check("archive", 500, archive::archive),
    check("api", 10_000, api::api),
    check("process", 10_000, process::process),
];

/// Runs a check on bytes.
///
/// # Panics
/// When the bytes break what must be true, and when there is no such check.
pub fn run(name: &str, data: &[u8]) {
    let Some(found) = CHECKS.iter().find(|one| one.name == name) else { panic!("there is no check {name}") };
    (found.check)(data);
}
