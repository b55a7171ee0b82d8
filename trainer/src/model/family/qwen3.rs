//! Qwen3 (Yang et al., 2025), dense: queries and keys are normalised per head, and the head width is independent of the
//! hidden size.

use super::shared::{self, Defaults};
use super::{Family, Gguf, names, qwen2};
use crate::Result;
use crate::model::architecture::{Architecture, QkNorm};
use crate::model::config::keys::Keys;

pub(super) static FAMILY: Family = Family {
    model_type: "qwen3",
    causal_lm: "Qwen3ForCausalLM",
    classifier: "Qwen3ForSequenceClassification",
    prefix: "model.",
    ignored: &[],
    reads: &["attention_bias", "use_sliding_window"],
    architecture,
    gguf: Some(Gguf { architecture: "qwen3", interleaved: false, off: &["attention_bias", "use_sliding_window"] }),
    name: names::llama,
};

/// Default of transformers for this family.
const HEAD_DIM: i64 = 128;

fn architecture(keys: &Keys) -> Result<Architecture> {
    let defaults =
        Defaults { key_value_heads: |_| qwen2::KEY_VALUE_HEADS, head_dim: |_, _| HEAD_DIM, ..Defaults::LLAMA };
    let found = qwen2::with_window(keys, shared::read(keys, &defaults)?)?;
    Ok(Architecture { qk_norm: QkNorm::PerHead, attention_bias: shared::attention_bias(keys)?, ..found })
}
