//! Names of the kinds: the settings know them without knowing the kinds.

/// Names of all kinds that this runner knows.
pub const NAMES: [&str; 8] = [
    "exec",
    "infracost.breakdown",
    "policy",
    "terraform.plan",
    "terraform.apply",
    "terraform.destroy",
    "terraform.lock",
    "terraform.unlock",
];
