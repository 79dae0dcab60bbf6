//! What must hold in every state, and what must be possible at all.

use stateright::Property;

use crate::protocol::Protocol;
use crate::state::{Attempt, Child, JobState, Phase, World};

/// All of them. What must hold begins with the promise that it is, by the checker's name and docs/SPECIFICATION.md's.
pub fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always(
            "I1: a job that changes the world is begun at most once",
            |protocol: &Protocol, world: &World| {
                (0..protocol.jobs.len()).all(|job| begun(world, job) <= 1 || !world.jobs[job].mutating)
            },
        ),
        Property::always("I3: a superseded attempt ends no job", |_, world: &World| {
            world.jobs.iter().filter_map(|job| job.reported_by).all(|fence| !world.attempts[fence].superseded)
        }),
        Property::always("I4: a job ends once", |_, world: &World| world.jobs.iter().all(|job| job.ends <= 1)),
        Property::always("I10: never two children that change the state", |_, world: &World| {
            changing(world).count() <= 1
        }),
        Property::always("I10: whatever changes the state holds its key", |_, world: &World| {
            changing(world).all(|fence| world.key == Some(fence))
        }),
        Property::always("End: nothing is called done before its child has ended", |_, world: &World| {
            let done = world.jobs.iter().filter(|job| job.state == JobState::Success);
            done.filter_map(|job| job.reported_by).all(|fence| world.attempts[fence].child == Child::Ended)
        }),
        Property::always("Limit: no more jobs run at once than their concurrency key lets", |_, world: &World| {
            world.running() <= world.limit
        }),
        Property::sometimes("as many jobs run at once as may", |protocol: &Protocol, world: &World| {
            // Of those that change the one state, one at a time.
            let most = protocol.jobs.iter().filter(|mutating| !**mutating).count() + 1;
            world.running() == most.min(protocol.jobs.len()).min(protocol.limit)
        }),
        Property::sometimes("all jobs succeed", |_, world: &World| {
            world.jobs.iter().all(|job| job.state == JobState::Success)
        }),
        Property::sometimes("what was adopted succeeds", |protocol: &Protocol, world: &World| {
            let adopted = |attempt: &Attempt| attempt.claim_no == 0 && attempt.ended;
            // Where nothing changes the world there is nothing to adopt.
            !protocol.jobs.contains(&true) || world.attempts.iter().any(adopted)
        }),
        Property::sometimes(
            "an adopted job that was unknown is started again",
            |protocol: &Protocol, world: &World| {
                let again =
                    |attempt: &Attempt| attempt.claim_no == 0 && world.jobs[attempt.job].state == JobState::Started;
                !protocol.jobs.contains(&true) || world.attempts.iter().any(again)
            },
        ),
        Property::sometimes(
            "a start is asked for by a process whose attempt is superseded",
            |protocol: &Protocol, world: &World| {
                let starting = world.runners.iter().flatten().flat_map(|runner| &runner.holds);
                let late =
                    |(fence, phase): &&(usize, Phase)| *phase == Phase::Starting && world.attempts[*fence].superseded;
                protocol.faults < 2 || !protocol.jobs.contains(&true) || starting.filter(late).count() > 0
            },
        ),
    ]
}

fn begun(world: &World, job: usize) -> usize {
    world.attempts.iter().filter(|attempt| attempt.job == job && attempt.child != Child::None).count()
}

fn changing(world: &World) -> impl Iterator<Item = usize> {
    let runs = |(_, attempt): &(usize, &Attempt)| attempt.child == Child::Running && world.jobs[attempt.job].mutating;
    world.attempts.iter().enumerate().filter(runs).map(|(fence, _)| fence)
}
