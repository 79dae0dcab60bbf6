//! `template lint | register`.

use crate::cli::Context;
use crate::cli::arguments::Template;
use crate::cli::exit::{Failure, Outcome};

pub async fn template(_context: &Context, _command: Template) -> Result<Outcome, Failure> {
    Ok(Outcome::Done)
}
