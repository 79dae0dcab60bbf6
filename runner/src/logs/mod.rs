//! From the bytes a child printed to the rows that are stored.
//!
//! ```text
//! pipe -> (events) -> sanitise -> redact -> frame -> cap -> number and chunk -> batch
//! ```
//!
//! Nothing in here does I/O, reads a clock or draws a random number: bytes and arrival times come in, [`Chunk`]s go
//! out, and every buffer on the way has a stated bound. What text a stream's bytes become does not depend on how the
//! pipe was read, how the two streams took turns or where chunks end: it is [`redacted`] of [`stored_text`] for plain
//! output and of [`stored_event_text`] for `-json` events, up to the attempt's cap. `docs/LOGS.md` tells the same to
//! readers of logs.

mod cap;
mod capture;
mod chunk;
mod diagnostic;
mod events;
mod frame;
mod lock;
mod outputs;
mod progress;
mod redact;
mod redact_tokens;
mod sanitise;
mod secret_forms;
mod secrets;
mod stream;
#[cfg(test)]
mod tests;

pub use cap::TAIL_OVERHEAD_BYTES;
pub use capture::{Capture, Dialect, stored_event_text};
pub use chunk::{Chunk, ChunkKind, Chunker, Counters, Gap, GapKind, MAX_CHUNK_BYTES, SYSTEM_BYTES};
pub use diagnostic::Problem;
pub use events::{Events, MAX_EVENT_BYTES, MAX_PROBLEMS, Rendered};
pub use frame::{Framer, MAX_RECORD_BYTES, Record};
pub use lock::{LOCK_CONFLICT, LockHolder};
pub use outputs::{MASKED, without_nul};
pub use progress::{
    Action, MAX_ADDRESS_BYTES, MAX_RESOURCES, Progress, ProgressUpdate, ResourceProgress, State, Totals,
};
pub use redact::{REDACTED, Redactor, redacted, value_without_secrets, without_secrets};
pub use redact_tokens::{KEY_MISSES, MAX_JWT_HEADER_BYTES, MAX_KEY_BYTES};
pub use sanitise::{MAX_CONTROL_BYTES, MAX_STRING_BYTES, Sanitiser, stored_text};
pub use secret_forms::{MIN_LINE_BYTES, MIN_VALUE_BYTES};
pub use secrets::{MAX_THOROUGH_BYTES, Secret, Secrets, TooMany, Unredacted};
pub use stream::Stream;
