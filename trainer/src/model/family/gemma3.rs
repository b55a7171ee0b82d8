//! Gemma 3 (Gemma Team, 2025), text: Gemma 2 without caps, with norms of queries and keys, and five layers with a sliding
//! window and positions of their own for each without.

use serde_json::Value;

use super::{Family, gemma2, names, shared};
use crate::Result;
use crate::model::architecture::{Architecture, LayerKind, QkNorm};
use crate::model::config::keys::{Keys, Range};
use crate::model::config::rope::{self, RopeForm};
use crate::model::rotary::scaling::RotaryPositions;

pub(super) static FAMILY: Family = Family {
    model_type: "gemma3_text",
    causal_lm: "Gemma3ForCausalLM",
    classifier: "Gemma3TextForSequenceClassification",
    prefix: "model.",
    ignored: &[],
    reads: &["attention_bias", "query_pre_attn_scalar", "final_logit_softcapping"],
    architecture,
    gguf: None,
    name: names::norms_around,
};

/// Defaults of transformers for this family.
const THETA: f64 = 1_000_000.0;
const LOCAL_THETA: f64 = 10_000.0;
const PATTERN: i64 = 6;

/// Indices of the two rotary embeddings.
const GLOBAL: usize = 0;
const LOCAL: usize = 1;

fn architecture(keys: &Keys) -> Result<Architecture> {
    let found = gemma2::around(keys, shared::without_positions(keys, &gemma2::defaults())?)?;
    let rotary = rotary(keys, &RopeForm::usual(found.head_dim, found.max_position_embeddings))?;
    let pattern = keys.whole("sliding_window_pattern", 1, i64::MAX)?.unwrap_or(PATTERN);
    let listed = shared::sliding_layers(keys, found.num_hidden_layers)?;
    let sliding = |layer: usize| listed.as_ref().map_or((layer as i64 + 1) % pattern != 0, |listed| listed[layer]);
    let kind =
        |(i, layer): (usize, &LayerKind)| LayerKind { rotary: Some(if sliding(i) { LOCAL } else { GLOBAL }), ..*layer };
    let layers = found.layers.iter().enumerate().map(kind).collect();
    let window = gemma2::window(keys)?;
    let found = shared::with_window(Architecture { layers, ..found }, window, sliding);
    let logit_softcap = gemma2::cap(keys, "final_logit_softcapping", None)?;
    Ok(Architecture { rotary: rotary.into(), qk_norm: QkNorm::PerHead, logit_softcap, ..found })
}

/// The embeddings of layers without and with a window. transformers 5 writes an object each, earlier versions two bases and
/// a scaling of the first.
fn rotary(keys: &Keys, form: &RopeForm) -> Result<[RotaryPositions; 2]> {
    let theta = keys.number("rope_theta", Range::FromOne)?.unwrap_or(THETA);
    let local = keys.number("rope_local_base_freq", Range::FromOne)?.unwrap_or(LOCAL_THETA);
    let scaling = keys.object("rope_scaling", "rope_scaling.")?;
    let old = [
        scaling.map_or_else(
            || Ok(RotaryPositions::unscaled(theta, form.head_dim)),
            |object| rope::settings(keys, &object, form, theta),
        )?,
        RotaryPositions::unscaled(local, form.head_dim),
    ];
    let Some(nested) = keys.object("rope_parameters", "rope_parameters.")? else { return Ok(old) };
    if let Some((key, found)) = nested.entries().find(|(key, _)| !["full_attention", "sliding_attention"].contains(key))
    {
        return Err(nested.not_computed(key, found));
    }
    let read = |key: &str, path: &'static str, theta: f64| match nested.object(key, path)? {
        Some(object) => rope::settings(keys, &object, form, theta),
        None => Ok(RotaryPositions::unscaled(theta, form.head_dim)),
    };
    let new = [
        read("full_attention", "rope_parameters.full_attention.", theta)?,
        read("sliding_attention", "rope_parameters.sliding_attention.", local)?,
    ];
    let has_old = ["rope_theta", "rope_local_base_freq", "rope_scaling"].into_iter().any(|key| keys.set(key).is_some());
    if has_old && old != new {
        let expected = "the same as `rope_theta`, `rope_local_base_freq` and `rope_scaling` say";
        return Err(keys.wrong("rope_parameters", expected, keys.get("rope_parameters").unwrap_or(&Value::Null)));
    }
    Ok(new)
}
