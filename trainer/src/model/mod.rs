//! The decoder.

pub mod decoder;
