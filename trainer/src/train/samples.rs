//! Sampled responses before and after measurement, and the statistics of a rollout. Computes only.

use serde::{Deserialize, Serialize};

use plumbline_feedback::data::responses::Finish;
use plumbline_feedback::data::tokens::Sequence;

use crate::train::means::Means;

/// A sampled response that has not been measured.
pub struct Sampled {
    /// Index of its prompt in the run. The samples of a prompt form a group.
    pub group: usize,
    /// Tokens of prompt and response.
    pub sequence: Sequence,
    /// Why it ended.
    pub finish: Finish,
    /// Prompt and response as the text that a reward model reads ([`Sequence::text_tokens`]).
    pub text: Vec<i64>,
}

/// A sampled response with its measurements. Lists have one entry per response token.
#[derive(Deserialize, Serialize)]
pub struct Sample {
    /// Index of its prompt in the run. The samples of a prompt form a group.
    pub group: usize,
    /// Tokens of prompt and response.
    pub sequence: Sequence,
    /// Why it ended.
    pub finish: Finish,
    /// Log-probabilities under the policy that sampled the response, computed by the training kernels.
    pub old: Vec<f64>,
    /// Log-probabilities under the starting model.
    pub reference: Vec<f64>,
    /// The critic's value of the state before each token; empty without a critic.
    pub values: Vec<f64>,
    /// Entropy of the policy at each token, in nats.
    pub entropy: Vec<f64>,
    /// The score of the response.
    pub score: f64,
}

/// The inputs of guards and controllers, over the responses of all ranks.
#[derive(Clone, Copy, Debug)]
pub struct Statistics {
    /// Mean over responses of log policy - log reference summed over tokens, in nats.
    pub kl_per_response: f64,
    /// Mean over tokens, in nats.
    pub entropy: f64,
}

impl Statistics {
    /// The statistics of at least one response.
    pub fn new(samples: &[Sample]) -> Self {
        let count = samples.len() as f64;
        let log_ratio = |s: &Sample| s.old.iter().zip(&s.reference).map(|(p, r)| p - r).sum::<f64>();
        let tokens: usize = samples.iter().map(|s| s.old.len()).sum();
        Self {
            kl_per_response: samples.iter().map(log_ratio).sum::<f64>() / count,
            entropy: samples.iter().flat_map(|s| &s.entropy).sum::<f64>() / tokens as f64,
        }
    }
}

/// The metrics of a rollout, common to all methods.
pub fn means(samples: &[Sample], statistics: &Statistics) -> Means {
    let count = samples.len() as f64;
    let mut means = Means::default();
    means.add("objective/kl", statistics.kl_per_response, 1.0);
    means.add("objective/entropy", samples.iter().flat_map(|s| &s.entropy).sum(), count);
    means.add("objective/scores", samples.iter().map(|s| s.score).sum(), count);
    means.add("val/num_eos_tokens", samples.iter().filter(|s| s.finish == Finish::Eos).count() as f64, 1.0);
    means.add("completions/mean_length", samples.iter().map(|s| s.old.len() as f64).sum(), count);
    means
}
