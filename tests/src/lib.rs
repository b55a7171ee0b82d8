//! The test kit.

pub mod judge_sim;
