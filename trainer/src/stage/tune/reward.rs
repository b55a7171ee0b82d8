//! The reward model that a policy is tuned for: loaded, and refused where it does not read what the policy writes.

use plumbline_crds::policy_tuning::PolicyTuningSpec;
use plumbline_crds::run::RunDocument;
use plumbline_feedback::text::tokenizer::Tokenizer;
use tch::Device;

use crate::model::reward_model::RewardModel;
use crate::stage::inputs::input_path;
use crate::{Error, Result};

/// The reward model of `spec.rewardModelRef`, if there is one, for a policy with this tokenizer.
///
/// # Errors
/// `Config` where a token of the policy is another one to the reward model, or its context is shorter than the texts that are
/// trained on; those of [`RewardModel::load`].
pub(crate) fn load(
    run: &RunDocument,
    spec: &PolicyTuningSpec,
    policy: &Tokenizer,
    device: Device,
) -> Result<Option<RewardModel>> {
    const FIELD: &str = "spec.rewardModelRef";
    if spec.reward_model_ref.is_none() {
        return Ok(None);
    }
    let folder = input_path(run, "rewardModelRef")?;
    if let Some((token, id)) = policy.first_missing_in(&Tokenizer::load(&folder)?) {
        return Err(Error::Config(format!(
            "{FIELD}: expected the tokenizer of the policy, found one in which {token:?} is not token {id}; train the reward \
             model from the policy's model, or from one with the same tokenizer"
        )));
    }
    let model = RewardModel::load(&folder, spec.training.precision, device)?;
    let (context, longest) = (model.context(), spec.training.max_length);
    if context < longest {
        return Err(Error::Config(format!(
            "{FIELD}: expected a context of spec.training.maxLength, {longest} tokens, or more, found {context}; lower \
             spec.training.maxLength, or train the reward model from a model with a longer context"
        )));
    }
    Ok(Some(model))
}
