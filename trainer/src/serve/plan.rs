//! Converts a request's body into jobs for the engine: one per sample of each prompt. Computes.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use jiff::civil::DateTime;
use plumbline_crds::source::Sampling;
use plumbline_feedback::data::Message;
use plumbline_feedback::protocol::ApiError;
use plumbline_feedback::protocol::input::Prompt;
use plumbline_feedback::protocol::request::{self, MaxTokens, Params};
use plumbline_feedback::protocol::response::Api;
use plumbline_feedback::text::tokenizer::Tokenizer;
use sha2::{Digest, Sha256};

use super::model::Shape;
use crate::Error;
use crate::generate::engine::Job;

/// Maximum memory per response token until its client has read it, in bytes.
const TOKEN_BYTES: usize = 128;
/// Maximum memory per log-probability in all its forms (computed, as text, in the reply), in bytes; chats also contain
/// the bytes of each token.
const LOGPROB_BYTES: usize = 128;
const CHAT_LOGPROB_BYTES: usize = 256;
/// Memory per sequence besides its tokens, in bytes.
const SEQUENCE_BYTES: usize = 1024;
/// Maximum number of messages in a conversation.
const MOST_MESSAGES: usize = 2048;

/// A request as received.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its path.
    pub api: Api,
    /// The request body.
    pub body: &'a [u8],
    /// The time for the chat template.
    pub now: DateTime,
}

/// The work for a request.
pub struct Plan {
    /// One job per sequence; all samples of the first prompt come first.
    pub jobs: Vec<Job>,
    /// The parameters of the request, without its prompts.
    pub params: Params,
    /// Total number of prompt tokens.
    pub prompt_tokens: usize,
    /// Maximum memory of the prompts and the reply, in bytes.
    pub memory: usize,
}

/// Limits of the server for one request.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The model's limits.
    pub shape: Shape,
    /// Maximum number of sequences per request.
    pub sequences: usize,
    /// Maximum memory of its prompts and reply, in bytes.
    pub memory: usize,
}

/// Parses a request, checks it against the model called `served` and the server's limits, and tokenises its prompts.
/// Cheap checks come first: nothing is tokenised or copied for a request that cannot be served.
pub fn plan(asked: Asked<'_>, served: &str, tokenizer: &Tokenizer, bounds: Bounds) -> Result<Plan, ApiError> {
    let Asked { api, body, now } = asked;
    match api {
        Api::Completions => {
            let asked = request::completion(body)?;
            check_model(&asked.params, served)?;
            check_sequences(asked.prompts.len(), &asked.params, bounds)?;
            let mut planning = Planning::new(api, asked.params, bounds);
            for prompt in asked.prompts {
                planning.add(match prompt {
                    Prompt::Tokens(tokens) => tokens,
                    Prompt::Text(prompt) => {
                        planning.check_text(&prompt)?;
                        tokenizer.encode_prompt(&prompt).map_err(|e| unreadable("prompt", &e))?
                    }
                })?;
            }
            Ok(planning.plan)
        }
        Api::Chat => {
            let asked = request::chat(body)?;
            check_model(&asked.params, served)?;
            check_sequences(1, &asked.params, bounds)?;
            check_conversation(&asked.messages, tokenizer)?;
            let mut planning = Planning::new(api, asked.params, bounds);
            // A template may reject a conversation, for example for turns that do not alternate or an unsupported
            // system message.
            let refused = |e: Error| unreadable("messages", &e);
            let chat = tokenizer.chat_at(&asked.messages, now);
            let prompt = chat.prompt(asked.messages.len()).map_err(refused)?;
            planning.check_text(&prompt)?;
            planning.add(chat.encode(&prompt).map_err(refused)?)?;
            Ok(planning.plan)
        }
    }
}

/// The error for a prompt in `param` that the model cannot process.
fn unreadable(param: &str, error: &Error) -> ApiError {
    match error {
        Error::Data(why) => ApiError::invalid(param, format!("the model cannot be given `{param}`: {why}")),
        other => ApiError::internal(other.to_string()),
    }
}

fn check_model(params: &Params, served: &str) -> Result<(), ApiError> {
    if params.model == served { Ok(()) } else { Err(ApiError::model_not_found(&params.model, served)) }
}

fn check_sequences(prompts: usize, params: &Params, bounds: Bounds) -> Result<(), ApiError> {
    let (asked, most) = (prompts.saturating_mul(params.samples), bounds.sequences);
    if asked <= most {
        return Ok(());
    }
    let message = format!(
        "the request asks for {asked} sequences (prompts times `n`), but this server takes {most} at a time; send several \
         requests"
    );
    Err(ApiError::invalid("n", message))
}

fn check_conversation(messages: &[Message], tokenizer: &Tokenizer) -> Result<(), ApiError> {
    if !tokenizer.has_chat_template() {
        let message = "this model has no chat template, so `messages` cannot be written for it; use /v1/completions";
        return Err(ApiError::unsupported("messages", message));
    }
    if messages.len() > MOST_MESSAGES {
        let message = format!("`messages` must be at most {MOST_MESSAGES}, found {}", messages.len());
        return Err(ApiError::invalid("messages", message));
    }
    Ok(())
}

/// A plan under construction, prompt by prompt.
struct Planning {
    plan: Plan,
    bounds: Bounds,
    /// The name of the field that contains the prompts.
    param: &'static str,
    logprob_bytes: usize,
    seed: i64,
    prompts: usize,
    /// Samples of each prompt so far; equal prompts share a count.
    earlier: HashMap<Arc<[i64]>, u64>,
}

impl Planning {
    fn new(api: Api, params: Params, bounds: Bounds) -> Self {
        let (param, logprob_bytes) = match api {
            Api::Completions => ("prompt", LOGPROB_BYTES),
            Api::Chat => ("messages", CHAT_LOGPROB_BYTES),
        };
        let seed = params.seed.unwrap_or_else(arbitrary_seed);
        let plan = Plan { jobs: Vec::new(), params, prompt_tokens: 0, memory: 0 };
        Self { plan, bounds, param, logprob_bytes, seed, prompts: 0, earlier: HashMap::new() }
    }

    /// Rejects a text that is too long, however it is tokenised.
    fn check_text(&self, prompt: &str) -> Result<(), ApiError> {
        let Shape { context, longest_token, .. } = self.bounds.shape;
        let most = context.saturating_mul(longest_token);
        if prompt.len() <= most {
            return Ok(());
        }
        let message = format!(
            "prompt {} has {} bytes, but the maximum context length is {context} tokens, which is {most} bytes at most; \
                 shorten the prompt",
            self.prompts,
            prompt.len()
        );
        Err(ApiError::too_long(self.param, message))
    }

    /// Adds the jobs of a prompt. With a seed, the k-th sample depends only on the seed, the prompt's tokens and k, not
    /// on the other prompts of the request.
    fn add(&mut self, tokens: Vec<i64>) -> Result<(), ApiError> {
        let shape = self.bounds.shape;
        check_tokens(&tokens, self.prompts, shape, self.param)?;
        let max_new_tokens = new_tokens(tokens.len(), &self.plan.params, shape, self.param)?;
        self.plan.memory = self.plan.memory.saturating_add(self.memory(tokens.len(), max_new_tokens));
        if self.plan.memory > self.bounds.memory {
            return Err(too_much(&self.plan.params, self.bounds.memory));
        }
        let params = &self.plan.params;
        let sampling = Sampling {
            max_new_tokens: max_new_tokens as i64,
            seed: self.seed,
            stop: Vec::new(),
            ..params.sampling.clone()
        };
        let tokens: Arc<[i64]> = tokens.into();
        let samples = params.samples as u64;
        let first = self.earlier.entry(Arc::clone(&tokens)).or_default();
        for sample in *first..*first + samples {
            self.plan.jobs.push(Job {
                key: key(&tokens, sample),
                tokens: Arc::clone(&tokens),
                sampling: sampling.clone(),
                top_logprobs: params.logprobs.unwrap_or(0),
            });
        }
        *first += samples;
        self.prompts += 1;
        self.plan.prompt_tokens += tokens.len();
        Ok(())
    }

    /// Maximum memory of a prompt and its samples, in bytes.
    fn memory(&self, prompt: usize, new_tokens: usize) -> usize {
        let params = &self.plan.params;
        let logprobs = params.logprobs.map_or(0, |top| top + 1);
        let sequence = SEQUENCE_BYTES + new_tokens.saturating_mul(TOKEN_BYTES + logprobs * self.logprob_bytes);
        (prompt * size_of::<i64>()).saturating_add(params.samples.saturating_mul(sequence))
    }
}

fn check_tokens(tokens: &[i64], index: usize, shape: Shape, param: &str) -> Result<(), ApiError> {
    if tokens.is_empty() {
        let message = format!("`{param}` must not be empty (prompt {index} has no tokens)");
        return Err(ApiError::invalid(param, message));
    }
    match tokens.iter().find(|t| **t < 0 || **t >= shape.vocabulary as i64) {
        None => Ok(()),
        Some(token) => {
            let message =
                format!("`{param}`: token {token} of prompt {index} is outside the vocabulary of {}", shape.vocabulary);
            Err(ApiError::invalid(param, message))
        }
    }
}

fn new_tokens(prompt: usize, params: &Params, shape: Shape, param: &str) -> Result<usize, ApiError> {
    let room = shape.context.saturating_sub(prompt);
    match params.max_tokens {
        MaxTokens::Exactly(asked) if asked <= room => Ok(asked),
        MaxTokens::AtMost(most) if room > 0 => Ok(most.min(room)),
        MaxTokens::Exactly(asked) => {
            let param = if room == 0 { param } else { params.max_tokens_field };
            Err(ApiError::context_length(param, shape.context, prompt, asked))
        }
        MaxTokens::AtMost(_) => Err(ApiError::context_length(param, shape.context, prompt, 1)),
    }
}

fn too_much(params: &Params, most: usize) -> ApiError {
    let message = format!(
        "the reply may take more than {} MiB; ask for fewer new tokens, samples, prompts or log-probabilities",
        most >> 20
    );
    ApiError::invalid(params.max_tokens_field, message)
}

fn key(tokens: &[i64], sample: u64) -> u64 {
    let mut hash = Sha256::new();
    for token in tokens {
        hash.update(token.to_le_bytes());
    }
    hash.update(sample.to_le_bytes());
    let digest = hash.finalize();
    digest.iter().take(8).fold(0, |key, byte| (key << 8) | u64::from(*byte))
}

/// A seed that differs between calls: the standard library seeds each new hasher randomly.
fn arbitrary_seed() -> i64 {
    (RandomState::new().build_hasher().finish() >> 11) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { context: 10, vocabulary: 100, longest_token: 1 };
    const BOUNDS: Bounds = Bounds { shape: SHAPE, sequences: 64, memory: 1 << 20 };

    fn params(max_tokens: MaxTokens, samples: usize, seed: Option<i64>) -> Params {
        Params {
            model: "m".into(),
            sampling: Sampling { stop: vec!["x".into()], ..Sampling::default() },
            max_tokens,
            max_tokens_field: "max_tokens",
            samples,
            logprobs: Some(5),
            seed,
            stream: false,
            include_usage: false,
        }
    }

    fn jobs(prompts: Vec<Vec<i64>>, params: &Params) -> Result<Vec<Job>, ApiError> {
        let mut planning = Planning::new(Api::Completions, params.clone(), BOUNDS);
        prompts.into_iter().try_for_each(|tokens| planning.add(tokens))?;
        Ok(planning.plan.jobs)
    }

    fn keys(prompts: &[&[i64]], samples: usize) -> Vec<u64> {
        let prompts = prompts.iter().map(|p| p.to_vec()).collect();
        let jobs = jobs(prompts, &params(MaxTokens::Exactly(1), samples, Some(7))).unwrap();
        assert!(jobs.iter().all(|j| j.sampling.seed == 7 && j.top_logprobs == 5 && j.sampling.stop.is_empty()));
        jobs.iter().map(|j| j.key).collect()
    }

    fn refused(prompt: usize, max_tokens: MaxTokens) -> ApiError {
        let Err(error) = jobs(vec![vec![1; prompt]], &params(max_tokens, 1, None)) else {
            panic!("{prompt} tokens and {max_tokens:?} more are accepted");
        };
        error
    }

    #[test]
    fn a_seeded_sample_does_not_depend_on_the_other_prompts_of_the_request() {
        let alone = keys(&[&[1, 2]], 2);
        let behind = keys(&[&[3], &[1, 2]], 2);
        assert_eq!(behind[2..], alone[..]);
        assert_ne!(behind[..2], alone[..]);
        assert_ne!(alone[0], alone[1], "samples of one prompt differ");
    }

    #[test]
    fn a_prompt_that_is_sent_twice_is_sampled_twice() {
        assert_eq!(keys(&[&[1, 2], &[1, 2]], 1), keys(&[&[1, 2]], 2));
    }

    #[test]
    fn a_text_with_a_token_outside_the_vocabulary_is_a_client_error() {
        let folder = super::super::fixture::model_folder();
        // `<|pad|>` has the id 257.
        std::fs::write(folder.path().join("config.json"), r#"{"vocab_size": 257}"#).unwrap();
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        let bounds = Bounds { shape: Shape { context: 100, vocabulary: 257, longest_token: 9 }, ..BOUNDS };
        let planned = |api, body: &str| {
            let asked = Asked { api, body: body.as_bytes(), now: jiff::civil::date(2026, 2, 3).into() };
            plan(asked, "m", &tokenizer, bounds)
        };
        assert!(planned(Api::Completions, r#"{"model": "m", "prompt": "a"}"#).is_ok());
        let error = planned(Api::Completions, r#"{"model": "m", "prompt": ["a", "a<|pad|>"]}"#).err().unwrap();
        assert_eq!((error.status, error.body.param.as_deref()), (400, Some("prompt")), "{error:?}");
        assert!(error.body.message.contains("<|pad|>") && error.body.message.contains("257"), "{error:?}");
    }

    #[test]
    fn without_a_seed_two_requests_differ() {
        let seed = || jobs(vec![vec![1]], &params(MaxTokens::Exactly(1), 1, None)).unwrap()[0].sampling.seed;
        assert_ne!(seed(), seed());
        assert!(seed() >= 0);
    }

    #[test]
    fn a_request_that_exceeds_the_context_is_rejected_with_the_numbers() {
        let error = refused(8, MaxTokens::Exactly(3));
        assert_eq!((error.status, error.body.code), (400, Some("context_length_exceeded")));
        assert_eq!(error.body.param.as_deref(), Some("max_tokens"));
        for number in ["10", "11", "8 in the prompt", "3 for the completion"] {
            assert!(error.body.message.contains(number), "{}", error.body.message);
        }
        assert_eq!(refused(10, MaxTokens::AtMost(16)).body.param.as_deref(), Some("prompt"));
        assert_eq!(refused(11, MaxTokens::Exactly(1)).body.param.as_deref(), Some("prompt"));
        assert_eq!(refused(1, MaxTokens::Exactly(usize::MAX >> 1)).body.code, Some("context_length_exceeded"));
    }

    #[test]
    fn the_default_limit_is_what_fits() {
        let limit = |prompt: usize, most| {
            jobs(vec![vec![1; prompt]], &params(MaxTokens::AtMost(most), 1, None)).unwrap()[0].sampling.max_new_tokens
        };
        assert_eq!((limit(4, 16), limit(9, usize::MAX), limit(1, 3)), (6, 1, 3));
    }

    #[test]
    fn a_token_outside_the_vocabulary_never_reaches_the_model() {
        for bad in [vec![], vec![100], vec![-1]] {
            let error = jobs(vec![vec![1], bad], &params(MaxTokens::Exactly(1), 1, None)).err().unwrap();
            assert_eq!(error.status, 400);
            assert!(error.body.message.contains("prompt 1"), "{}", error.body.message);
        }
    }
}
