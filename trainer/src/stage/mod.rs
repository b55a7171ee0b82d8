//! stage
pub mod import;
