//! A rollout: responses sampled from the policy, and the measurements that policy-gradient methods need. Computes only.

use tch::Tensor;

use plumbline_crds::policy_tuning::Rollout;
use plumbline_crds::source::Sampling;
use plumbline_feedback::data::id;
use plumbline_feedback::data::tokens::Sequence;
use plumbline_feedback::text::tokenizer::Tokenizer;

use crate::Result;
use crate::generate::{PromptTokens, generate};
use crate::model::decoder::Decoder;
use crate::model::heads::{TokenLogProbs, token_logprobs};
use crate::model::linear::Adapters;
use crate::model::packed::passes;
use crate::train::frozen_states::FrozenStates;
use crate::train::policy::Policy;
use crate::train::responses::{PASS_TOKENS, ResponseBatch, split};
use crate::train::samples::{Sample, Sampled};
use crate::train::scorer::Scorer;

/// A prompt to sample from.
pub struct RolloutPrompt {
    /// Hash of the prompt.
    pub id: String,
    /// Tokens of the prompt.
    pub tokens: Vec<i64>,
    /// Whether the end token is part of a response's text (a conversation's turn) or only terminates it (plain text).
    pub conversation: bool,
}

/// The distribution that a rollout samples from, which defines ratios and divergences. Under the model's own
/// distribution, raising the probability of a suppressed end token would lower that of all other tokens, appear as a
/// smaller divergence, and be rewarded.
pub struct Behaviour<'a> {
    temperature: f64,
    /// Tokens that end a response, and the minimum number of tokens before one of them may be sampled.
    end_tokens: &'a [i64],
    least: i64,
}

impl<'a> Behaviour<'a> {
    /// The distribution that `sampling` draws from: all tokens, at a temperature above 0.
    pub fn new(sampling: &Sampling, tokenizer: &'a Tokenizer) -> Self {
        Self { temperature: sampling.temperature, end_tokens: tokenizer.eos_ids(), least: sampling.min_new_tokens }
    }

    /// Log-probabilities of a batch's response tokens. `hidden`: the hidden states that predict them.
    pub fn logprobs(&self, decoder: &Decoder, batch: &ResponseBatch, hidden: &Tensor) -> TokenLogProbs {
        let suppressed = batch.suppressed(self.end_tokens, self.least);
        token_logprobs(decoder, hidden, &batch.targets, self.temperature, suppressed.as_ref())
    }
}

/// Samples responses to some of the prompts, `chosen` by index. The random numbers of an update depend only on the
/// seed, the update's number and the prompts, so a resumed run samples the same responses.
/// An error of `on_progress`, which is called with the number of finished responses, stops the sampling.
pub fn sample(
    rollout: &Rollout,
    tokenizer: &Tokenizer,
    policy: &Policy,
    prompts: &[RolloutPrompt],
    chosen: &[usize],
    update: i64,
    on_progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Sampled>> {
    let sampling = Sampling { seed: rollout.sampling.seed ^ (update << 20), ..rollout.sampling.clone() };
    let asked: Vec<PromptTokens> = chosen
        .iter()
        .map(|&i| PromptTokens { key: id::key(&[&prompts[i].id]), tokens: prompts[i].tokens.clone() })
        .collect();
    let per_prompt = rollout.responses_per_prompt as usize;
    let responses = generate(&policy.decoder, Adapters::On, tokenizer, &asked, per_prompt, &sampling, on_progress)?;
    let groups = chosen.iter().zip(responses);
    Ok(groups
        .flat_map(|(&group, responses)| {
            let prompt = &prompts[group];
            responses.into_iter().map(move |response| {
                let sequence = Sequence { prompt: prompt.tokens.clone(), response: response.tokens };
                let text = sequence.text_tokens(response.finish, prompt.conversation, tokenizer.end_of_text());
                Sampled { group, sequence, finish: response.finish, text }
            })
        })
        .collect())
}

/// Computes log-probabilities, values and scores of sampled responses. Also returns the output of the policy's frozen
/// layers.
pub fn measure(
    policy: &Policy,
    scorer: &dyn Scorer,
    sampled: Vec<Sampled>,
    behaviour: &Behaviour,
) -> Result<(Vec<Sample>, Option<FrozenStates>)> {
    let _no_grad = tch::no_grad_guard();
    let sequences: Vec<&Sequence> = sampled.iter().map(|s| &s.sequence).collect();
    let tokens: Vec<Vec<i64>> = sequences.iter().map(|s| s.tokens()).collect();
    let frozen = FrozenStates::new(&policy.decoder, &tokens);
    let start = policy.reference();
    let (mut old, mut values, mut entropy, mut reference) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for pass in passes(sequences.iter().map(|s| s.len()), PASS_TOKENS) {
        let states = frozen.as_ref().map(|t| t.gather(&pass.clone().collect::<Vec<_>>()));
        let batch = ResponseBatch::new(&sequences[pass], policy.decoder.device()).with_frozen_states(states);
        // The frozen states only apply to the reference if it is this decoder without its adapters.
        let found = behaviour.logprobs(start.decoder, &batch, &batch.hidden(start.decoder, start.adapters));
        reference.extend(split(&found.logprobs, &batch.counts));
        let hidden = batch.hidden(&policy.decoder, Adapters::On);
        let found = behaviour.logprobs(&policy.decoder, &batch, &hidden);
        old.extend(split(&found.logprobs, &batch.counts));
        entropy.extend(split(&found.entropy, &batch.counts));
        if let Some(head) = &policy.value_head {
            values.extend(split(&head.forward(&hidden), &batch.counts));
        }
    }
    values.resize_with(sequences.len(), Vec::new);
    let scores = scorer.score(&sampled)?;
    let measured = old.into_iter().zip(reference).zip(values).zip(entropy).zip(scores);
    let samples = sampled
        .into_iter()
        .zip(measured)
        .map(|(sampled, ((((old, reference), values), entropy), score))| {
            let Sampled { group, sequence, finish, .. } = sampled;
            Sample { group, sequence, finish, old, reference, values, entropy, score }
        })
        .collect();
    Ok((samples, frozen))
}
