//! Qwen3 (Yang et al., 2025), dense: queries and keys are normalised per head, and the head width is independent of the
//! hidden size.

use super::{Family, Gguf, names, qwen2, shared};
use crate::Result;
use crate::model::architecture::{Architecture, AttentionBias};
use crate::model::config::keys::Keys;

pub(super) static FAMILY: Family = Family {
    model_type: "qwen3",
    class: "Qwen3",
    prefix: "model.",
    reads: &["attention_bias", "use_sliding_window"],
    architecture,
    gguf: Some(Gguf { architecture: "qwen3", interleaved: false, off: &["attention_bias", "use_sliding_window"] }),
    name: names::llama,
};

/// Default of transformers for this family.
const HEAD_DIM: i64 = 128;

fn architecture(keys: &Keys) -> Result<Architecture> {
    let found = shared::read(keys, |_| qwen2::KEY_VALUE_HEADS, |_, _| HEAD_DIM)?;
    qwen2::refuse_window(keys, &found)?;
    let attention_bias = if keys.flag("attention_bias")? { AttentionBias::All } else { AttentionBias::None };
    Ok(Architecture { qk_norm: true, attention_bias, ..found })
}
