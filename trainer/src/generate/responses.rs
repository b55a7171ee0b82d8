//! Responses to a list of prompts, in the order asked.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use plumbline_crds::source::Sampling;

use crate::generate::Finish;
use crate::generate::engine::{Engine, Job, JobId, Limits};
use crate::load::tokenizer::Tokenizer;
use crate::model::decoder::Decoder;
use crate::model::linear::Adapters;
use crate::{Error, Result};

/// A tokenised prompt.
#[derive(Clone, Debug)]
pub struct PromptTokens {
    /// Seeds the prompt's samples; the same key and seed give the same responses.
    pub key: u64,
    /// Token ids.
    pub tokens: Vec<i64>,
}

/// A sampled response.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// Token ids, the end token included when there is one.
    pub tokens: Vec<i64>,
    /// Text, without the end token and what follows a stop string.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
}

/// The longest prompt, in tokens, that a model's context leaves room to continue.
pub fn longest_prompt(model: &Decoder) -> usize {
    model.config.longest(Limits::default().max_context as i64) - 1
}

/// Samples `samples` responses for each prompt. The random numbers of response `s` of a prompt depend on the seed, on the
/// prompt's `key` and on `s` alone, not on which other prompts are in the call.
///
/// `on_progress(done)` is called with the number of finished responses; an error from it stops the sampling.
pub fn generate(
    model: &Decoder,
    adapters: Adapters,
    tokenizer: &Tokenizer,
    prompts: &[PromptTokens],
    samples: usize,
    sampling: &Sampling,
    on_progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Vec<Response>>> {
    let mut engine = Engine::with_adapters(model, adapters, tokenizer.eos_ids().to_vec(), Limits::default());
    let mut places: HashMap<JobId, (usize, usize)> = HashMap::new();
    for (p, prompt) in prompts.iter().enumerate() {
        for s in 0..samples {
            let job = Job {
                tokens: prompt.tokens.clone(),
                sampling: sampling.clone(),
                key: sample_key(prompt.key, s),
                top_logprobs: 0,
            };
            let id = engine.submit(job).map_err(|e| Error::Data(format!("prompt {}: {e}", p + 1)))?;
            places.insert(id, (p, s));
        }
    }
    let mut tokens: Vec<Vec<Vec<i64>>> = vec![vec![Vec::new(); samples]; prompts.len()];
    let mut responses: Vec<Vec<Option<Response>>> = vec![vec![None; samples]; prompts.len()];
    let mut done = 0;
    while !engine.idle() {
        for event in engine.step()? {
            let Some(&(p, s)) = places.get(&event.job) else { continue };
            let so_far = &mut tokens[p][s];
            so_far.push(event.token);
            let stopped = cut_at_stop(tokenizer, so_far, &sampling.stop)?;
            let finish = if stopped.is_some() { Some(Finish::Stop) } else { event.finish };
            let Some(finish) = finish else { continue };
            if event.finish.is_none() {
                engine.cancel(event.job);
            }
            let text = match stopped {
                Some(text) => text,
                None => tokenizer.decode(so_far)?,
            };
            responses[p][s] = Some(Response { tokens: std::mem::take(so_far), text, finish });
            done += 1;
        }
        on_progress(done)?;
    }
    Ok(responses.into_iter().map(|r| r.into_iter().flatten().collect()).collect())
}

/// The text before the first stop string, if there is one.
fn cut_at_stop(tokenizer: &Tokenizer, tokens: &[i64], stop: &[String]) -> Result<Option<String>> {
    if stop.is_empty() {
        return Ok(None);
    }
    let text = tokenizer.decode(tokens)?;
    Ok(stop.iter().filter_map(|s| text.find(s.as_str())).min().map(|at| text[..at].to_owned()))
}

/// The key of one sample of a prompt.
fn sample_key(prompt: u64, sample: usize) -> u64 {
    let digest = Sha256::new().chain_update(prompt.to_le_bytes()).chain_update(sample.to_le_bytes()).finalize();
    u64::from_le_bytes(digest[..8].try_into().unwrap_or_default())
}
