//! What the broker does in one transaction, as docs/PROTOCOL.md says.

use crate::protocol::Bug;
use crate::state::{Answer, Attempt, Call, Child, Fence, JobState, Outcome, Process, World};

/// Attempts that may be lost before a job fails.
const MAX_LOSSES: usize = 1;

impl World {
    /// Commits a call; none where there is nothing to answer yet.
    pub fn commit(&mut self, call: Call, bug: Option<Bug>) -> Option<Answer> {
        Some(match call {
            Call::Claim { by, number } => self.claim(by, number, bug),
            Call::Start { by, attempt } => match (self.may_start(by, attempt, bug), bug) {
                (Ok(()), Some(Bug::CheckWithoutLock)) => {
                    self.calls.push(Call::StartUnlocked { by, attempt });
                    return None;
                }
                (Ok(()), _) => self.start(attempt),
                (Err(answer), _) => answer,
            },
            Call::StartUnlocked { attempt, .. } => self.start(attempt),
            Call::Finish { attempt, outcome, .. } => self.finish(attempt, outcome, bug),
            Call::Heartbeat { by, settled, holding } => self.heartbeat(by, settled, &holding),
            Call::Adopt { by, attempt } => self.adopt(by, attempt),
        })
    }

    fn claim(&mut self, by: Process, number: usize, bug: Option<Bug>) -> Answer {
        let forgotten = if bug == Some(Bug::SilentLeavesItsPlace) {
            self.jobs.iter().filter(|job| job.state == JobState::Unknown).count()
        } else {
            0
        };
        let room = self.running() - forgotten < self.limit;
        let Some(lease) = self.lease(by) else { return Answer::Refused };
        if !lease.live {
            return Answer::Refused;
        }
        if number == lease.claim_no + 1 {
            lease.claim_no = number;
            let free = self.key.is_none();
            let fits = |job: &crate::state::Job| room && job.state == JobState::Queued && (free || !job.mutating);
            if let Some(index) = self.jobs.iter().position(fits) {
                let fence = self.attempts.len();
                let (claim_no, child) = (number, Child::None);
                self.attempts.push(Attempt {
                    job: index,
                    holder: by,
                    claim_no,
                    superseded: false,
                    ended: false,
                    child,
                });
                let job = &mut self.jobs[index];
                job.attempt = Some(fence);
                // Of what only reads the claim is the start.
                job.state = if job.mutating { JobState::Claimed } else { JobState::Started };
                if job.mutating {
                    self.key = Some(fence);
                }
            }
        } else if number != lease.claim_no {
            // A ghost of an earlier claim: its number is used up.
            return Answer::Refused;
        }
        let of_this = |attempt: &Attempt| attempt.holder == by && attempt.claim_no == number;
        let attempts = self.attempts.iter().enumerate().filter(|(_, a)| of_this(a) && !a.superseded && !a.ended);
        Answer::Claimed { number, attempts: attempts.map(|(fence, _)| fence).collect() }
    }

    fn is_current(&self, fence: Fence) -> bool {
        let job = &self.jobs[self.attempts[fence].job];
        job.attempt == Some(fence) && !self.attempts[fence].superseded && !job.state.is_terminal()
    }

    fn may_start(&mut self, by: Process, fence: Fence, bug: Option<Bug>) -> Result<(), Answer> {
        let refused = |outcome| Err(Answer::NotStarted { attempt: fence, outcome });
        if bug != Some(Bug::NoFenceCheck) && !self.is_current(fence) {
            return refused(None);
        }
        let job = &self.jobs[self.attempts[fence].job];
        if job.state == JobState::Started {
            return Ok(());
        }
        let (cancel, key) = (job.cancel, self.key);
        if self.lease(by).is_none_or(|lease| !lease.live) {
            return refused(Some(Outcome::Released));
        }
        if bug != Some(Bug::NoFenceCheck) && key != Some(fence) {
            return refused(None);
        }
        if cancel {
            return refused(Some(Outcome::Cancelled));
        }
        Ok(())
    }

    fn start(&mut self, fence: Fence) -> Answer {
        let job = &mut self.jobs[self.attempts[fence].job];
        job.state = JobState::Started;
        Answer::Started { attempt: fence }
    }

    fn finish(&mut self, fence: Fence, outcome: Outcome, bug: Option<Bug>) -> Answer {
        let answer = Answer::Reported { attempt: fence };
        let is_current = self.is_current(fence);
        if self.attempts[fence].ended {
            return answer;
        }
        // Whoever reports has seen its child end, or never began one.
        self.free_key(fence);
        if !is_current && bug != Some(Bug::NoFenceCheck) {
            return answer;
        }
        self.attempts[fence].ended = true;
        let index = self.attempts[fence].job;
        let job = &self.jobs[index];
        match outcome {
            Outcome::Released if job.state == JobState::Claimed || !job.mutating => self.requeue(fence),
            Outcome::Released => self.end(index, JobState::Failed, Some(fence)),
            Outcome::Cancelled => self.end(index, JobState::Cancelled, Some(fence)),
            Outcome::Success => self.end(index, JobState::Success, Some(fence)),
        }
        answer
    }

    fn heartbeat(&mut self, by: Process, settled: usize, holding: &[Fence]) -> Answer {
        let Some(lease) = self.lease(by) else { return Answer::Refused };
        lease.live = true;
        for fence in 0..self.attempts.len() {
            let attempt = &self.attempts[fence];
            let held = attempt.holder == by && !attempt.ended && !attempt.superseded;
            if held && attempt.claim_no <= settled && !holding.contains(&fence) {
                self.lose(fence, None);
            }
        }
        self.hear_again(by, holding);
        let mine = |fence: &&Fence| self.attempts[**fence].holder == by;
        Answer::Beaten {
            superseded: holding.iter().filter(|fence| self.attempts[**fence].superseded).copied().collect(),
            cancel: holding.iter().filter(mine).filter(|f| self.jobs[self.attempts[**f].job].cancel).copied().collect(),
        }
    }

    fn hear_again(&mut self, by: Process, holding: &[Fence]) {
        for fence in holding.iter().filter(|fence| self.attempts[**fence].holder == by) {
            let job = &mut self.jobs[self.attempts[*fence].job];
            if job.attempt == Some(*fence) && job.state == JobState::Unknown {
                job.state = JobState::Started;
            }
        }
    }

    fn adopt(&mut self, by: Process, fence: Fence) -> Answer {
        // Only a process of the same place has the spool that proves it.
        let known =
            self.is_current(fence) && !self.attempts[fence].ended && self.attempts[fence].holder.place == by.place;
        if known {
            if self.attempts[fence].holder != by {
                (self.attempts[fence].holder, self.attempts[fence].claim_no) = (by, 0);
            }
            self.hear_again(by, &[fence]);
        }
        Answer::Adopted { attempt: fence, known }
    }

    /// A lease has run out, and `serve` judges what its holder had.
    pub fn expire(&mut self, of: Process, bug: Option<Bug>) {
        if let Some(lease) = self.lease(of) {
            lease.live = false;
        }
        for fence in 0..self.attempts.len() {
            let attempt = &self.attempts[fence];
            if attempt.holder == of && !attempt.ended && !attempt.superseded {
                self.lose(fence, bug);
            }
        }
    }

    fn lose(&mut self, fence: Fence, bug: Option<Bug>) {
        let job = &mut self.jobs[self.attempts[fence].job];
        match job.state {
            JobState::Started if job.mutating => {
                job.state = JobState::Unknown;
                if bug == Some(Bug::TimerFreesStartedKey) {
                    self.free_key(fence);
                }
            }
            JobState::Claimed | JobState::Started => {
                self.free_key(fence);
                let index = self.attempts[fence].job;
                let job = &mut self.jobs[index];
                job.losses += 1;
                match (job.cancel, job.losses > MAX_LOSSES) {
                    (true, _) => {
                        self.attempts[fence].superseded = true;
                        self.end(index, JobState::Cancelled, None);
                    }
                    (false, true) => {
                        self.attempts[fence].superseded = true;
                        self.end(index, JobState::Failed, None);
                    }
                    (false, false) => self.requeue(fence),
                }
            }
            _ => {}
        }
    }

    fn requeue(&mut self, fence: Fence) {
        self.attempts[fence].superseded = true;
        self.free_key(fence);
        let job = &mut self.jobs[self.attempts[fence].job];
        (job.state, job.attempt) = (JobState::Queued, None);
    }

    /// The deadline of a job whose holder stays silent, or an operator who declares it lost. Its key stays held.
    pub fn give_up(&mut self, index: usize) {
        if let Some(fence) = self.jobs[index].attempt {
            self.attempts[fence].superseded = true;
        }
        self.end(index, JobState::Failed, None);
    }

    /// A user cancels.
    pub fn cancel(&mut self, index: usize) {
        match self.jobs[index].state {
            JobState::Queued => self.end(index, JobState::Cancelled, None),
            _ => self.jobs[index].cancel = true,
        }
    }

    fn end(&mut self, index: usize, state: JobState, reported_by: Option<Fence>) {
        let job = &mut self.jobs[index];
        (job.state, job.reported_by) = (state, reported_by);
        job.ends += 1;
    }

    fn free_key(&mut self, fence: Fence) {
        if self.key == Some(fence) {
            self.key = None;
        }
    }
}
