//! Phi-3 (Abdin et al., 2024) and Phi-4: Llama with fused projections, longrope, and in some models partial rotation.

use super::shared::{self, Defaults};
use super::{Family, names};
use crate::Result;
use crate::model::architecture::{Architecture, AttentionInputs, MlpKind};
use crate::model::config::keys::Keys;
use crate::model::config::rope::{self, RopeForm};

pub(super) static FAMILY: Family = Family {
    model_type: "phi3",
    causal_lm: "Phi3ForCausalLM",
    classifier: "Phi3ForSequenceClassification",
    prefix: "model.",
    ignored: &[],
    reads: &["partial_rotary_factor", "auto_map"],
    architecture,
    gguf: None,
    name: names::llama,
};

/// Default of transformers for this family.
const ORIGINAL_CONTEXT: i64 = 4096;

/// Code that checkpoints name, from before transformers had the family; transformers uses its own.
const FORMER_CODE: [&str; 2] = ["configuration_phi3.Phi3Config", "modeling_phi3.Phi3ForCausalLM"];

fn architecture(keys: &Keys) -> Result<Architecture> {
    if let Some(code) = keys.object("auto_map", "auto_map.")?
        && let Some((key, found)) = code
            .entries()
            .find(|(key, found)| *key != "AutoTokenizer" && FORMER_CODE.iter().all(|known| *found != known))
    {
        return Err(code.not_computed(key, found));
    }
    let found = shared::without_positions(keys, &Defaults { norm_eps: 1e-5, ..Defaults::LLAMA })?;
    let form = RopeForm {
        partial: Some(("partial_rotary_factor", 1.0)),
        original: ORIGINAL_CONTEXT,
        only_longrope: true,
        ..RopeForm::usual(found.head_dim, found.max_position_embeddings)
    };
    let rotary = rope::read(keys, &form)?;
    // transformers reads the original context of this family from the top level alone.
    let original = keys.whole("original_max_position_embeddings", 2, i64::MAX)?.unwrap_or(ORIGINAL_CONTEXT);
    if rotary.scaling.constant_until().is_some_and(|length| length as i64 != original) {
        return Err(keys.missing("original_max_position_embeddings"));
    }
    let found = shared::with_rotary(keys, &found, rotary)?;
    let window = keys.positive_or_null("sliding_window", None)?;
    shared::refuse_other_layers(keys, &found, window)?;
    let found = shared::with_window(found, window, |_| true);
    Ok(Architecture { attention_inputs: AttentionInputs::Fused, mlp: MlpKind::FusedGated, ..found })
}
