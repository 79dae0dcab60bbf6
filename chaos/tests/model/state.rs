//! What there is: the broker's rows, the processes, what is under way between them, and the children, who are the truth.

/// An attempt by its fence, which is also its place in the list.
pub type Fence = usize;

/// A process: the place that it runs in, and the how manieth there. The next process of a place has the other's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// The place.
    pub place: usize,
    /// 0 for the first one there.
    pub number: usize,
}

/// A job's state, as in the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobState {
    Queued,
    Claimed,
    Started,
    Unknown,
    Success,
    Failed,
    Cancelled,
}

impl JobState {
    /// Whether nothing follows.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Success | Self::Failed | Self::Cancelled)
    }
}

/// A job's row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Job {
    /// Its state.
    pub state: JobState,
    /// Whether it changes the world. All that do change the same state.
    pub mutating: bool,
    /// Its current attempt.
    pub attempt: Option<Fence>,
    /// Somebody asked for its end.
    pub cancel: bool,
    /// Attempts that were lost.
    pub losses: usize,
    /// How often it has ended. Only the properties look at it.
    pub ends: usize,
    /// Whose report ended it, if one did. Only the properties look at it.
    pub reported_by: Option<Fence>,
}

/// What runs for an attempt, under its supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Child {
    /// Nothing was ever begun.
    None,
    /// It runs, whoever of the runners lives.
    Running,
    /// It has ended, and its record lies on the place's disk.
    Ended,
}

/// An attempt's row, and its child.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// Its job.
    pub job: usize,
    /// Who answers for it.
    pub holder: Process,
    /// The claim of that process which took it; 0 for none.
    pub claim_no: usize,
    /// The job has gone on without it.
    pub superseded: bool,
    /// Its end was reported.
    pub ended: bool,
    /// What runs.
    pub child: Child,
}

/// A process' lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Whose.
    pub of: Process,
    /// By the broker's clock.
    pub live: bool,
    /// Number of the newest claim.
    pub claim_no: usize,
}

/// What a process knows of an attempt that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Taken.
    Claimed,
    /// The start was asked for, and may be committed.
    Starting,
    /// Its child was begun, here or by an earlier process of the place.
    Running,
    /// Left by an earlier process of the place; the broker was not asked yet.
    Found,
    /// Its end is to be reported.
    Ended(Outcome),
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    Success,
    Cancelled,
    Released,
}

/// A runner process that lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Runner {
    /// Which.
    pub process: Process,
    /// Whether it may still count on its lease: never for longer than the broker does.
    pub trusts_lease: bool,
    /// What it holds, in the order of fences.
    pub holds: Vec<(Fence, Phase)>,
    /// The number of its next claim.
    pub next_claim: usize,
}

/// A call under way to the broker. Its sender may have given up on it: it may be committed all the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    Claim {
        by: Process,
        number: usize,
    },
    Start {
        by: Process,
        attempt: Fence,
    },
    Finish {
        by: Process,
        attempt: Fence,
        outcome: Outcome,
    },
    Heartbeat {
        by: Process,
        settled: usize,
        holding: Vec<Fence>,
    },
    Adopt {
        by: Process,
        attempt: Fence,
    },
    /// The second half of a check that takes no lock: only a seeded bug has it.
    StartUnlocked {
        by: Process,
        attempt: Fence,
    },
}

impl Call {
    /// Who waits for the answer.
    pub fn by(&self) -> Process {
        match self {
            Self::Claim { by, .. }
            | Self::Start { by, .. }
            | Self::Finish { by, .. }
            | Self::Heartbeat { by, .. }
            | Self::Adopt { by, .. }
            | Self::StartUnlocked { by, .. } => *by,
        }
    }
}

/// What the broker answers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    Claimed {
        number: usize,
        attempts: Vec<Fence>,
    },
    Started {
        attempt: Fence,
    },
    /// It may not be started: it was lost, or is to be cancelled.
    NotStarted {
        attempt: Fence,
        outcome: Option<Outcome>,
    },
    Reported {
        attempt: Fence,
    },
    Beaten {
        superseded: Vec<Fence>,
        cancel: Vec<Fence>,
    },
    Adopted {
        attempt: Fence,
        known: bool,
    },
    /// Ask again later.
    Refused,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// Jobs.
    pub jobs: Vec<Job>,
    /// Attempts, by fence.
    pub attempts: Vec<Attempt>,
    /// Leases of all processes that ever registered.
    pub leases: Vec<Lease>,
    /// Who holds the key of the one state that all mutating jobs change.
    pub key: Option<Fence>,
    /// Processes that live, one for each place at most.
    pub runners: Vec<Option<Runner>>,
    /// Calls that are not committed yet, in some order.
    pub calls: Vec<Call>,
    /// Answers under way.
    pub answers: Vec<(Process, Answer)>,
    /// Faults that may still happen.
    pub faults_left: usize,
    /// How many jobs may run at once.
    pub limit: usize,
}

impl World {
    /// The runner that is this process, if it lives.
    pub fn runner(&mut self, process: Process) -> Option<&mut Runner> {
        self.runners[process.place].as_mut().filter(|runner| runner.process == process)
    }

    /// How many jobs have a place under the limit.
    pub fn running(&self) -> usize {
        let states = [JobState::Claimed, JobState::Started, JobState::Unknown];
        self.jobs.iter().filter(|job| states.contains(&job.state)).count()
    }

    /// The lease of a process.
    pub fn lease(&mut self, process: Process) -> Option<&mut Lease> {
        self.leases.iter_mut().find(|lease| lease.of == process)
    }

    /// The order of what is under way says nothing.
    pub fn normalise(&mut self) {
        self.calls.sort_unstable();
        self.calls.dedup();
        self.answers.sort_unstable();
        self.answers.dedup();
    }
}
