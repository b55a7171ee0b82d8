//! The optimiser and the learning-rate schedule.

pub mod adamw;
pub mod schedule;

pub use adamw::{AdamW, copy_to_cpu};
