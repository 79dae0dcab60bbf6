//! What a runner process does: on its own, and when an answer comes.

use crate::state::{Answer, Call, Child, Fence, Lease, Outcome, Phase, Process, Runner, World};

impl World {
    /// A process of this place begins, with what lies on its disk.
    pub fn begin(&mut self, place: usize) {
        let number = self.leases.iter().filter(|lease| lease.of.place == place).count();
        let process = Process { place, number };
        self.leases.push(Lease { of: process, live: true, claim_no: 0 });
        // Whoever began a command that changes the world has left a note of it; the record of its end lies beside that.
        let left = |(fence, attempt): (Fence, &crate::state::Attempt)| {
            let is_left = attempt.holder.place == place && attempt.child != Child::None;
            (is_left && !attempt.ended && self.jobs[attempt.job].mutating).then_some((fence, Phase::Found))
        };
        let holds = self.attempts.iter().enumerate().filter_map(left).collect();
        self.runners[place] = Some(Runner { process, trusts_lease: true, holds, next_claim: 1 });
    }

    /// SIGKILL. What only reads is ended by its supervisor; what changes the world goes on.
    pub fn kill(&mut self, place: usize) {
        let Some(runner) = self.runners[place].take() else { return };
        for (fence, _) in runner.holds {
            self.end_reading_child(fence);
        }
        self.answers.retain(|(to, _)| *to != runner.process);
    }

    /// Cut off for longer than the lease: it ends what others may start by now, and hands it back when it can.
    pub fn distrust_lease(&mut self, place: usize) {
        let Some(mut runner) = self.runners[place].take() else { return };
        runner.trusts_lease = false;
        for (fence, phase) in &mut runner.holds {
            let mutating = self.jobs[self.attempts[*fence].job].mutating;
            if matches!(phase, Phase::Claimed) || (*phase == Phase::Running && !mutating) {
                self.end_reading_child(*fence);
                *phase = Phase::Ended(Outcome::Released);
            }
        }
        self.runners[place] = Some(runner);
    }

    fn end_reading_child(&mut self, fence: Fence) {
        let attempt = &mut self.attempts[fence];
        if !self.jobs[attempt.job].mutating && attempt.child == Child::Running {
            attempt.child = Child::Ended;
        }
    }

    /// What a process may ask for now.
    pub fn wishes(&self, runner: &Runner) -> Vec<Call> {
        let by = runner.process;
        let mut wishes = Vec::new();
        let holding = runner.holds.iter().map(|(fence, _)| *fence).collect();
        wishes.push(Call::Heartbeat { by, settled: runner.next_claim - 1, holding });
        if runner.trusts_lease {
            wishes.push(Call::Claim { by, number: runner.next_claim });
        }
        for (attempt, phase) in &runner.holds {
            match *phase {
                Phase::Claimed if runner.trusts_lease => wishes.push(Call::Start { by, attempt: *attempt }),
                Phase::Starting => wishes.push(Call::Start { by, attempt: *attempt }),
                Phase::Found => wishes.push(Call::Adopt { by, attempt: *attempt }),
                Phase::Ended(outcome) => wishes.push(Call::Finish { by, attempt: *attempt, outcome }),
                Phase::Claimed | Phase::Running => {}
            }
        }
        let reading = |call: &Call| match call {
            Call::Start { attempt, .. } => !self.jobs[self.attempts[*attempt].job].mutating,
            _ => false,
        };
        wishes.retain(|call| !reading(call));
        wishes
    }

    /// A call is about to be sent: from the first time that it is asked for, a start may be committed.
    pub fn asked(&mut self, call: &Call) {
        if let (Call::Start { attempt, .. }, Some(runner)) = (call, self.runner(call.by())) {
            set(runner, *attempt, Phase::Starting);
        }
    }

    /// A command that only reads begins: its claim was its start.
    pub fn begin_reading(&mut self, process: Process, fence: Fence) {
        self.attempts[fence].child = Child::Running;
        if let Some(runner) = self.runner(process) {
            set(runner, fence, Phase::Running);
        }
    }

    /// A child that has ended is noticed by its holder.
    pub fn notice_end(&mut self, process: Process, fence: Fence) {
        // Who was to stop it and did is told apart from who finished before that came.
        let outcome = Outcome::Success;
        if let Some(runner) = self.runner(process) {
            set(runner, fence, Phase::Ended(outcome));
        }
    }

    /// An answer arrives.
    pub fn hear(&mut self, process: Process, answer: Answer) {
        let Some(mut runner) = self.runners[process.place].take_if(|runner| runner.process == process) else { return };
        match answer {
            Answer::Claimed { number, attempts } if number == runner.next_claim => {
                runner.next_claim += 1;
                for fence in attempts {
                    if !runner.holds.iter().any(|(held, _)| *held == fence) {
                        runner.holds.push((fence, Phase::Claimed));
                    }
                }
                runner.holds.sort_unstable();
            }
            // Committed, and the lease is trusted still: the one moment at which a child may begin.
            Answer::Started { attempt } if phase(&runner, attempt) == Some(Phase::Starting) && runner.trusts_lease => {
                self.attempts[attempt].child = Child::Running;
                set(&mut runner, attempt, Phase::Running);
            }
            Answer::NotStarted { attempt, outcome } if phase(&runner, attempt) == Some(Phase::Starting) => {
                match outcome {
                    Some(outcome) => set(&mut runner, attempt, Phase::Ended(outcome)),
                    None => runner.holds.retain(|(held, _)| *held != attempt),
                }
            }
            Answer::Reported { attempt } => runner.holds.retain(|(held, _)| *held != attempt),
            Answer::Adopted { attempt, .. } if phase(&runner, attempt) == Some(Phase::Found) => {
                // Also where the job went on without it: its end is reported all the same, as a note.
                set(&mut runner, attempt, Phase::Running);
            }
            Answer::Beaten { superseded, cancel } => {
                runner.trusts_lease = true;
                for fence in superseded {
                    let mutating = self.jobs[self.attempts[fence].job].mutating;
                    let may_drop = !mutating && matches!(phase(&runner, fence), Some(Phase::Claimed | Phase::Running));
                    if may_drop || phase(&runner, fence) == Some(Phase::Claimed) {
                        self.end_reading_child(fence);
                        set(&mut runner, fence, Phase::Ended(Outcome::Released));
                    }
                }
                for fence in cancel {
                    match phase(&runner, fence) {
                        Some(Phase::Claimed) => set(&mut runner, fence, Phase::Ended(Outcome::Cancelled)),
                        Some(Phase::Running) => {
                            self.attempts[fence].child = Child::Ended;
                            set(&mut runner, fence, Phase::Ended(Outcome::Cancelled));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        self.runners[process.place] = Some(runner);
    }
}

fn phase(runner: &Runner, fence: Fence) -> Option<Phase> {
    runner.holds.iter().find(|(held, _)| *held == fence).map(|(_, phase)| *phase)
}

fn set(runner: &mut Runner, fence: Fence, phase: Phase) {
    if let Some((_, held)) = runner.holds.iter_mut().find(|(held, _)| *held == fence) {
        *held = phase;
    }
}
