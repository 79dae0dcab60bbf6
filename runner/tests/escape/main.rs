//! The escape suite: every attack that the sandbox is to hold off, as a job's own command, and what must work all the same.
#![cfg(test)]

mod attacks;
mod bed;
mod layers;
mod page;
mod suite;
