//! v
pub mod problem;
pub mod schema;
