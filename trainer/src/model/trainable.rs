//! Which weights of a decoder are trained: a low-rank adapter's, or all.

use std::collections::BTreeMap;

use plumbline_crds::training::{AdapterTarget, Training};
use tch::{Kind, Tensor};

use crate::model::decoder::Decoder;
use crate::model::lora;

/// Makes the weights that `training` names trainable and gives them by name. Trained weights are Float32; frozen ones
/// stay as they are.
pub fn make_trainable(decoder: &mut Decoder, training: &Training) -> BTreeMap<String, Tensor> {
    if let Some(adapter) = &training.adapter {
        lora::attach(decoder, adapter, training.seed as u64);
        decoder.frozen_layers = Some(lora::first_layer(decoder.layers.len(), adapter));
        return lora::parameters(decoder);
    }
    let mut named = BTreeMap::new();
    let mut train = |name: String, weight: &mut Tensor| {
        *weight = weight.to_kind(Kind::Float).detach().set_requires_grad(true);
        named.insert(name, weight.shallow_clone());
    };
    train("model.embed_tokens.weight".into(), &mut decoder.embedding);
    train("model.norm.weight".into(), &mut decoder.norm);
    if let Some(head) = &mut decoder.lm_head {
        train("lm_head.weight".into(), head);
    }
    for (i, layer) in decoder.layers.iter_mut().enumerate() {
        train(format!("model.layers.{i}.input_layernorm.weight"), &mut layer.input_norm);
        train(format!("model.layers.{i}.post_attention_layernorm.weight"), &mut layer.post_norm);
        for target in AdapterTarget::ALL {
            train(lora::weight_name(i, target), &mut layer.projection_mut(target).weight);
        }
    }
    named
}
