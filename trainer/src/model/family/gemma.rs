//! Gemma (Gemma Team, 2024): Llama with a scaled embedding, norms whose scale is one more than stored, and a GELU gate.

use super::shared::{self, Defaults};
use super::{Family, names};
use crate::Result;
use crate::model::architecture::{Activation, Architecture};
use crate::model::config::keys::Keys;
use crate::model::norm::RmsScale;

pub(super) static FAMILY: Family = Family {
    model_type: "gemma",
    causal_lm: "GemmaForCausalLM",
    classifier: "GemmaForSequenceClassification",
    prefix: "model.",
    ignored: &[],
    reads: &["attention_bias"],
    architecture,
    gguf: None,
    name: names::llama,
};

/// Defaults of transformers for all versions of Gemma.
pub(super) const DEFAULTS: Defaults = Defaults {
    head_dim: |_, _| 256,
    activation: ("hidden_activation", "gelu_pytorch_tanh"),
    norm_scale: RmsScale::PlusOne,
    tied: true,
    ..Defaults::LLAMA
};
/// Of this version.
const KEY_VALUE_HEADS: i64 = 16;

fn architecture(keys: &Keys) -> Result<Architecture> {
    let defaults =
        Defaults { key_value_heads: |_| KEY_VALUE_HEADS, activation: ("hidden_act", "gelu_pytorch_tanh"), ..DEFAULTS };
    let found = shared::read(keys, &defaults)?;
    // The first configs said `gelu` and meant its approximation; later ones have a second key.
    let activation = if found.activation == Activation::Gelu { Activation::GeluTanh } else { found.activation };
    if keys.set("hidden_activation").is_some() && shared::activation(keys, "hidden_activation", "")? != activation {
        return Err(keys.unsupported("hidden_activation"));
    }
    shared::refuse_windows(keys, &found)?;
    let embedding_scale = Some((found.hidden_size as f64).sqrt());
    Ok(Architecture { activation, embedding_scale, attention_bias: shared::attention_bias(keys)?, ..found })
}
