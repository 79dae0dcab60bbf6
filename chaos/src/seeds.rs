//! Seeds as they are typed.

use std::ops::RangeInclusive;
use std::str::FromStr;

/// Seeds from one to another, both included.
#[derive(Clone, Debug)]
pub struct Seeds(pub RangeInclusive<u64>);

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ends = text.split_once("..").and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
        match ends {
            Some((low, high)) if low <= high => Ok(Self(low..=high)),
            _ => Err("it looks like 1..20".into()),
        }
    }
}
