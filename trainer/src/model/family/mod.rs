//! The supported model families, one file each: how to read the family's `config.json`, and the names of its weights in
//! Hugging Face checkpoints. A new family is a file here and a line in [`FAMILIES`].

use std::fmt;

use serde_json::Value;

use crate::model::architecture::Architecture;
use crate::model::config::keys::Keys;
use crate::model::weights::WeightId;
use crate::{Error, Result};

mod gemma;
mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_neox;
mod llama;
mod mistral;
mod names;
mod olmo2;
mod opt;
mod phi3;
mod qwen2;
mod qwen3;
mod shared;
mod smollm3;

/// Every supported family.
pub static FAMILIES: [&Family; 13] = [
    &llama::FAMILY,
    &smollm3::FAMILY,
    &mistral::FAMILY,
    &qwen2::FAMILY,
    &qwen3::FAMILY,
    &gemma::FAMILY,
    &gemma2::FAMILY,
    &gemma3::FAMILY,
    &phi3::FAMILY,
    &olmo2::FAMILY,
    &gpt2::FAMILY,
    &gpt_neox::FAMILY,
    &opt::FAMILY,
];

/// A family of models.
pub struct Family {
    /// Value of `model_type` in `config.json`.
    pub model_type: &'static str,
    /// Its class in transformers with a language model's head.
    pub causal_lm: &'static str,
    /// Its class in transformers with a score's head.
    pub classifier: &'static str,
    /// Prefix of the names of all weights but the heads' in transformers (`base_model_prefix`).
    pub prefix: &'static str,
    /// How the names of tensors end that transformers ignores.
    pub ignored: &'static [&'static str],
    /// Keys of `config.json` that this family supports and others reject.
    pub reads: &'static [&'static str],
    /// Reads `config.json`. Keys that no family supports have been rejected before.
    pub(in crate::model) architecture: fn(&Keys) -> Result<Architecture>,
    /// How its GGUF files differ; `None` if they are labelled as another family.
    pub gguf: Option<Gguf>,
    /// The name of a weight in a checkpoint, where it has the shape of [`Architecture::shape`].
    pub name: fn(WeightId) -> String,
}

/// How GGUF files represent a family.
pub struct Gguf {
    /// Value of `general.architecture`.
    pub architecture: &'static str,
    /// Whether the rows of query and key projections are interleaved within each head.
    pub interleaved: bool,
    /// Keys of `config.json` that must be false for a model to be representable as GGUF.
    pub off: &'static [&'static str],
}

impl Family {
    /// The family named by a `config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] with a list of supported families.
    pub(in crate::model) fn of(keys: &Keys) -> Result<&'static Self> {
        let found = keys.get("model_type").unwrap_or(&Value::Null);
        FAMILIES.into_iter().find(|family| found == family.model_type).ok_or_else(|| {
            let known = FAMILIES.map(|family| family.model_type).join(", ");
            let name = found.as_str().unwrap_or_default();
            let experts =
                ["moe", "mixtral", "dbrx", "deepseek", "llama4", "gpt_oss"].iter().any(|part| name.contains(part));
            let what = if experts { " (a mixture of experts)" } else { "" };
            Error::Config(format!("config.json: unsupported `model_type` {found}{what}; supported are {known}"))
        })
    }
}

impl PartialEq for Family {
    fn eq(&self, other: &Self) -> bool {
        self.model_type == other.model_type
    }
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.model_type)
    }
}
