//! Searches the model to its end.

use crate::protocol::{Bug, Protocol};
use stateright::{Checker, Model};

/// All states that can be reached with so many faults, where so many jobs may run at once; says how many there are.
pub fn search(jobs: &[bool], limit: usize, faults: usize) -> usize {
    let protocol = Protocol { places: 2, jobs: jobs.to_vec(), faults, limit, bug: None };
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    checker.unique_state_count()
}

/// What the search finds with a mistake, as the shortest way there.
pub fn found(bug: Bug, jobs: &[bool], limit: usize, faults: usize) -> String {
    let protocol = Protocol { places: 2, jobs: jobs.to_vec(), faults, limit, bug: Some(bug) };
    let checker = protocol.checker().threads(2).finish_when(stateright::HasDiscoveries::AnyFailures).spawn_bfs().join();
    let broken = |name: &&str| name.contains(": ");
    let discoveries = checker.discoveries();
    let (name, path) = discoveries.iter().find(|(name, _)| broken(name)).expect("the search finds the mistake");
    format!("{name}: {:?}", path.clone().into_actions())
}
