//! Qwen2 and Qwen2.5 (Yang et al., 2024): Llama with biases on queries, keys and values.

use super::{Family, Gguf, names, shared};
use crate::Result;
use crate::model::architecture::{Architecture, AttentionBias};
use crate::model::config::keys::Keys;

pub(super) static FAMILY: Family = Family {
    model_type: "qwen2",
    class: "Qwen2",
    prefix: "model.",
    reads: &["use_sliding_window"],
    architecture,
    gguf: Some(Gguf { architecture: "qwen2", interleaved: false, off: &["use_sliding_window"] }),
    name: names::llama,
};

/// Default of transformers for this family.
pub(super) const KEY_VALUE_HEADS: i64 = 32;
const WINDOW: i64 = 4096;
const MAX_WINDOW_LAYERS: i64 = 28;

fn architecture(keys: &Keys) -> Result<Architecture> {
    let found = shared::read(keys, |_| KEY_VALUE_HEADS, |hidden, heads| hidden / heads)?;
    refuse_window(keys, &found)?;
    Ok(Architecture { attention_bias: AttentionBias::QueryKeyValue, ..found })
}

/// Rejects a sliding window that hides tokens of the context: one that is enabled and applies to a layer. It applies
/// from `max_window_layers` on, unless `layer_types` lists the layers; that was checked before.
pub(super) fn refuse_window(keys: &Keys, found: &Architecture) -> Result<()> {
    let window = keys.positive_or_null("sliding_window", Some(WINDOW))?;
    let first = keys.whole("max_window_layers", 0, i64::MAX)?.unwrap_or(MAX_WINDOW_LAYERS);
    let has_windows =
        keys.flag("use_sliding_window")? && keys.set("layer_types").is_none() && first < found.num_hidden_layers;
    shared::refuse_window(keys, window.filter(|_| has_windows), found.max_position_embeddings)
}
