//! The decoder of the Llama family.

use std::path::Path;

use plumbline_crds::training::Precision;

use crate::Result;

/// A causal decoder.
pub struct Decoder {}

impl Decoder {
    /// Loads a Hugging Face folder for inference (no gradients).
    pub fn load(_folder: &Path, _precision: Precision) -> Result<Self> {
        todo!()
    }
}
