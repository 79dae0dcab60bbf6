//! All attacks in each profile, as the page says.

use crate::attacks::{ALL, Attack, Outcome};
use crate::bed::{self, Bed};
use crate::page;
use tendril_runner::sandbox::Profile;

/// All attacks in one profile, as if the kernel's Landlock were no newer than this.
async fn all(bed: &Bed, profile: Profile, abi: u32) -> Vec<(&'static Attack, Outcome)> {
    let mut outcomes = Vec::new();
    for attack in ALL {
        outcomes.push((attack, bed.attack(attack, profile, abi).await));
    }
    outcomes
}

#[tokio::test]
async fn every_attack_ends_as_the_page_says_in_both_profiles_and_on_every_older_kernel() {
    let bed = Bed::new().await;
    let terraform = all(&bed, Profile::Terraform, 7).await;
    let exec = all(&bed, Profile::Exec, 7).await;
    let mut older = Vec::new();
    for abi in 0..7 {
        older.push(all(&bed, Profile::Terraform, abi).await);
    }
    let rows: Vec<page::Row> = (0..ALL.len())
        .map(|index| {
            let (attack, outcome) = &terraform[index];
            let by_abi: Vec<Outcome> = older.iter().map(|all| all[index].1).chain([*outcome]).collect();
            page::Row { attack, terraform: *outcome, exec: exec[index].1, since: page::since(&by_abi) }
        })
        .collect();
    // What is refused is refused by the layer that is to refuse it, with its own error.
    let other = rows.iter().flat_map(|row| {
        let both = [("terraform", row.terraform, false), ("exec", row.exec, true)];
        both.into_iter().filter_map(|(profile, outcome, in_exec)| {
            let expected = row.attack.expected(in_exec);
            (outcome != expected).then(|| format!("{} in {profile}: {outcome:?}, not {expected:?}", row.attack.name))
        })
    });
    let other: Vec<_> = other.collect();
    assert!(other.is_empty(), "{other:#?}");
    page::compare(&rows);
}

#[tokio::test]
async fn nothing_of_it_is_refused_without_the_sandbox() {
    // Else the suite would prove nothing: what the machine refuses anyway is marked so.
    let bed = Bed::new().await;
    let mut refused = Vec::new();
    let may_all = bed::has_all_rights();
    for attack in ALL.iter().filter(|attack| !attack.refused_anyway && (may_all || !attack.privileged)) {
        let outcome = bed.unconfined(attack).await;
        if outcome != Outcome::Done {
            refused.push(format!("{}: {outcome:?}", attack.name));
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
}
