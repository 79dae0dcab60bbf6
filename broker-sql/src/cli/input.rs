//! What is read from files, or from standard input.

use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::cli::exit::Failure;

pub fn read_json(file: &Path) -> Result<Value, Failure> {
    let from_stdin = file == Path::new("-");
    let name = match from_stdin {
        true => "standard input".to_owned(),
        false => file.display().to_string(),
    };
    let text = if from_stdin {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.map_err(|error| Failure::Usage(format!("cannot read {name}: {error}")))?;
    serde_json::from_str(&text).map_err(|error| Failure::Usage(format!("{name} is not JSON: {error}")))
}
