//! `SmolLM3` (Bakouch et al., 2025): Llama, of which every fourth layer has no positions.

use super::shared::{self, Defaults};
use super::{Family, names};
use crate::Result;
use crate::model::architecture::{Architecture, LayerKind};
use crate::model::config::keys::Keys;
use crate::model::config::rope::{self, RopeForm};

pub(super) static FAMILY: Family = Family {
    model_type: "smollm3",
    causal_lm: "SmolLM3ForCausalLM",
    classifier: "SmolLM3ForSequenceClassification",
    prefix: "model.",
    ignored: &[],
    // No version of transformers computed this family in slices (`pretraining_tp`), whatever its configs say.
    reads: &["attention_bias", "mlp_bias", "no_rope_layers", "use_sliding_window", "pretraining_tp"],
    architecture,
    gguf: None,
    name: names::llama,
};

/// Defaults of transformers for this family.
const KEY_VALUE_HEADS: i64 = 4;
const THETA: f64 = 2_000_000.0;
const INTERVAL: i64 = 4;

fn architecture(keys: &Keys) -> Result<Architecture> {
    let defaults = Defaults { key_value_heads: |_| KEY_VALUE_HEADS, tied: true, ..Defaults::LLAMA };
    let found = shared::without_positions(keys, &defaults)?;
    let form = RopeForm { theta: THETA, ..RopeForm::usual(found.head_dim, found.max_position_embeddings) };
    let found = shared::with_rotary(keys, &found, rope::read(keys, &form)?)?;
    let interval = keys.whole("no_rope_layer_interval", 1, i64::MAX)?.unwrap_or(INTERVAL);
    // 1 where a layer has positions.
    let listed = keys.per_layer("no_rope_layers", found.num_hidden_layers, |flag| match flag.as_i64()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    })?;
    let rotated = |layer: usize| listed.as_ref().map_or((layer as i64 + 1) % interval != 0, |flags| flags[layer]);
    let kind = |(i, layer): (usize, &LayerKind)| LayerKind { rotary: layer.rotary.filter(|_| rotated(i)), ..*layer };
    let layers = found.layers.iter().enumerate().map(kind).collect();
    let found = Architecture { layers, ..found };

    let window = keys.positive_or_null("sliding_window", None)?;
    let window = if keys.flag("use_sliding_window")? { window } else { None };
    let sliding = shared::sliding_layers(keys, found.num_hidden_layers)?;
    if window.is_none() && sliding.as_ref().is_some_and(|sliding| sliding.contains(&true)) {
        return Err(keys.unsupported("layer_types"));
    }
    let has_window = |layer: usize| sliding.as_ref().map_or(!rotated(layer), |sliding| sliding[layer]);
    let found = shared::with_window(found, window, has_window);
    let (attention_bias, mlp_bias) = (shared::attention_bias(keys)?, keys.flag("mlp_bias")?);
    Ok(Architecture { attention_bias, mlp_bias, ..found })
}
