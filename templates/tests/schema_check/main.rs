//! The checker of inputs, held against its shared cases, against another implementation of JSON Schema,
//! and against the same checker in Postgres.

#![expect(clippy::expect_used, reason = "a test ends where its own set-up fails")]

mod cases;
mod generated;
mod oracle;
mod postgres;
