//! Selects the weights of a decoder that are trained: those of a low-rank adapter, or all.

use std::collections::BTreeMap;

use plumbline_crds::training::Training;
use tch::{Kind, Tensor};

use crate::Result;
use crate::model::decoder::Decoder;
use crate::model::lora;
use crate::model::weights::WeightId;

/// Makes the weights selected by `training` trainable and returns them by name. Trained weights are Float32; frozen
/// ones keep their kind.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) for an adapter target that the model does not have.
pub fn make_trainable(decoder: &mut Decoder, training: &Training) -> Result<BTreeMap<String, Tensor>> {
    if let Some(adapter) = &training.adapter {
        lora::attach(decoder, adapter, training.seed as u64)?;
        decoder.frozen_layers = Some(lora::first_layer(decoder.layers.len(), adapter));
        return Ok(lora::parameters(decoder));
    }
    let ids: Vec<WeightId> = decoder.weights().map(|(id, _)| id).collect();
    let mut named = BTreeMap::new();
    for id in ids {
        let name = decoder.config.name(id);
        if let Some(weight) = decoder.weight_mut(id) {
            *weight = weight.to_kind(Kind::Float).detach().set_requires_grad(true);
            named.insert(name, weight.shallow_clone());
        }
    }
    Ok(named)
}
