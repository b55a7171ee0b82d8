//! A decoder with or without its adapters.

use crate::model::decoder::Decoder;
use crate::model::linear::Adapters;

/// A model to compute with. With its adapters off, it is the model that they were added to.
#[derive(Clone, Copy)]
pub struct ModelView<'a> {
    /// The decoder.
    pub decoder: &'a Decoder,
    /// With or without its adapters.
    pub adapters: Adapters,
}
