//! What grows, and what must not grow with it: the cost of a line and of a look into the logs, over the number of streams and
//! over the size of the table.

use crate::log_growth::{Grows, LogGrowth};
use crate::log_text::LogText;
use crate::report::Table;
use crate::{growth_of_streams, growth_of_table};

/// Measures the row.
///
/// # Errors
/// A program or the database failed.
pub async fn measure(options: &LogGrowth) -> anyhow::Result<Vec<Table>> {
    let text = LogText::stock();
    let mut tables = Vec::new();
    if options.grows != Grows::Table {
        tables.extend(growth_of_streams::measure(options, &text).await?);
    }
    if options.grows != Grows::Streams {
        tables.extend(growth_of_table::measure(options, &text).await?);
    }
    Ok(tables)
}
