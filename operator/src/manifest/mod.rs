//! Manifests as text: where they are read from (`read`), and what stands in them, with line numbers (`yaml`).

pub mod read;
pub mod yaml;
