//! A rollout: responses sampled from the policy, with what every RL algorithm needs of them.

use plumbline_crds::source::Sampling;
use plumbline_feedback::data::responses::Finish;
use plumbline_feedback::data::tokens::Sequence;
use plumbline_feedback::text::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::model::decoder::Decoder;
use crate::model::heads::{TokenLogProbs, token_logprobs};
use crate::model::linear::Adapters;
use crate::model::packed::passes;
use crate::stage::reward::RewardModel;
use crate::stage::tune::Policy;
use crate::train::frozen_states::FrozenStates;
use crate::train::responses::{ResponseBatch, SCORING_TOKENS, split};

/// A prompt to sample from.
pub(super) struct RolloutPrompt {
    /// Hash of the prompt.
    pub id: String,
    /// Tokens of the prompt.
    pub tokens: Vec<i64>,
    /// Whether the end token is part of a response's text (a conversation's turn) or only ends it (plain text).
    pub conversation: bool,
}

/// The distribution that a rollout samples from. Ratios and divergences are of this one: under the model's own
/// distribution an end token that is never sampled would take probability from the others, pass for a smaller divergence,
/// and be rewarded for it.
pub(super) struct Behaviour<'a> {
    temperature: f64,
    /// Tokens that end a response, and how many tokens it has before one of them may be sampled.
    end_tokens: &'a [i64],
    least: i64,
    /// What the tokenizer puts after every text.
    end_of_text: &'a [i64],
}

impl<'a> Behaviour<'a> {
    pub(super) fn new(sampling: &Sampling, tokenizer: &'a Tokenizer) -> Self {
        let temperature = if sampling.temperature > 0.0 { sampling.temperature } else { 1.0 };
        let (end_tokens, end_of_text) = (tokenizer.eos_ids(), tokenizer.end_of_text());
        Self { temperature, end_tokens, least: sampling.min_new_tokens, end_of_text }
    }

    /// Log-probabilities of a batch's response tokens, by the hidden states that predict them.
    pub(super) fn logprobs(&self, decoder: &Decoder, batch: &ResponseBatch, hidden: &Tensor) -> TokenLogProbs {
        let suppressed = batch.suppressed(self.end_tokens, self.least);
        token_logprobs(decoder, hidden, &batch.targets, self.temperature, suppressed.as_ref())
    }
}

/// One sampled response. Lists have one entry a response token.
#[derive(Deserialize, Serialize)]
pub(super) struct Sample {
    pub sequence: Sequence,
    pub finish: Finish,
    /// Log-probabilities under the policy that sampled, by the training kernels.
    pub old: Vec<f64>,
    /// Log-probabilities under the model as it was.
    pub reference: Vec<f64>,
    /// The critic's values of the states before each token.
    pub values: Vec<f64>,
    /// Entropy of the policy at each token, in nats.
    pub entropy: Vec<f64>,
    /// The reward model's score of the response.
    pub score: f64,
}

/// Measures sampled responses: log-probabilities, values, scores. Gives what the policy's frozen layers computed as well.
pub(super) fn measure(
    policy: &Policy,
    reward: &RewardModel,
    sampled: Vec<(Sequence, Finish, bool)>,
    behaviour: &Behaviour,
) -> (Vec<Sample>, Option<FrozenStates>) {
    let _no_grad = tch::no_grad_guard();
    let sequences: Vec<&Sequence> = sampled.iter().map(|(s, _, _)| s).collect();
    let tokens: Vec<Vec<i64>> = sequences.iter().map(|s| s.tokens()).collect();
    let frozen = FrozenStates::new(&policy.decoder, &tokens);
    let before = policy.before();
    let (mut old, mut values, mut entropy, mut reference) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for pass in passes(sequences.iter().map(|s| s.len()), SCORING_TOKENS) {
        let states = frozen.as_ref().map(|t| t.gather(&pass.clone().collect::<Vec<_>>()));
        let batch = ResponseBatch::new(&sequences[pass], policy.decoder.device()).with_frozen_states(states);
        // The reference shares the frozen only when it is this decoder without its adapters.
        let found = behaviour.logprobs(before.model, &batch, &batch.hidden(before.model, before.adapters));
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
    let text_tokens = |(sequence, finish, conversation): &(Sequence, Finish, bool)| {
        sequence.text_tokens(*finish, *conversation, behaviour.end_of_text)
    };
    let scored: Vec<Vec<i64>> = sampled.iter().map(text_tokens).collect();
    let scores = reward.score(&scored);
    let measured = old.into_iter().zip(reference).zip(values).zip(entropy).zip(scores);
    let samples = sampled
        .into_iter()
        .zip(measured)
        .map(|((sequence, finish, _), ((((old, reference), values), entropy), score))| Sample {
            sequence,
            finish,
            old,
            reference,
            values,
            entropy,
            score,
        })
        .collect();
    (samples, frozen)
}
