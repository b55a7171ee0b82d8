//! The parts of `config.json` that several families read alike.

use serde_json::Value;

use crate::Result;
use crate::model::architecture::{Activation, Architecture, AttentionBias, Norm};
use crate::model::config::keys::{Keys, Range};
use crate::model::config::rope;

/// Upper bounds of sizes, far beyond those of existing models: products of sizes cannot overflow, and a corrupt number
/// cannot exhaust memory before a tensor's shape contradicts it.
const WIDEST: i64 = 1 << 20;
const DEEPEST: i64 = 1 << 12;
const LARGEST_VOCABULARY: i64 = 1 << 24;
const LONGEST_CONTEXT: i64 = 1 << 24;

/// Reads a decoder with Llama's structure: RMSNorm before attention and MLP, a gated MLP, rotary positions, no bias.
/// Two defaults of transformers differ by family: `key_value_heads`, a function of the number of query heads (null
/// means as many as those), and `default_head_dim`, a function of the hidden size and the number of query heads.
pub(super) fn read(
    keys: &Keys,
    key_value_heads: impl Fn(i64) -> i64,
    default_head_dim: impl Fn(i64, i64) -> i64,
) -> Result<Architecture> {
    let hidden_size = keys.required("hidden_size", 1, WIDEST)?;
    let heads = keys.required("num_attention_heads", 1, WIDEST)?;
    let kv_heads = match keys.get("num_key_value_heads") {
        Some(Value::Null) => heads,
        None => key_value_heads(heads),
        Some(_) => keys.required("num_key_value_heads", 1, WIDEST)?,
    };
    if heads % kv_heads != 0 {
        let expected = format!("a divisor of `num_attention_heads` ({heads})");
        return Err(keys.wrong("num_key_value_heads", &expected, &kv_heads.into()));
    }
    Ok(Architecture {
        hidden_size,
        intermediate_size: keys.required("intermediate_size", 1, WIDEST)?,
        num_hidden_layers: keys.required("num_hidden_layers", 1, DEEPEST)?,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        head_dim: head_dim(keys, default_head_dim(hidden_size, heads), heads)?,
        vocab_size: keys.required("vocab_size", 1, LARGEST_VOCABULARY)?,
        max_position_embeddings: keys.required("max_position_embeddings", 2, LONGEST_CONTEXT)?,
        norm: Norm::Rms { eps: keys.number("rms_norm_eps", Range::Positive)?.unwrap_or(1e-6) },
        qk_norm: false,
        activation: Activation::Silu,
        rotary: rope::read(keys)?,
        attention_bias: AttentionBias::None,
        tie_word_embeddings: keys.flag("tie_word_embeddings")?,
    })
}

/// The head width; `otherwise` if the config has none. It must be even, as rotary positions rotate pairs of dimensions.
fn head_dim(keys: &Keys, otherwise: i64, heads: i64) -> Result<i64> {
    let found = match keys.set("head_dim") {
        None => otherwise,
        Some(_) => keys.required("head_dim", 1, WIDEST)?,
    };
    if found < 2 || found % 2 != 0 || heads * found > WIDEST {
        let expected = format!("an even number of at least 2, {heads} times which is at most {WIDEST},");
        return Err(keys.wrong("head_dim", &expected, &found.into()));
    }
    Ok(found)
}

/// Rejects a sliding window that hides tokens of the context.
pub(super) fn refuse_window(keys: &Keys, window: Option<i64>, context: i64) -> Result<()> {
    match window {
        Some(window) if window < context => Err(keys.not_computed("sliding_window", &window.into())),
        _ => Ok(()),
    }
}
