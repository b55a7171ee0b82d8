//! A model to be served: a sampler, its tokenizer, its limits. The sampler is the engine, or a script in tests.

use std::sync::Arc;

use plumbline_feedback::text::tokenizer::Tokenizer;

use crate::Result;
use crate::generate::engine::{Engine, Event, Job, JobId, Stats};

/// Samples tokens for many jobs concurrently. See [`Engine`] for its methods.
#[allow(missing_docs, reason = "documented at the engine")]
pub trait Sample {
    fn submit(&mut self, job: Job) -> Result<JobId>;
    fn cancel(&mut self, job: JobId);
    fn step(&mut self) -> Result<Vec<Event>>;
    fn idle(&self) -> bool;
    fn stats(&self) -> Stats;
}

impl Sample for Engine {
    fn submit(&mut self, job: Job) -> Result<JobId> {
        self.submit(job)
    }
    fn cancel(&mut self, job: JobId) {
        self.cancel(job);
    }
    fn step(&mut self) -> Result<Vec<Event>> {
        self.step()
    }
    fn idle(&self) -> bool {
        self.idle()
    }
    fn stats(&self) -> Stats {
        self.stats()
    }
}

/// A model that is ready to serve.
pub struct Loaded<S> {
    /// The sampler; it stays on the thread that loaded it.
    pub sampler: S,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Limits for requests.
    pub shape: Shape,
}

/// The model's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Maximum number of tokens of a prompt and its response.
    pub context: usize,
    /// Exclusive upper bound of token ids.
    pub vocabulary: usize,
    /// Length of the longest token in bytes.
    pub longest_token: usize,
}
