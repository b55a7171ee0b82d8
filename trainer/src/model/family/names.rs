//! The weight names of the Llama family, which other families adopted.

use crate::model::weights::{LayerWeight, Projection, WeightId};

/// The name of a weight, relative to `model.`.
pub(super) fn llama(weight: WeightId) -> String {
    match weight {
        WeightId::Embedding => "model.embed_tokens.weight".to_owned(),
        WeightId::FinalNorm => "model.norm.weight".to_owned(),
        WeightId::Head => "lm_head.weight".to_owned(),
        WeightId::Layer(layer, weight) => {
            let (module, what) = match weight {
                LayerWeight::InputNorm => ("input_layernorm", "weight"),
                LayerWeight::PostNorm => ("post_attention_layernorm", "weight"),
                LayerWeight::QueryNorm => ("self_attn.q_norm", "weight"),
                LayerWeight::KeyNorm => ("self_attn.k_norm", "weight"),
                LayerWeight::Weight(p) => (projection(p), "weight"),
                LayerWeight::Bias(p) => (projection(p), "bias"),
            };
            format!("model.layers.{layer}.{module}.{what}")
        }
    }
}

fn projection(projection: Projection) -> &'static str {
    match projection {
        Projection::Query => "self_attn.q_proj",
        Projection::Key => "self_attn.k_proj",
        Projection::Value => "self_attn.v_proj",
        Projection::Output => "self_attn.o_proj",
        Projection::Gate => "mlp.gate_proj",
        Projection::Up => "mlp.up_proj",
        Projection::Down => "mlp.down_proj",
    }
}
