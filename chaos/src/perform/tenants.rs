//! What tenants and operators do to a database that they share.

use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;
use tendril_broker::testing::history;
use tendril_broker::testing::tenant::{self, Tenant};

use super::runners::{drain, seat};
use super::{Hit, pause};
use crate::clock;
use crate::history::Act;
use crate::op::Op;
use crate::world::World;

/// Whom it hits that a tenant does: all of its runners.
const ALL: &str = "tendril-runner";
/// Within this time a tenant's transaction is ended: 10 s, and what the duty and a busy machine take.
const HELD_AT_MOST: Duration = Duration::from_secs(16);

#[derive(Deserialize)]
struct Issued {
    token: String,
}

fn tenant(world: &World) -> Tenant {
    Tenant::new(&world.token(), |login| world.url_of(login))
}

/// All connections of the credential are taken while its runners' sessions are ended.
pub async fn use_up_connections(world: &World, for_ms: u64) -> anyhow::Result<Hit> {
    let (tenant, began) = (tenant(world), clock::now());
    let mut taken = tenant.all_sessions().await?;
    let mut operator = world.operator_session().await?;
    for session in history::sessions(&mut operator).await? {
        if session.application.starts_with(ALL) {
            history::end_session(&mut operator, session.pid).await?;
        }
    }
    taken.extend(tenant.all_sessions().await?);
    pause(for_ms).await;
    drop(taken);
    Ok((ALL.to_owned(), began))
}

/// A transaction that holds a runner's lease is to be ended by `serve`.
pub async fn hold_transaction(world: &World, op: &Op, for_ms: u64) -> anyhow::Result<Vec<Act>> {
    let mut operator = world.operator_session().await?;
    let runner = tenant::a_runner(&mut operator).await?.context("no runner is registered")?;
    let began = clock::now();
    let held = tenant(world).hold_lease(runner, Duration::from_millis(for_ms)).await;
    let ended = clock::now();
    let lasted = Duration::from_micros(u64::try_from(ended.boot_us - began.boot_us).unwrap_or(0));
    let what = match held {
        // Nothing was held: the server was away, or somebody else held it.
        Err(error) if error.is_outage() => format!("{op}: it was not begun"),
        Err(error) => format!("{op}: it was not begun: {error}"),
        Ok(Some(_)) if lasted <= HELD_AT_MOST => format!("{op}: ended after {} ms", lasted.as_millis()),
        Ok(_) => format!("{op}: {NOT_ENDED} within {} ms", lasted.as_millis()),
    };
    Ok(vec![Act { what, hit: ALL.to_owned(), began, ended, forgot_until: None }])
}

/// What an act says whose transaction was not ended in time.
pub const NOT_ENDED: &str = "it was not ended";

/// Somebody's report runs for long.
pub async fn pin_xmin(world: &World, for_ms: u64) -> anyhow::Result<Hit> {
    let began = clock::now();
    let pinned = tenant::pin_xmin(&mut world.operator_session().await?, Duration::from_millis(for_ms)).await;
    match pinned {
        Err(error) if !error.is_outage() => Err(error.into()),
        // Broken off with its session, or done.
        _ => Ok(("a report".to_owned(), began)),
    }
}

/// A tenant rings all the time.
pub async fn flood_doorbell(world: &World, for_ms: u64) -> anyhow::Result<Hit> {
    let began = clock::now();
    match tenant(world).flood(Duration::from_millis(for_ms)).await {
        Err(error) if !error.is_outage() => Err(error.into()),
        _ => Ok((ALL.to_owned(), began)),
    }
}

/// The next credential goes to one runner after the other; those that have the older one finish what they hold.
pub async fn rotate(world: &World, every_ms: u64) -> anyhow::Result<Hit> {
    let began = clock::now();
    match world.operate(&["cluster", "rotate", "chaos", "--json"]).await {
        Ok(issued) => {
            let issued: Issued = serde_json::from_str(&issued)?;
            world.rotated(issued.token);
        }
        // The second one of a run, while the first one still drains; or the server is away.
        Err(error) => return Ok((format!("nobody: {error:#}").chars().take(200).collect(), began)),
    }
    for number in 0..world.runners.len() {
        let seat = seat(world, number)?;
        let mut process = seat.process.lock().await;
        drain(seat, &mut process).await;
        *process = seat.again()?;
        drop(process);
        pause(every_ms).await;
    }
    Ok((ALL.to_owned(), began))
}
