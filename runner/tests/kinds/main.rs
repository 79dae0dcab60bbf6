//! Jobs of every kind, run as the runner runs them: real commands under real supervisors, and a broker in memory.

#[cfg(test)]
mod bed;
#[cfg(test)]
mod exec;
#[cfg(test)]
mod git;
#[cfg(test)]
mod interrupts;
#[cfg(test)]
mod output;
#[cfg(test)]
mod terraform;
