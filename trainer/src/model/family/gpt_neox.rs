//! GPT-NeoX (Black et al., 2022) and Pythia: attention and MLP side by side, partial rotation, one projection to queries,
//! keys and values, head by head.

use super::shared::{self, Plain};
use super::{Family, names};
use crate::Result;
use crate::model::architecture::{Architecture, AttentionBias, AttentionInputs, Residual};
use crate::model::config::keys::{Keys, Range};
use crate::model::config::rope::{self, RopeForm};
use crate::model::norm::Norm;
use crate::model::weights::{NormSite, Projection, WeightId};

pub(super) static FAMILY: Family = Family {
    model_type: "gpt_neox",
    causal_lm: "GPTNeoXForCausalLM",
    classifier: "GPTNeoXForSequenceClassification",
    prefix: "gpt_neox.",
    // Masks that early versions of transformers saved.
    ignored: &[".attention.bias", ".attention.masked_bias"],
    reads: &["attention_bias", "rotary_pct", "use_parallel_residual"],
    architecture,
    gguf: None,
    name,
};

fn architecture(keys: &Keys) -> Result<Architecture> {
    let hidden = keys.required("hidden_size", 1, shared::WIDEST)?;
    let heads = keys.required("num_attention_heads", 1, shared::WIDEST)?;
    shared::require_whole_heads(keys, "hidden_size", hidden, heads)?;
    let plain = Plain {
        hidden,
        heads,
        inner: keys.required("intermediate_size", 1, shared::WIDEST)?,
        layers: shared::depth(keys, "num_hidden_layers")?,
        vocabulary: shared::vocabulary(keys)?,
        context: shared::context(keys, "max_position_embeddings")?,
        activation: shared::activation(keys, "hidden_act", "gelu")?,
        norm: Norm::Layer { eps: keys.number("layer_norm_eps", Range::Positive)?.unwrap_or(1e-5) },
        tied: keys.flag("tie_word_embeddings")?,
    };
    let found = plain.architecture();
    let form = RopeForm {
        theta_key: "rotary_emb_base",
        partial: Some(("rotary_pct", 0.25)),
        ..RopeForm::usual(found.head_dim, found.max_position_embeddings)
    };
    let rotary = rope::read(keys, &form)?;
    // Other programs read this key, which transformers does not.
    if keys.number_or_null("rope_theta", Range::FromOne)?.is_some_and(|theta| theta.to_bits() != rotary.theta.to_bits())
    {
        return Err(keys.unsupported("rope_theta"));
    }
    let found = shared::with_rotary(keys, &found, rotary)?;
    shared::refuse_windows(keys, &found)?;
    let (bias, parallel) = (keys.flag_or("attention_bias", true)?, keys.flag_or("use_parallel_residual", true)?);
    Ok(Architecture {
        attention_inputs: AttentionInputs::FusedByHead,
        attention_bias: if bias { AttentionBias::All } else { AttentionBias::None },
        residual: if parallel { Residual::Parallel } else { Residual::Sequential },
        ..found
    })
}

fn name(weight: WeightId) -> String {
    match weight {
        WeightId::Embedding | WeightId::Positions => "gpt_neox.embed_in.weight".to_owned(),
        WeightId::FinalNorm => "gpt_neox.final_layer_norm.weight".to_owned(),
        WeightId::FinalNormBias => "gpt_neox.final_layer_norm.bias".to_owned(),
        WeightId::Head => "embed_out.weight".to_owned(),
        WeightId::Layer(layer, weight) => {
            let (module, what) = names::module_of(weight, norm, projection);
            format!("gpt_neox.layers.{layer}.{module}.{what}")
        }
    }
}

fn norm(site: NormSite) -> &'static str {
    match site {
        NormSite::BeforeMlp | NormSite::AfterMlp => "post_attention_layernorm",
        _ => "input_layernorm",
    }
}

fn projection(projection: Projection) -> &'static str {
    match projection {
        Projection::Output => "attention.dense",
        Projection::Up | Projection::Gate | Projection::GateUp => "mlp.dense_h_to_4h",
        Projection::Down => "mlp.dense_4h_to_h",
        _ => "attention.query_key_value",
    }
}
