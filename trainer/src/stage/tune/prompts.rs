//! The prompts that online methods sample from (IO).

use std::path::Path;

use plumbline_crds::policy_tuning::PolicyTuningSpec;
use plumbline_crds::run::RunDocument;
use plumbline_feedback::data::Content;
use plumbline_feedback::data::prompts;
use plumbline_feedback::data::tokens;
use plumbline_feedback::report::{LeftOut, Why};
use plumbline_feedback::text::tokenizer::Tokenizer;

use crate::model::config::Config;
use crate::train::rollout::RolloutPrompt;
use crate::{Error, Result};

/// Reads the prompts that leave room for a response, and counts the others.
pub(super) fn read(
    run: &RunDocument,
    spec: &PolicyTuningSpec,
    tokenizer: &Tokenizer,
    config: &Config,
) -> Result<(Vec<RolloutPrompt>, LeftOut)> {
    let most = config.longest_sampled(spec.training.max_length) as i64 - spec.rollout.sampling.max_new_tokens;
    let source = spec.prompts.as_ref().ok_or_else(|| {
        Error::Config("spec.prompts: expected prompts to sample responses to, found none; add them".into())
    })?;
    let path = run.input("prompts").map(|i| Path::new(&i.path));
    let found = prompts::read(source, path, "spec.prompts")?;
    let mut left_out = LeftOut::new("prompts");
    left_out.read(found.prompts.len() + found.duplicates);
    left_out.add_all(Why::Duplicate, found.duplicates);
    let mut kept = Vec::new();
    for prompt in found.prompts {
        let tokens = tokens::prompt(tokenizer, &prompt.content).map_err(|e| e.within("spec.prompts"))?;
        if tokens.is_empty() {
            left_out.add(Why::Empty);
            continue;
        }
        if tokens.len() as i64 > most {
            left_out.add(Why::TooLong);
            continue;
        }
        let conversation = matches!(prompt.content, Content::Messages(_));
        kept.push(RolloutPrompt { id: prompt.id, tokens, conversation });
    }
    if left_out.total() > 0 {
        tracing::warn!(
            "{} were left out; a prompt may have at most {most} tokens, to leave room for a response",
            left_out.words()
        );
    }
    if kept.is_empty() {
        return Err(Error::Data(format!(
            "spec.prompts: no prompt has between 1 and {most} tokens (spec.training.maxLength, or the model's context, less maxNewTokens): {} left out",
            left_out.words()
        )));
    }
    Ok((kept, left_out))
}
