//! The operator.
pub mod crds;
pub mod inputs;
pub mod manifest;
pub mod validate;
