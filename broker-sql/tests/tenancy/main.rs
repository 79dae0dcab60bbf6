//! Attacks on the tenancy, as a runner's role and as a portal's role, on a live database where a neighbour is at work: it claims,
//! starts, heartbeats, logs and finishes real jobs by the typed client meanwhile, and must not lose one.
//!
//! | attack | what holds |
//! | --- | --- |
//! | read, claim, start, finish, heartbeat, adopt for another cluster; probe for existence | `runners_role`, `surface` |
//! | forged rows, with and without a column list; other surfaces; a day's partition | `runners_role`; `logs` and `log_bounds` of the contract |
//! | SET ROLE, SESSION AUTHORIZATION, GUCs, temporary objects that shadow ours | `runners_role` |
//! | older snapshots, lowered durability | `runners_role` |
//! | what a portal's role may try | `portals_role`; `grants` of the contract |
//! | transactions and COPYs held open, idle sessions, prepared transactions | `holding`; `open` of the races |
//! | advisory locks, notifications, logins, temporary tables, large objects, processor | `flooding` |
//! | a silent database, a restore elsewhere, hoards in small parts, to be passed over by the watch | `watching` |
//! | its own password; what it keeps when its credential is taken | `leaving`; `credentials` of the contract and of the races |
#![expect(clippy::unwrap_used, reason = "what a test of the tenancy cannot get, it fails by")]

#[expect(dead_code, reason = "the contract's tests use the rest")]
#[path = "../contract/fleet.rs"]
mod fleet;
mod flooding;
mod holding;
mod leaving;
mod portals_role;
mod runners_role;
mod siege;
mod surface;
mod watching;
