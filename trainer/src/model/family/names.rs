//! The weight names of the Llama family, which other families adopted.

use crate::model::weights::{LayerWeight, NormSite, Projection, WeightId};

/// The name of a weight in families with norms before attention and MLP.
pub(super) fn llama(weight: WeightId) -> String {
    named(weight, |site| match site {
        NormSite::BeforeMlp => "post_attention_layernorm",
        other => norm(other),
    })
}

/// The name of a weight in families with norms after attention and MLP: the name that Llama gives to the norm before the
/// MLP is that of the one after attention.
pub(super) fn norms_around(weight: WeightId) -> String {
    named(weight, norm)
}

/// The module of a layer's weight, and what of it the weight is.
pub(super) fn module_of(
    weight: LayerWeight,
    norm: impl Fn(NormSite) -> &'static str,
    projection: impl Fn(Projection) -> &'static str,
) -> (&'static str, &'static str) {
    match weight {
        LayerWeight::Norm(site) => (norm(site), "weight"),
        LayerWeight::NormBias(site) => (norm(site), "bias"),
        LayerWeight::Weight(p) => (projection(p), "weight"),
        LayerWeight::Bias(p) => (projection(p), "bias"),
    }
}

fn named(weight: WeightId, norm: impl Fn(NormSite) -> &'static str) -> String {
    match weight {
        WeightId::Embedding => "model.embed_tokens.weight".to_owned(),
        WeightId::Positions => "model.embed_positions.weight".to_owned(),
        WeightId::FinalNorm => "model.norm.weight".to_owned(),
        WeightId::FinalNormBias => "model.norm.bias".to_owned(),
        WeightId::Head => "lm_head.weight".to_owned(),
        WeightId::Layer(layer, weight) => {
            let (module, what) = module_of(weight, norm, projection);
            format!("model.layers.{layer}.{module}.{what}")
        }
    }
}

fn norm(site: NormSite) -> &'static str {
    match site {
        NormSite::BeforeAttention => "input_layernorm",
        NormSite::Query => "self_attn.q_norm",
        NormSite::Key => "self_attn.k_norm",
        NormSite::AfterAttention => "post_attention_layernorm",
        NormSite::BeforeMlp => "pre_feedforward_layernorm",
        NormSite::AfterMlp => "post_feedforward_layernorm",
    }
}

fn projection(projection: Projection) -> &'static str {
    match projection {
        Projection::QueryKeyValue => "self_attn.qkv_proj",
        Projection::Query => "self_attn.q_proj",
        Projection::Key => "self_attn.k_proj",
        Projection::Value => "self_attn.v_proj",
        Projection::Output => "self_attn.o_proj",
        Projection::GateUp => "mlp.gate_up_proj",
        Projection::Gate => "mlp.gate_proj",
        Projection::Up => "mlp.up_proj",
        Projection::Down => "mlp.down_proj",
    }
}
