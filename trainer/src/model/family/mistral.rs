//! Mistral 7B (Jiang et al., 2023) and its successors: Llama with a sliding window in every layer.

use serde_json::Value;

use super::shared::{self, Defaults};
use super::{Family, names};
use crate::Result;
use crate::model::architecture::Architecture;
use crate::model::config::keys::Keys;

pub(super) static FAMILY: Family = Family {
    model_type: "mistral",
    causal_lm: "MistralForCausalLM",
    classifier: "MistralForSequenceClassification",
    prefix: "model.",
    ignored: &[],
    reads: &[],
    architecture,
    gguf: None,
    name: names::llama,
};

/// Defaults of transformers for this family.
const KEY_VALUE_HEADS: i64 = 8;
const WINDOW: i64 = 4096;

fn architecture(keys: &Keys) -> Result<Architecture> {
    if keys.get("num_key_value_heads").is_some_and(Value::is_null) {
        return Err(keys.missing("num_key_value_heads"));
    }
    let found = shared::read(keys, &Defaults { key_value_heads: |_| KEY_VALUE_HEADS, ..Defaults::LLAMA })?;
    let window = keys.positive_or_null("sliding_window", Some(WINDOW))?;
    shared::refuse_other_layers(keys, &found, window)?;
    Ok(shared::with_window(found, window, |_| true))
}
