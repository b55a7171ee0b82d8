//! Continuous batching over one decoder.

use plumbline_crds::source::Sampling;

use crate::Result;
use crate::generate::Finish;
use crate::model::decoder::Decoder;

/// What is asked of the engine.
pub struct Job {
    /// The prompt.
    pub tokens: Vec<i64>,
    /// How to sample. Stop strings are not read: they are text, and the engine knows only tokens.
    pub sampling: Sampling,
    /// Seeds this job's random numbers: the same (sampling.seed, key) gives the same text.
    pub key: u64,
    /// How many of the most likely tokens are reported at each position; 0: none.
    pub top_logprobs: usize,
}

/// Names a job for as long as the engine lives.
pub type JobId = u64;

/// One sampled token.
pub struct Event {
    /// Whose token.
    pub job: JobId,
    /// Token id.
    pub token: i64,
    /// Natural log-probability in the unmodified distribution (temperature 1, no truncation).
    pub logprob: f32,
    /// The most likely tokens with their log-probabilities, the most likely first.
    pub top: Vec<(i64, f32)>,
    /// Set with the last token of the job.
    pub finish: Option<Finish>,
}

/// Bounds of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Jobs that are sampled together.
    pub max_active: usize,
    /// Tokens of a prompt and its response.
    pub max_context: usize,
    /// Prompt tokens that are computed in one step.
    pub batch_tokens: usize,
}

/// What the engine has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Jobs that wait.
    pub waiting: usize,
    /// Jobs that are being sampled.
    pub active: usize,
    /// Prompt tokens that were not computed because another prompt had them.
    pub prefix_tokens_reused: u64,
    /// Prompt tokens admitted.
    pub prompt_tokens: u64,
    /// Tokens sampled.
    pub sampled_tokens: u64,
}

/// The engine.
pub struct Engine {}

impl Engine {
    /// An engine without jobs.
    pub fn new(_model: Decoder, _eos_ids: Vec<i64>, _limits: Limits) -> Self {
        todo!()
    }

    /// Queues a job. An error if it is longer than the context.
    pub fn submit(&mut self, _job: Job) -> Result<JobId> {
        todo!()
    }

    /// Forgets a job.
    pub fn cancel(&mut self, _job: JobId) {
        todo!()
    }

    /// Admits waiting jobs (prefilling them together, sharing their common prefix) and samples one token for each
    /// active job.
    pub fn step(&mut self) -> Result<Vec<Event>> {
        todo!()
    }

    /// Whether there is no job.
    pub fn idle(&self) -> bool {
        todo!()
    }

    /// Counters and gauges.
    pub fn stats(&self) -> Stats {
        todo!()
    }
}
