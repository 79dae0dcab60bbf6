//! How far a Terraform run has come, resource by resource.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Resources that are listed one by one; more are only counted.
pub const MAX_RESOURCES: usize = 1000;
/// Longest address kept, in bytes; a longer one is cut and ends in an ellipsis.
pub const MAX_ADDRESS_BYTES: usize = 512;

/// What a run does to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is made.
    Create,
    /// It is changed in place.
    Update,
    /// It is destroyed.
    Delete,
    /// It is destroyed and made anew, in either order.
    Replace,
    /// It is read (a data source).
    Read,
    /// An existing object is taken into the state.
    Import,
    /// It gets another address.
    Move,
    /// It leaves the state and lives on.
    Remove,
    /// Something this version does not know.
    #[serde(other)]
    Other,
}

/// Where a resource stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In the plan, not begun.
    Planned,
    /// Being made.
    Creating,
    /// Being changed.
    Updating,
    /// Being destroyed.
    Deleting,
    /// Being read.
    Reading,
    /// Something else is being done.
    Running,
    /// Done.
    Complete,
    /// Failed.
    Errored,
}

impl State {
    /// The state of a resource while `action` is being done.
    pub(super) fn during(action: Action) -> Self {
        match action {
            Action::Create => Self::Creating,
            Action::Update => Self::Updating,
            Action::Delete => Self::Deleting,
            Action::Read => Self::Reading,
            Action::Replace | Action::Import | Action::Move | Action::Remove | Action::Other => Self::Running,
        }
    }
}

/// How many resources a plan names, or a run has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Made.
    pub add: u64,
    /// Changed in place.
    pub change: u64,
    /// Destroyed.
    pub remove: u64,
    /// Taken into the state.
    pub import: u64,
}

/// One resource's part of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceProgress {
    /// What the plan says is to be done, or what is being done when no plan was seen.
    pub action: Action,
    /// Where it stands.
    pub state: State,
    /// Seconds since the present step began, as the engine told last.
    pub elapsed_s: u64,
    /// Steps still to complete: a replacement has two.
    #[serde(skip)]
    steps_left: u8,
}

/// Something an event has told about the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgressUpdate {
    /// A resource has come to a state.
    Resource {
        /// Its address in the configuration.
        address: String,
        /// What the event says is done to it.
        action: Action,
        /// The state the event tells of.
        state: State,
        /// Seconds since the step began.
        elapsed_s: u64,
    },
    /// The plan is complete.
    Planned(Totals),
    /// The run has ended well.
    Done(Totals),
}

/// How far a run has come. As JSON it is at most a few hundred kilobytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Resources that change, by address; at most [`MAX_RESOURCES`].
    pub resources: BTreeMap<String, ResourceProgress>,
    /// Planned resources beyond that bound.
    pub unlisted: u64,
    /// What the plan says.
    pub planned: Option<Totals>,
    /// What the run did; there once it has ended well.
    pub done: Option<Totals>,
}

impl Progress {
    /// Takes what an event has told.
    pub fn update(&mut self, update: &ProgressUpdate) {
        match update {
            ProgressUpdate::Planned(totals) => self.planned = Some(*totals),
            ProgressUpdate::Done(totals) => {
                self.done = Some(*totals);
                // Imports, moves and removals from the state have no events of their own.
                for resource in self.resources.values_mut().filter(|resource| resource.state == State::Planned) {
                    resource.state = State::Complete;
                }
            }
            ProgressUpdate::Resource { address, action, state, elapsed_s } => {
                self.resource(address, *action, *state, *elapsed_s);
            }
        }
    }

    fn resource(&mut self, address: &str, action: Action, state: State, elapsed_s: u64) {
        let address = bounded(address);
        let is_new = !self.resources.contains_key(&address);
        // Data sources are read at every refresh; they are no change and would crowd out what is.
        if is_new && action == Action::Read && state != State::Planned {
            return;
        }
        if is_new && self.resources.len() >= MAX_RESOURCES {
            self.unlisted += u64::from(state == State::Planned);
            return;
        }
        let steps = if action == Action::Replace { 2 } else { 1 };
        let fresh = ResourceProgress { action, state, elapsed_s, steps_left: steps };
        let resource = self.resources.entry(address).or_insert_with(|| fresh.clone());
        match state {
            State::Planned => *resource = fresh,
            State::Complete => {
                resource.steps_left = resource.steps_left.saturating_sub(1);
                if resource.steps_left == 0 {
                    resource.state = State::Complete;
                }
            }
            _ => resource.state = state,
        }
        resource.elapsed_s = elapsed_s;
    }
}

/// `address` cut to [`MAX_ADDRESS_BYTES`].
pub(super) fn bounded(address: &str) -> String {
    if address.len() <= MAX_ADDRESS_BYTES {
        return address.to_owned();
    }
    let cut = address.floor_char_boundary(MAX_ADDRESS_BYTES - '…'.len_utf8());
    format!("{}…", &address[..cut])
}
