//! `OLMo` 2 (Walsh et al., 2025): norms after attention and MLP instead of before, and norms over all queries and all keys.

use super::shared::{self, Defaults};
use super::{Family, names};
use crate::Result;
use crate::model::architecture::{Architecture, NormPlacement, QkNorm};
use crate::model::config::keys::Keys;
use crate::model::norm::RmsScale;

pub(super) static FAMILY: Family = Family {
    model_type: "olmo2",
    causal_lm: "Olmo2ForCausalLM",
    classifier: "Olmo2ForSequenceClassification",
    prefix: "model.",
    ignored: &[],
    reads: &["attention_bias"],
    architecture,
    gguf: None,
    name: names::norms_around,
};

fn architecture(keys: &Keys) -> Result<Architecture> {
    let defaults = Defaults { norm_eps: 1e-5, norm_scale: RmsScale::Unrounded, ..Defaults::LLAMA };
    let found = shared::read(keys, &defaults)?;
    shared::refuse_windows(keys, &found)?;
    let attention_bias = shared::attention_bias(keys)?;
    Ok(Architecture { norm_placement: NormPlacement::After, qk_norm: QkNorm::Whole, attention_bias, ..found })
}
