#![doc = include_str!("../README.md")]

// Another value compiles the queries anew: that is how `./dev sqlx` has all of them described.
const _: Option<&str> = option_env!("TENDRIL_DESCRIBED_AT");

pub mod archive;
#[cfg(feature = "testing")]
pub mod baseline;
pub mod cli;
mod clock;
pub mod connect;
mod driver;
mod hosts;
pub mod operator;
pub mod portal;
mod refusal;
pub mod runner;
pub mod serve;
mod session;
#[cfg(feature = "testing")]
pub mod testing;
pub mod token;
mod trust;
mod unreachable;

pub use refusal::{Error, Problem, Refusal};
pub use session::{Address, BadAddress};
pub use unreachable::Unreachable;
