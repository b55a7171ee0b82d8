//! Responses to a list of prompts, in the order asked.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use plumbline_crds::source::Sampling;
use plumbline_feedback::data::responses::Finish;
use plumbline_feedback::text::incremental::IncrementalDecoder;
use plumbline_feedback::text::tokenizer::Tokenizer;

use crate::generate::engine::{Engine, Job, JobId, Limits};
use crate::generate::stop_strings::StopStrings;
use crate::model::config::Config;
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
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct Response {
    /// Token ids, including the end token if there is one.
    pub tokens: Vec<i64>,
    /// Text, without the end token, without a stop string and what follows it, and without an incomplete last
    /// character.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
}

/// The longest prompt, in tokens, that leaves room for a response in the context that a model can sample in.
pub fn longest_prompt(config: &Config) -> usize {
    config.longest_sampled(Limits::default().max_context as i64) - 1
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
    let mut open: HashMap<JobId, Writing> = HashMap::new();
    for (p, prompt) in prompts.iter().enumerate() {
        let tokens: Arc<[i64]> = prompt.tokens.as_slice().into();
        for s in 0..samples {
            let job = Job {
                tokens: Arc::clone(&tokens),
                sampling: sampling.clone(),
                key: sample_key(prompt.key, s),
                top_logprobs: 0,
            };
            let id = engine.submit(job).map_err(|e| Error::Data(format!("prompt {}: {e}", p + 1)))?;
            let decoder = tokenizer.incremental(prompt.tokens.last().copied());
            let stop = StopStrings::new(sampling.stop.clone());
            open.insert(id, Writing { prompt: p, sample: s, tokens: Vec::new(), decoder, stop, text: String::new() });
        }
    }
    let mut responses: Vec<Vec<Option<Response>>> = vec![vec![None; samples]; prompts.len()];
    let mut done = 0;
    while !engine.idle() {
        for event in engine.step()? {
            let Some(writing) = open.get_mut(&event.job) else { continue };
            let Some(finish) = writing.add(event.token, event.finish)? else { continue };
            if event.finish.is_none() {
                engine.cancel(event.job);
            }
            if let Some(Writing { prompt, sample, tokens, text, .. }) = open.remove(&event.job) {
                responses[prompt][sample] = Some(Response { tokens, text, finish });
                done += 1;
            }
        }
        on_progress(done)?;
    }
    Ok(responses.into_iter().map(|r| r.into_iter().flatten().collect()).collect())
}

/// A response that is being sampled.
struct Writing<'a> {
    prompt: usize,
    sample: usize,
    tokens: Vec<i64>,
    decoder: IncrementalDecoder<'a>,
    stop: StopStrings,
    text: String,
}

impl Writing<'_> {
    /// Adds a token, the last one if `finish` is set. Returns why the response ends, if it does.
    fn add(&mut self, token: i64, finish: Option<Finish>) -> Result<Option<Finish>> {
        self.tokens.push(token);
        if finish != Some(Finish::Eos) {
            let (text, stopped) = self.stop.push(&self.decoder.push(token)?);
            self.text.push_str(&text);
            if stopped {
                return Ok(Some(Finish::Stop));
            }
        }
        if finish.is_some() {
            self.text.push_str(&self.stop.end());
        }
        Ok(finish)
    }
}

/// The key of one sample of a prompt.
fn sample_key(prompt: u64, sample: usize) -> u64 {
    let digest = Sha256::new().chain_update(prompt.to_le_bytes()).chain_update(sample.to_le_bytes()).finalize();
    u64::from_le_bytes(digest[..8].try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer_fixture::byte_level;

    /// A response of bytes, the last of which comes with `finish`: its text and why it ended.
    fn written(stop: &[&str], tokens: &[i64], finish: Finish) -> (String, Option<Finish>) {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = byte_level(folder.path());
        let stop = StopStrings::new(stop.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let (decoder, text) = (tokenizer.incremental(None), String::new());
        let mut writing = Writing { prompt: 0, sample: 0, tokens: Vec::new(), decoder, stop, text };
        for (i, token) in tokens.iter().enumerate() {
            let found = writing.add(*token, (i + 1 == tokens.len()).then_some(finish)).unwrap();
            if found.is_some() {
                assert_eq!(writing.tokens, tokens[..=i]);
                return (writing.text, found);
            }
        }
        (writing.text, None)
    }

    fn bytes(text: &str) -> Vec<i64> {
        text.bytes().map(i64::from).collect()
    }

    #[test]
    fn a_response_ends_before_its_stop_string_and_its_end_token_is_no_text() {
        assert_eq!(written(&["é!"], &bytes("aé!b"), Finish::Length), ("a".to_owned(), Some(Finish::Stop)));
        assert_eq!(written(&["é!"], &bytes("aé"), Finish::Length), ("aé".to_owned(), Some(Finish::Length)));
        // An end token that the tokenizer would write out, after the beginning of a stop string.
        assert_eq!(written(&["bc"], &bytes("abc"), Finish::Eos), ("ab".to_owned(), Some(Finish::Eos)));
    }
}
