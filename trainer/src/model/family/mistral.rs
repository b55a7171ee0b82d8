//! Mistral 7B (Jiang et al., 2023) and its successors; attention covers the whole context.

use serde_json::Value;

use super::{Family, names, shared};
use crate::model::architecture::Architecture;
use crate::model::config::keys::Keys;
use crate::{Error, Result};

pub(super) static FAMILY: Family = Family {
    model_type: "mistral",
    class: "Mistral",
    prefix: "model.",
    reads: &[],
    architecture,
    gguf: None,
    name: names::llama,
};

/// Default of transformers for this family.
const KEY_VALUE_HEADS: i64 = 8;
const WINDOW: i64 = 4096;

fn architecture(keys: &Keys) -> Result<Architecture> {
    if keys.get("num_key_value_heads").is_some_and(Value::is_null) {
        return Err(keys.missing("num_key_value_heads"));
    }
    let found = shared::read(keys, |_| KEY_VALUE_HEADS, |hidden, heads| hidden / heads)?;
    let context = found.max_position_embeddings;
    if keys.get("sliding_window").is_none() && WINDOW < context {
        return Err(Error::Config(format!(
            "config.json: `sliding_window` is absent, which means {WINDOW} in this family, and `max_position_embeddings` is {context}; \
             the decoder does not support sliding windows: set it to null if the model has none"
        )));
    }
    shared::refuse_window(keys, keys.positive_or_null("sliding_window", Some(WINDOW))?, context)?;
    Ok(found)
}
