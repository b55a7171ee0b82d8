//! What the server needs of a model: something that samples tokens, and something that turns text into tokens and back.
//! The engine and the tokenizer are these; a test can script both.

use std::sync::Arc;

use crate::Result;
use crate::data::Message;
use crate::generate::engine::{Engine, Event, Job, JobId, Stats};
use crate::load::tokenizer::Tokenizer;

/// Samples tokens for many jobs at once. See [`Engine`] for what each part does.
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

/// Text to tokens and back. See [`Tokenizer`] for what each part does.
#[allow(missing_docs, reason = "documented at the tokenizer")]
pub trait Text: Send + Sync {
    fn encode(&self, text: &str) -> Result<Vec<i64>>;
    fn decode(&self, tokens: &[i64]) -> Result<String>;
    fn token_text(&self, token: i64) -> String;
    fn has_chat_template(&self) -> bool;
    fn render_chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String>;
}

impl Text for Tokenizer {
    fn encode(&self, text: &str) -> Result<Vec<i64>> {
        self.encode(text)
    }
    fn decode(&self, tokens: &[i64]) -> Result<String> {
        self.decode(tokens)
    }
    fn token_text(&self, token: i64) -> String {
        self.token_text(token)
    }
    fn has_chat_template(&self) -> bool {
        self.has_chat_template()
    }
    fn render_chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_chat(messages, add_generation_prompt)
    }
}

/// A model that is ready to serve.
pub struct Loaded<S> {
    /// Samples; stays on the thread that loaded it.
    pub sampler: S,
    /// Its tokenizer.
    pub text: Arc<dyn Text>,
    /// What requests are checked against.
    pub shape: Shape,
}

/// The model's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Tokens of a prompt and its response.
    pub context: usize,
    /// Token ids are below this.
    pub vocabulary: usize,
}
