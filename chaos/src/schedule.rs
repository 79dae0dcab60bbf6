//! When what is broken: from a seed, without I/O.

use serde::{Deserialize, Serialize};

use crate::chance::Chance;
use crate::line::{Around, Blocked, Purpose};
use crate::op::{Op, OpName, SessionOf};
use crate::options::{Options, TIMES};

/// One operation and its moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Performed once so many children have started: it hits the middle of the work on a slow machine, too.
    pub after_starts: usize,
    /// And then so much later.
    pub then_ms: u64,
    /// What.
    #[serde(flatten)]
    pub op: Op,
}

/// The schedule of a seed for work that starts so many children.
pub fn of(seed: u64, options: &Options, children: usize) -> Vec<Step> {
    let mut chance = Chance::new(seed, "schedule");
    let count = if options.ops.is_empty() { 0 } else { options.step_count() };
    // Each operation once, then whatever comes, in any order.
    let mut names: Vec<OpName> = options.ops.iter().copied().take(count).collect();
    while names.len() < count {
        names.push(options.ops[chance.index(options.ops.len())]);
    }
    chance.shuffle(&mut names);
    let place = |index: usize| children * (index + 1) / (count + 1);
    let step = |(index, name): (usize, &OpName)| Step {
        after_starts: place(index),
        then_ms: chance.between(0, 250),
        op: op(*name, options, &mut chance),
    };
    names.iter().enumerate().map(step).collect()
}

fn op(name: OpName, options: &Options, chance: &mut Chance) -> Op {
    let ttl = u64::try_from(TIMES.lease_ttl_ms).unwrap_or(0);
    let runners = options.runners as usize;
    match name {
        OpName::SigkillRunner => {
            Op::SigkillRunner { runner: chance.index(runners), back_after_ms: chance.between(0, ttl * 3 / 2) }
        }
        OpName::SigstopRunner => {
            let runner = chance.index(runners);
            Op::SigstopRunner { runner, for_ms: longer_than_a_lease(chance, ttl) }
        }
        OpName::SigtermRunner => Op::SigtermRunner { runner: chance.index(runners) },
        OpName::EvictRunner => Op::EvictRunner {
            runner: chance.index(runners),
            grace_ms: chance.between(0, 1500),
            back_after_ms: chance.between(0, ttl * 3 / 2),
        },
        OpName::Swizzle => swizzle(runners, chance, ttl),
        OpName::Partition | OpName::SlowLine | OpName::CutCalls => line(name, runners, chance, ttl),
        OpName::RestartPostgresImmediate => Op::RestartPostgresImmediate { down_ms: chance.between(0, 3000) },
        OpName::Failover => Op::Failover { after_ms: chance.between(0, 2000), elsewhere: false },
        OpName::FailoverElsewhere => Op::Failover { after_ms: chance.between(0, 2000), elsewhere: true },
        OpName::FailoverSplit => Op::FailoverSplit {
            silent_ms: chance.between(0, ttl * 3 / 2),
            back_after_ms: chance.between(0, ttl * 2),
            astray_ms: chance.between(500, ttl * 2),
        },
        OpName::FailoverLossy => Op::FailoverLossy { lag_ms: chance.between(0, 2500), told: chance.percent(30) },
        OpName::KillBackend => Op::KillBackend { of: session(chance), nth: chance.index(20) },
        OpName::EndSession => Op::EndSession { of: session(chance), nth: chance.index(20) },
        OpName::SigkillServe => {
            let serve = chance.index(options.serves as usize);
            Op::SigkillServe { serve, back_after_ms: chance.between(0, 4000) }
        }
        OpName::UseUpConnections => Op::UseUpConnections { for_ms: chance.between(500, ttl * 2) },
        OpName::HoldTransaction => Op::HoldTransaction { for_ms: 20_000 },
        OpName::PinXmin => Op::PinXmin { for_ms: chance.between(1000, 10_000) },
        OpName::FloodDoorbell => Op::FloodDoorbell { for_ms: chance.between(500, 4000) },
        OpName::RotateCredential => Op::RotateCredential { every_ms: chance.between(0, 2000) },
        OpName::DiskFull => Op::DiskFull { for_ms: chance.between(1000, ttl * 2) },
        OpName::KillChild => Op::KillChild { nth: chance.index(20) },
    }
}

/// Now and then for longer than a lost job's deadline.
fn longer_than_a_lease(chance: &mut Chance, ttl: u64) -> u64 {
    if chance.percent(20) { chance.between(ttl * 4, ttl * 6) } else { chance.between(ttl * 6 / 5, ttl * 3) }
}

/// Most of the runners, and not all where there are several.
fn swizzle(runners: usize, chance: &mut Chance, ttl: u64) -> Op {
    let mut stopped: Vec<usize> = (0..runners).collect();
    chance.shuffle(&mut stopped);
    stopped.truncate(1 + chance.index(runners.saturating_sub(1).max(1)));
    let mut freed = stopped.clone();
    chance.shuffle(&mut freed);
    Op::Swizzle { stopped, freed, every_ms: chance.between(0, ttl / 2), for_ms: chance.between(0, ttl * 2) }
}

fn line(name: OpName, runners: usize, chance: &mut Chance, ttl: u64) -> Op {
    let runner = chance.index(runners);
    match name {
        OpName::SlowLine => Op::SlowLine { runner, for_ms: chance.between(ttl, ttl * 3) },
        OpName::CutCalls => {
            let cut = |chance: &mut Chance| {
                let of = if chance.percent(75) { Purpose::Calls } else { Purpose::Heartbeat };
                let around = [Around::Before, Around::After, Around::Reply][chance.index(3)];
                (of, around, u32::try_from(chance.between(0, 6)).unwrap_or(0))
            };
            let count = chance.between(1, 5);
            Op::CutCalls { runner, cuts: (0..count).map(|_| cut(chance)).collect() }
        }
        _ => Op::Partition {
            runner,
            blocked: [Blocked::Up, Blocked::Down, Blocked::Both][chance.index(3)],
            for_ms: longer_than_a_lease(chance, ttl),
            forgotten: chance.percent(50),
        },
    }
}

fn session(chance: &mut Chance) -> SessionOf {
    SessionOf::ALL[chance.index(SessionOf::ALL.len())]
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(line: &str) -> Options {
        Line::parse_from(["x"].into_iter().chain(line.split_whitespace())).options
    }

    #[test]
    fn a_seed_gives_the_same_schedule_each_time() {
        let options = options("--steps 12");
        assert_eq!(of(3, &options, 50), of(3, &options, 50));
        assert_ne!(of(3, &options, 50), of(4, &options, 50));
    }

    #[test]
    fn every_operation_comes_at_least_once_and_in_the_middle_of_the_work() {
        let steps = of(9, &options("--steps 10"), 40);
        assert_eq!(steps.len(), 10);
        assert!(steps.iter().all(|step| (1..40).contains(&step.after_starts)));
        assert!(steps.is_sorted_by_key(|step| step.after_starts));
        let kills = steps.iter().filter(|step| matches!(step.op, Op::SigkillRunner { .. })).count();
        assert!(kills >= 1);
    }

    #[test]
    fn without_operations_nothing_is_broken() {
        assert!(of(9, &options("--steps 0"), 40).is_empty());
    }
}
