//! GPT-2 (Radford et al., 2019): learned positions, `LayerNorm`, biases everywhere, one projection to queries, keys and
//! values, and weights that are stored transposed.

use super::shared::{self, Plain};
use super::{Family, names};
use crate::Result;
use crate::model::architecture::{Architecture, AttentionInputs, LearnedPositions};
use crate::model::config::keys::{Keys, Range};
use crate::model::norm::Norm;
use crate::model::weights::{NormSite, Projection, WeightId};

pub(super) static FAMILY: Family = Family {
    model_type: "gpt2",
    causal_lm: "GPT2LMHeadModel",
    classifier: "GPT2ForSequenceClassification",
    prefix: "transformer.",
    // Masks that early versions of transformers saved.
    ignored: &[".attn.bias", ".attn.masked_bias"],
    reads: &[],
    architecture,
    gguf: None,
    name,
};

fn architecture(keys: &Keys) -> Result<Architecture> {
    let hidden = keys.required(one_of(keys, ["n_embd", "hidden_size"])?, 1, shared::WIDEST)?;
    let heads = keys.required(one_of(keys, ["n_head", "num_attention_heads"])?, 1, shared::WIDEST)?;
    shared::require_whole_heads(keys, "n_embd", hidden, heads)?;
    let context = shared::context(keys, one_of(keys, ["n_positions", "max_position_embeddings"])?)?;
    let inner = match keys.set("n_inner") {
        Some(_) => keys.required("n_inner", 1, shared::WIDEST)?,
        None => 4 * hidden,
    };
    let plain = Plain {
        hidden,
        heads,
        inner,
        layers: shared::depth(keys, one_of(keys, ["n_layer", "num_hidden_layers"])?)?,
        vocabulary: shared::vocabulary(keys)?,
        context,
        activation: shared::activation(keys, "activation_function", "gelu_new")?,
        norm: Norm::Layer { eps: keys.number("layer_norm_epsilon", Range::Positive)?.unwrap_or(1e-5) },
        tied: keys.flag_or("tie_word_embeddings", true)?,
    };
    let found = plain.architecture();
    shared::refuse_windows(keys, &found)?;
    Ok(Architecture {
        learned_positions: Some(LearnedPositions { rows: context, offset: 0 }),
        attention_inputs: AttentionInputs::Fused,
        transposed_projections: true,
        ..found
    })
}

/// The key that a config has of a size, which transformers reads under two names.
fn one_of(keys: &Keys, [own, usual]: [&'static str; 2]) -> Result<&'static str> {
    match (keys.get(own), keys.get(usual)) {
        (None, Some(_)) => Ok(usual),
        (Some(first), Some(second)) if first != second => {
            Err(keys.wrong(usual, &format!("what `{own}` says ({first})"), second))
        }
        _ => Ok(own),
    }
}

fn name(weight: WeightId) -> String {
    match weight {
        WeightId::Embedding => "transformer.wte.weight".to_owned(),
        WeightId::Positions => "transformer.wpe.weight".to_owned(),
        WeightId::FinalNorm => "transformer.ln_f.weight".to_owned(),
        WeightId::FinalNormBias => "transformer.ln_f.bias".to_owned(),
        WeightId::Head => "lm_head.weight".to_owned(),
        WeightId::Layer(layer, weight) => {
            let (module, what) = names::module_of(weight, norm, projection);
            format!("transformer.h.{layer}.{module}.{what}")
        }
    }
}

fn norm(site: NormSite) -> &'static str {
    match site {
        NormSite::BeforeMlp | NormSite::AfterMlp => "ln_2",
        _ => "ln_1",
    }
}

fn projection(projection: Projection) -> &'static str {
    match projection {
        Projection::Output => "attn.c_proj",
        Projection::Up | Projection::Gate | Projection::GateUp => "mlp.c_fc",
        Projection::Down => "mlp.c_proj",
        _ => "attn.c_attn",
    }
}
