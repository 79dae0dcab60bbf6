//! `infracost.breakdown` with a real Infracost against a pricing server on loopback. Where there is none the tests say
//! that they are skipped; `TENDRIL_TEST_INFRACOST` names one that is not on PATH.

#[cfg(test)]
#[expect(dead_code, reason = "the bed of all kinds; these tests use a part of it")]
#[path = "../kinds/bed.rs"]
mod bed;
#[cfg(test)]
mod breakdown;
#[cfg(test)]
mod pricing;
