//! Llama (Touvron et al., 2023): Llama 1 to 3, SmolLM2, TinyLlama and other models with `model_type` `llama`.

use super::{Family, Gguf, names, shared};
use crate::Result;
use crate::model::architecture::Architecture;
use crate::model::config::keys::Keys;

pub(super) static FAMILY: Family = Family {
    model_type: "llama",
    class: "Llama",
    prefix: "model.",
    reads: &[],
    architecture,
    gguf: Some(Gguf { architecture: "llama", interleaved: true, off: &["attention_bias", "mlp_bias"] }),
    name: names::llama,
};

fn architecture(keys: &Keys) -> Result<Architecture> {
    let found = shared::read(keys, |heads| heads, |hidden, heads| hidden / heads)?;
    if found.hidden_size % found.num_attention_heads != 0 {
        let expected = format!("a multiple of `num_attention_heads` ({})", found.num_attention_heads);
        return Err(keys.wrong("hidden_size", &expected, &found.hidden_size.into()));
    }
    let window = keys.positive_or_null("sliding_window", None)?;
    shared::refuse_window(keys, window, found.max_position_embeddings)?;
    Ok(found)
}
