//! Llama (Touvron et al., 2023): Llama 1 to 3, SmolLM2, TinyLlama and other models with `model_type` `llama`.

use super::shared::{self, Defaults};
use super::{Family, Gguf, names};
use crate::Result;
use crate::model::architecture::Architecture;
use crate::model::config::keys::Keys;

pub(super) static FAMILY: Family = Family {
    model_type: "llama",
    causal_lm: "LlamaForCausalLM",
    classifier: "LlamaForSequenceClassification",
    prefix: "model.",
    ignored: &[],
    reads: &["attention_bias", "mlp_bias"],
    architecture,
    gguf: Some(Gguf { architecture: "llama", interleaved: true, off: &["attention_bias", "mlp_bias"] }),
    name: names::llama,
};

fn architecture(keys: &Keys) -> Result<Architecture> {
    let found = shared::read(keys, &Defaults::LLAMA)?;
    shared::require_whole_heads(keys, "hidden_size", found.hidden_size, found.num_attention_heads)?;
    shared::refuse_windows(keys, &found)?;
    let (attention_bias, mlp_bias) = (shared::attention_bias(keys)?, keys.flag("mlp_bias")?);
    Ok(Architecture { attention_bias, mlp_bias, ..found })
}
