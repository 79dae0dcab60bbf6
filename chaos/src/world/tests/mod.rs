//! The world itself, tried with what lives in it.

mod replaced;
