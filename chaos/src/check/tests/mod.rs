//! Hand-made histories: a sound one, and such that break it.

mod allowed;
mod forgotten;
mod made;
mod promises;

use super::{Verdict, check};
use crate::history::History;
use made::sound;

#[test]
fn a_sound_history_breaks_nothing() {
    let verdict = check(&sound());
    assert_eq!(verdict, Verdict::default());
}

#[test]
fn a_history_survives_being_written_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history.json");
    sound().write(&file).unwrap();
    assert_eq!(check(&History::read(&file).unwrap()), Verdict::default());
}
