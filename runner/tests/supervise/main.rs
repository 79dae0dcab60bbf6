//! The supervisor on real processes: the built binary, real commands, real signals.

#[cfg(test)]
mod egress;
#[cfg(test)]
mod orphan;
#[cfg(test)]
mod start;
#[cfg(test)]
mod stop;
#[cfg(test)]
mod support;
#[cfg(test)]
mod terraform;
#[cfg(test)]
mod tree;
