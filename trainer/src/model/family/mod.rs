//! The families of models that are supported, one file each: what a family's `config.json` says, and what its weights are
//! called in Hugging Face checkpoints. A new family is a file here and a line in [`FAMILIES`].

use std::fmt;

use serde_json::Value;

use crate::model::architecture::Architecture;
use crate::model::config::keys::Keys;
use crate::model::weights::WeightId;
use crate::{Error, Result};

mod llama;
mod mistral;
mod names;
mod qwen2;
mod qwen3;
mod shared;

/// Every family that works.
pub static FAMILIES: [&Family; 4] = [&llama::FAMILY, &mistral::FAMILY, &qwen2::FAMILY, &qwen3::FAMILY];

/// A family of models.
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// What its classes in transformers start with (`Llama` in `LlamaForCausalLM`).
    pub class: &'static str,
    /// What transformers puts before the names of all weights but the heads' (its `base_model_prefix`).
    pub prefix: &'static str,
    /// Keys of `config.json` that other families refuse and this one reads.
    pub reads: &'static [&'static str],
    /// What `config.json` describes. Keys that no family computes were refused before.
    pub(in crate::model) architecture: fn(&Keys) -> Result<Architecture>,
    /// The GGUF files of this family; none where they say that they are of another.
    pub gguf: Option<Gguf>,
    /// The name of a weight in a checkpoint, which holds it as [`Architecture::shape`] says.
    pub name: fn(WeightId) -> String,
}

/// What GGUF files make of a family.
pub struct Gguf {
    /// `general.architecture`.
    pub architecture: &'static str,
    /// Whether the rows of query and key projections are interleaved, head by head.
    pub interleaved: bool,
    /// Keys of `config.json` that are false in a model that such a file can hold.
    pub off: &'static [&'static str],
}

impl Family {
    /// The family that a `config.json` names.
    ///
    /// # Errors
    /// [`Error::Config`] with the families that work.
    pub(in crate::model) fn of(keys: &Keys) -> Result<&'static Self> {
        let found = keys.get("model_type").unwrap_or(&Value::Null);
        FAMILIES.into_iter().find(|family| found == family.model_type).ok_or_else(|| {
            let known = FAMILIES.map(|family| family.model_type).join(", ");
            Error::Config(format!("config.json: unsupported `model_type` {found}; supported are {known}"))
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
