//! Gemma 2 (Gemma Team, 2024): Gemma with norms around attention and MLP, capped scores and logits, and a sliding window in
//! every other layer.

use super::shared::{self, Defaults};
use super::{Family, gemma, names};
use crate::Result;
use crate::model::architecture::{Architecture, NormPlacement};
use crate::model::config::keys::{Keys, Range};

pub(super) static FAMILY: Family = Family {
    model_type: "gemma2",
    causal_lm: "Gemma2ForCausalLM",
    classifier: "Gemma2ForSequenceClassification",
    prefix: "model.",
    ignored: &[],
    reads: &["attention_bias", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"],
    architecture,
    gguf: None,
    name: names::norms_around,
};

/// Defaults of transformers for this family.
const ATTENTION_CAP: f64 = 50.0;
const LOGIT_CAP: f64 = 30.0;

fn architecture(keys: &Keys) -> Result<Architecture> {
    let found = around(keys, shared::read(keys, &defaults())?)?;
    let sliding = shared::sliding_layers(keys, found.num_hidden_layers)?;
    let has_window = |layer: usize| sliding.as_ref().map_or(layer.is_multiple_of(2), |sliding| sliding[layer]);
    let found = shared::with_window(found, window(keys)?, has_window);
    let attention_softcap = cap(keys, "attn_logit_softcapping", Some(ATTENTION_CAP))?;
    let logit_softcap = cap(keys, "final_logit_softcapping", Some(LOGIT_CAP))?;
    Ok(Architecture { attention_softcap, logit_softcap, ..found })
}

/// Defaults of transformers for Gemma 2 and 3.
pub(super) fn defaults() -> Defaults {
    Defaults { key_value_heads: |_| 4, ..gemma::DEFAULTS }
}

/// The sliding window of Gemma 2 and 3.
pub(super) fn window(keys: &Keys) -> Result<Option<i64>> {
    keys.positive_or_null("sliding_window", Some(4096))
}

/// What Gemma 2 and 3 share: norms around attention and MLP, the scales of embedding and scores.
pub(super) fn around(keys: &Keys, found: Architecture) -> Result<Architecture> {
    // Not read here by transformers, but by others.
    if keys.set("hidden_act").is_some() && shared::activation(keys, "hidden_act", "")? != found.activation {
        return Err(keys.unsupported("hidden_act"));
    }
    let scalar = keys.number("query_pre_attn_scalar", Range::Moderate)?.unwrap_or(256.0);
    Ok(Architecture {
        norm_placement: NormPlacement::Around,
        embedding_scale: Some((found.hidden_size as f64).sqrt()),
        attention_scale: Some(scalar.sqrt().recip()),
        attention_bias: shared::attention_bias(keys)?,
        ..found
    })
}

/// A cap; `absent` if the key is absent, `None` if it is null.
pub(super) fn cap(keys: &Keys, key: &str, absent: Option<f64>) -> Result<Option<f64>> {
    if keys.get(key).is_none() { Ok(absent) } else { keys.number_or_null(key, Range::Moderate) }
}
