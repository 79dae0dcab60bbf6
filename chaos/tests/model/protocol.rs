//! What may happen in the model, and when.

use stateright::{Model, Property};

use crate::properties;
use crate::state::{Answer, Attempt, Call, Child, Fence, Job, JobState, Phase, Process, Runner, World};

/// A mistake put in on purpose: the search has to find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Start and finish do not ask whether the attempt is the job's current one.
    NoFenceCheck,
    /// The start checks first and writes later, without the lock that expiry takes.
    CheckWithoutLock,
    /// Expiry frees the key of a job that has started: a timer, and not somebody who knows that its child is dead.
    TimerFreesStartedKey,
    /// A job whose holder is silent leaves its place under the limit.
    SilentLeavesItsPlace,
}

/// What is searched.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// Places with a runner each.
    pub places: usize,
    /// For each job whether it changes the world.
    pub jobs: Vec<bool>,
    /// How many faults may happen: a process killed, one cut off for longer than its
    /// lease, a call or an answer that is slow or lost, a cancel.
    pub faults: usize,
    /// How many jobs may run at once: the limit of a concurrency key that all of them have.
    pub limit: usize,
    /// A mistake.
    pub bug: Option<Bug>,
}

/// What may happen next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Asked, committed and heard, with nothing in between.
    Exchange(Call),
    /// Sent, and on its way for as long as it takes: its sender may give up on it and ask again.
    Delay(Call),
    /// What was on its way is committed.
    Commit(Call),
    /// It never reaches the broker.
    Drop(Call),
    /// Committed, and the answer is on its way for as long as it takes.
    Slow(Call),
    /// A slow answer arrives.
    Hear(Process, Answer),
    /// It never does.
    Lose(Process, Answer),
    BeginReading(Process, Fence),
    ChildEnds(Fence),
    NoticeEnd(Process, Fence),
    Kill(usize),
    Begin(usize),
    DistrustLease(usize),
    Expire(Process),
    GiveUp(usize),
    Cancel(usize),
}

impl Step {
    /// Whether it is one of those that are counted. That a lease runs out, and a deadline, only follows from others.
    fn is_fault(&self) -> bool {
        matches!(self, Self::Delay(_) | Self::Slow(_) | Self::Kill(_) | Self::DistrustLease(_) | Self::Cancel(_))
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let job = |mutating: &bool| Job {
            state: JobState::Queued,
            mutating: *mutating,
            attempt: None,
            cancel: false,
            losses: 0,
            ends: 0,
            reported_by: None,
        };
        let mut world = World {
            jobs: self.jobs.iter().map(job).collect(),
            attempts: Vec::new(),
            leases: Vec::new(),
            key: None,
            runners: vec![None; self.places],
            calls: Vec::new(),
            answers: Vec::new(),
            faults_left: self.faults,
            limit: self.limit,
        };
        (0..self.places).for_each(|place| world.begin(place));
        vec![world]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for call in &world.calls {
            steps.push(Step::Commit(call.clone()));
            steps.push(Step::Drop(call.clone()));
        }
        for (process, answer) in &world.answers {
            steps.push(Step::Hear(*process, answer.clone()));
            steps.push(Step::Lose(*process, answer.clone()));
        }
        for runner in world.runners.iter().flatten() {
            let process = runner.process;
            for call in world.wishes(runner).into_iter().filter(|call| world.useful(runner, call)) {
                steps.extend([Step::Exchange(call.clone()), Step::Delay(call.clone()), Step::Slow(call)]);
            }
            for (fence, phase) in &runner.holds {
                let attempt = &world.attempts[*fence];
                let mutating = world.jobs[attempt.job].mutating;
                if *phase == Phase::Claimed && !mutating && runner.trusts_lease {
                    steps.push(Step::BeginReading(process, *fence));
                }
                if *phase == Phase::Running && attempt.child == Child::Ended {
                    steps.push(Step::NoticeEnd(process, *fence));
                }
            }
            steps.push(Step::Kill(process.place));
            if runner.trusts_lease {
                steps.push(Step::DistrustLease(process.place));
            }
        }
        let running =
            |(fence, attempt): (Fence, &Attempt)| (attempt.child == Child::Running).then_some(Step::ChildEnds(fence));
        steps.extend(world.attempts.iter().enumerate().filter_map(running));
        let empty = |(place, runner): (usize, &Option<Runner>)| runner.is_none().then_some(Step::Begin(place));
        steps.extend(world.runners.iter().enumerate().filter_map(empty));
        for lease in world.leases.iter().filter(|lease| lease.live) {
            // Never before the runner's own count: it counts from before it asked. One that is gone counts nothing.
            let trusts =
                world.runners[lease.of.place].as_ref().is_some_and(|r| r.process == lease.of && r.trusts_lease);
            if !trusts {
                steps.push(Step::Expire(lease.of));
            }
        }
        for (index, job) in world.jobs.iter().enumerate() {
            if job.state == JobState::Unknown {
                steps.push(Step::GiveUp(index));
            }
            if !job.state.is_terminal() && !job.cancel {
                steps.push(Step::Cancel(index));
            }
        }
        if world.faults_left == 0 {
            steps.retain(|step| !step.is_fault());
        }
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        if step.is_fault() {
            world.faults_left = world.faults_left.checked_sub(1)?;
        }
        match step {
            Step::Exchange(call) => {
                let by = call.by();
                world.asked(&call);
                if let Some(answer) = world.commit(call, self.bug) {
                    world.hear(by, answer);
                }
            }
            Step::Delay(call) => {
                world.asked(&call);
                world.calls.push(call);
            }
            Step::Slow(call) => {
                world.asked(&call);
                world.answer_later(call, self.bug);
            }
            Step::Commit(call) => {
                world.calls.retain(|other| *other != call);
                world.answer_later(call, self.bug);
            }
            Step::Drop(call) => world.calls.retain(|other| *other != call),
            Step::Hear(process, answer) => {
                world.answers.retain(|other| *other != (process, answer.clone()));
                world.hear(process, answer);
            }
            Step::Lose(process, answer) => world.answers.retain(|other| *other != (process, answer.clone())),
            Step::BeginReading(process, fence) => world.begin_reading(process, fence),
            Step::ChildEnds(fence) => world.attempts[fence].child = Child::Ended,
            Step::NoticeEnd(process, fence) => world.notice_end(process, fence),
            Step::Kill(place) => world.kill(place),
            Step::Begin(place) => world.begin(place),
            Step::DistrustLease(place) => world.distrust_lease(place),
            Step::Expire(process) => world.expire(process, self.bug),
            Step::GiveUp(index) => world.give_up(index),
            Step::Cancel(index) => world.cancel(index),
        }
        world.normalise();
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

impl World {
    fn answer_later(&mut self, call: Call, bug: Option<Bug>) {
        let by = call.by();
        if let Some(answer) = self.commit(call, bug)
            && self.runner(by).is_some()
        {
            self.answers.push((by, answer));
        }
    }

    /// Heartbeats and claims may be sent for ever: the search sends them only where they can change anything.
    fn useful(&self, runner: &Runner, call: &Call) -> bool {
        let process = runner.process;
        match call {
            Call::Claim { number, .. } => {
                let free = |job: &Job| job.state == JobState::Queued && (self.key.is_none() || !job.mutating);
                let queued = self.running() < self.limit && self.jobs.iter().any(free);
                let unheard = self.leases.iter().any(|lease| lease.of == process && lease.claim_no == *number);
                queued || unheard
            }
            Call::Heartbeat { settled, holding, .. } => {
                let news = |fence: &Fence| {
                    let job = &self.jobs[self.attempts[*fence].job];
                    job.cancel || job.state == JobState::Unknown || self.attempts[*fence].superseded
                };
                let forgotten = |(fence, attempt): (Fence, &Attempt)| {
                    attempt.holder == process
                        && attempt.claim_no <= *settled
                        && !attempt.ended
                        && !attempt.superseded
                        && !holding.contains(&fence)
                };
                !runner.trusts_lease || holding.iter().any(news) || self.attempts.iter().enumerate().any(forgotten)
            }
            _ => true,
        }
    }
}
