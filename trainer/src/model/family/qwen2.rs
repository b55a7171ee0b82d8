//! Qwen2 and Qwen2.5 (Yang et al., 2024): Llama with biases on queries, keys and values, and sliding windows in some layers.

use super::shared::{self, Defaults};
use super::{Family, Gguf, names};
use crate::Result;
use crate::model::architecture::{Architecture, AttentionBias};
use crate::model::config::keys::Keys;

pub(super) static FAMILY: Family = Family {
    model_type: "qwen2",
    causal_lm: "Qwen2ForCausalLM",
    classifier: "Qwen2ForSequenceClassification",
    prefix: "model.",
    ignored: &[],
    reads: &["use_sliding_window"],
    architecture,
    gguf: Some(Gguf { architecture: "qwen2", interleaved: false, off: &["use_sliding_window"] }),
    name: names::llama,
};

/// Defaults of transformers for this family.
pub(super) const KEY_VALUE_HEADS: i64 = 32;
const WINDOW: i64 = 4096;
const MAX_WINDOW_LAYERS: i64 = 28;

fn architecture(keys: &Keys) -> Result<Architecture> {
    let found = shared::read(keys, &Defaults { key_value_heads: |_| KEY_VALUE_HEADS, ..Defaults::LLAMA })?;
    let found = with_window(keys, found)?;
    Ok(Architecture { attention_bias: AttentionBias::QueryKeyValue, ..found })
}

/// The sliding window, if it is enabled: of the layers that `layer_types` lists, or from layer `max_window_layers` on.
pub(super) fn with_window(keys: &Keys, found: Architecture) -> Result<Architecture> {
    let window = keys.positive_or_null("sliding_window", Some(WINDOW))?;
    let window = if keys.flag("use_sliding_window")? { window } else { None };
    let first = keys.whole("max_window_layers", 0, i64::MAX)?.unwrap_or(MAX_WINDOW_LAYERS);
    match shared::sliding_layers(keys, found.num_hidden_layers)? {
        Some(sliding) if window.is_none() && sliding.contains(&true) => Err(keys.unsupported("layer_types")),
        Some(sliding) => Ok(shared::with_window(found, window, |layer| sliding[layer])),
        None => Ok(shared::with_window(found, window, |layer| layer as i64 >= first)),
    }
}
