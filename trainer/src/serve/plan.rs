//! A request's body to the jobs of the engine: one for each sample of each prompt. Computes.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use plumbline_crds::source::Sampling;
use sha2::{Digest, Sha256};

use super::model::Shape;
use super::protocol::ApiError;
use super::protocol::input::Prompt;
use super::protocol::request::{self, MaxTokens, Params};
use super::protocol::response::Api;
use crate::data::Message;
use crate::generate::engine::Job;
use crate::load::tokenizer::Tokenizer;

/// What is to be done for a request.
pub struct Plan {
    /// One job for each sequence, all samples of the first prompt first.
    pub jobs: Vec<Job>,
    /// The request, but for its prompts.
    pub params: Params,
    /// Tokens of all prompts.
    pub prompt_tokens: usize,
}

/// Reads a request, tokenises its prompts and checks it against the model called `served`.
pub fn plan(api: Api, body: &[u8], served: &str, tokenizer: &Tokenizer, shape: Shape) -> Result<Plan, ApiError> {
    let (params, prompts, param) = match api {
        Api::Completions => {
            let asked = request::completion(body)?;
            check_model(&asked.params, served)?;
            let prompts: Result<_, _> = asked.prompts.into_iter().map(|p| prompt_tokens(p, tokenizer)).collect();
            (asked.params, prompts?, "prompt")
        }
        Api::Chat => {
            let asked = request::chat(body)?;
            check_model(&asked.params, served)?;
            (asked.params, vec![chat_tokens(&asked.messages, tokenizer)?], "messages")
        }
    };
    let prompt_tokens = prompts.iter().map(Vec::len).sum();
    let jobs = jobs(prompts, &params, shape, param)?;
    Ok(Plan { jobs, params, prompt_tokens })
}

fn check_model(params: &Params, served: &str) -> Result<(), ApiError> {
    if params.model == served { Ok(()) } else { Err(ApiError::model_not_found(&params.model, served)) }
}

fn prompt_tokens(prompt: Prompt, tokenizer: &Tokenizer) -> Result<Vec<i64>, ApiError> {
    match prompt {
        Prompt::Tokens(tokens) => Ok(tokens),
        Prompt::Text(prompt) => tokenizer.encode_prompt(&prompt).map_err(|e| ApiError::internal(e.to_string())),
    }
}

fn chat_tokens(messages: &[Message], tokenizer: &Tokenizer) -> Result<Vec<i64>, ApiError> {
    if !tokenizer.has_chat_template() {
        let message = "this model has no chat template, so `messages` cannot be written for it; use /v1/completions";
        return Err(ApiError::unsupported("messages", message));
    }
    // A template may refuse a conversation: turns that do not alternate, a system message it has no place for.
    let chat = tokenizer.chat(messages);
    let prompt = chat.text(messages.len(), true);
    prompt
        .and_then(|prompt| chat.encode(&prompt))
        .map_err(|e| ApiError::invalid("messages", format!("the model cannot be given `messages`: {e}")))
}

/// The jobs of a request. `param` is the field that the prompts came from. With a seed, the k-th sample of a prompt depends on the seed, the prompt's tokens and k alone, not on the other
/// prompts of the request.
fn jobs(prompts: Vec<Vec<i64>>, params: &Params, shape: Shape, param: &str) -> Result<Vec<Job>, ApiError> {
    let seed = params.seed.unwrap_or_else(arbitrary_seed);
    let mut earlier: HashMap<Vec<i64>, u64> = HashMap::new();
    let mut jobs = Vec::with_capacity(prompts.len() * params.samples);
    for (index, tokens) in prompts.into_iter().enumerate() {
        check_tokens(&tokens, index, shape, param)?;
        let max_new_tokens = new_tokens(tokens.len(), params, shape, param)?;
        let sampling =
            Sampling { max_new_tokens: max_new_tokens as i64, seed, stop: Vec::new(), ..params.sampling.clone() };
        let first = earlier.entry(tokens.clone()).or_default();
        for sample in *first..*first + params.samples as u64 {
            jobs.push(Job {
                key: key(&tokens, sample),
                tokens: tokens.clone(),
                sampling: sampling.clone(),
                top_logprobs: params.logprobs.unwrap_or(0),
            });
        }
        *first += params.samples as u64;
    }
    Ok(jobs)
}

fn check_tokens(tokens: &[i64], index: usize, shape: Shape, param: &str) -> Result<(), ApiError> {
    if tokens.is_empty() {
        let message = format!("`{param}` must not be empty (prompt {index} has no tokens)");
        return Err(ApiError::invalid(param, message));
    }
    match tokens.iter().find(|t| **t < 0 || **t >= shape.vocabulary as i64) {
        None => Ok(()),
        Some(token) => {
            let message = format!(
                "`{param}`: token {token} of prompt {index} is outside of the vocabulary of {}",
                shape.vocabulary
            );
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

fn key(tokens: &[i64], sample: u64) -> u64 {
    let mut hash = Sha256::new();
    for token in tokens {
        hash.update(token.to_le_bytes());
    }
    hash.update(sample.to_le_bytes());
    let digest = hash.finalize();
    digest.iter().take(8).fold(0, |key, byte| (key << 8) | u64::from(*byte))
}

/// A seed that differs from call to call: the standard library seeds each new hasher differently.
fn arbitrary_seed() -> i64 {
    (RandomState::new().build_hasher().finish() >> 11) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { context: 10, vocabulary: 100 };

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

    fn keys(prompts: &[&[i64]], samples: usize) -> Vec<u64> {
        let prompts = prompts.iter().map(|p| p.to_vec()).collect();
        let jobs = jobs(prompts, &params(MaxTokens::Exactly(1), samples, Some(7)), SHAPE, "prompt").unwrap();
        assert!(jobs.iter().all(|j| j.sampling.seed == 7 && j.top_logprobs == 5 && j.sampling.stop.is_empty()));
        jobs.iter().map(|j| j.key).collect()
    }

    fn refused(prompt: usize, max_tokens: MaxTokens) -> ApiError {
        let Err(error) = jobs(vec![vec![1; prompt]], &params(max_tokens, 1, None), SHAPE, "prompt") else {
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
    fn without_a_seed_two_requests_differ() {
        let seed =
            || jobs(vec![vec![1]], &params(MaxTokens::Exactly(1), 1, None), SHAPE, "prompt").unwrap()[0].sampling.seed;
        assert_ne!(seed(), seed());
        assert!(seed() >= 0);
    }

    #[test]
    fn what_does_not_fit_into_the_context_is_refused_with_the_numbers() {
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
    fn a_limit_that_was_not_asked_for_is_what_fits() {
        let limit = |prompt: usize, most| {
            jobs(vec![vec![1; prompt]], &params(MaxTokens::AtMost(most), 1, None), SHAPE, "prompt").unwrap()[0]
                .sampling
                .max_new_tokens
        };
        assert_eq!((limit(4, 16), limit(9, usize::MAX), limit(1, 3)), (6, 1, 3));
    }

    #[test]
    fn a_token_the_model_does_not_have_never_reaches_it() {
        for bad in [vec![], vec![100], vec![-1]] {
            let error =
                jobs(vec![vec![1], bad], &params(MaxTokens::Exactly(1), 1, None), SHAPE, "prompt").err().unwrap();
            assert_eq!(error.status, 400);
            assert!(error.body.message.contains("prompt 1"), "{}", error.body.message);
        }
    }
}
