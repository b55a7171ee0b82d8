//! Sampled responses on disk (IO): each chunk is written before it is used, so that a kill loses at most one chunk, and
//! a restart samples the same prompts together again, with the same results.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::append_log::{AppendLog, Record};
use super::prompts::Prompt;
use super::{id, jsonl};
use crate::Result;

/// Number of prompts that are sampled together.
pub const CHUNK: usize = 32;
/// Name of the file in its directory.
pub const RESPONSES: &str = "responses.jsonl";

/// Why a response ended.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum Finish {
    /// The model's end token.
    Eos,
    /// A stop string.
    Stop,
    /// The limit of new tokens or of the context.
    Length,
}

/// A response as stored.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Sampled {
    /// The text.
    pub text: String,
    /// Whether it was truncated at the limit of new tokens.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

impl Sampled {
    /// A response with this text and finish reason.
    pub fn new(text: String, finish: Finish) -> Self {
        Self { text, cut: finish == Finish::Length }
    }
}

/// Samples the responses to prompts: one list per prompt, in order. The second argument must be called with the number
/// of finished responses.
pub type Sampler<'a> = dyn FnMut(&[Prompt], &mut dyn FnMut(usize) -> Result<()>) -> Result<Vec<Vec<Sampled>>> + 'a;

/// A line of the copy in the artifact.
#[derive(Serialize)]
struct OfPrompt<'a> {
    prompt_id: &'a str,
    responses: &'a [Sampled],
}

/// Writes the responses, one line per prompt, in the order of the prompts.
pub fn write_file(path: &Path, prompts: &[Prompt], responses: &[Vec<Sampled>]) -> Result<()> {
    let lines: Vec<OfPrompt<'_>> =
        prompts.iter().zip(responses).map(|(p, r)| OfPrompt { prompt_id: &p.id, responses: r }).collect();
    jsonl::write(path, &lines)
}

#[derive(Deserialize, Serialize)]
struct Chunk {
    /// Hash of the generator's identity and of the prompts.
    key: String,
    responses: Vec<Vec<Sampled>>,
}

impl Record for Chunk {
    const VERSION: u32 = 2;
    const WITHOUT: &'static str = "the responses are sampled again";
}

/// The responses to every prompt, in order: those in `folder` are reused, and the others are sampled and written there.
/// `generator`: identifies everything besides the prompts that determines the responses (model, sampling, number);
/// `progress`: called with the number of responses so far.
pub fn complete(
    folder: &Path,
    generator: &str,
    prompts: &[Prompt],
    sample: &mut Sampler<'_>,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Vec<Sampled>>> {
    let (mut log, chunks) = AppendLog::<Chunk>::open(&folder.join(RESPONSES))?;
    let mut known: HashMap<String, Vec<Vec<Sampled>>> = chunks.into_iter().map(|c| (c.key, c.responses)).collect();
    let mut all: Vec<Vec<Sampled>> = Vec::with_capacity(prompts.len());
    let mut done = 0;
    for chunk in prompts.chunks(CHUNK) {
        let parts: Vec<&str> = [generator].into_iter().chain(chunk.iter().map(|p| p.id.as_str())).collect();
        let key = id::of(&parts);
        let responses = if let Some(responses) = known.remove(&key) {
            responses
        } else {
            let record = Chunk { key, responses: sample(chunk, &mut |more| progress(done + more))? };
            log.append(&record)?;
            record.responses
        };
        done += responses.iter().map(Vec::len).sum::<usize>();
        progress(done)?;
        all.extend(responses);
    }
    log.sync()?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::data::Content;

    fn prompts(n: usize) -> Vec<Prompt> {
        let prompt = |i: usize| Content::Text(format!("prompt {i}"));
        (0..n).map(|i| Prompt { id: prompt(i).id(), content: prompt(i), tags: Vec::new() }).collect()
    }

    fn echo(prompt: &Prompt) -> Vec<Sampled> {
        ["a", "b"].iter().map(|s| Sampled::new(format!("{} {s}", prompt.content.to_text()), Finish::Eos)).collect()
    }

    #[test]
    fn a_stopped_run_resumes_at_the_first_unfinished_chunk() {
        let dir = tempfile::tempdir().unwrap();
        let prompts = prompts(2 * CHUNK + 5);
        let mut asked = Vec::new();
        let run = |stop_after: usize, asked: &mut Vec<usize>| {
            complete(
                dir.path(),
                "g",
                &prompts,
                &mut |chunk, _| {
                    asked.push(chunk.len());
                    Ok(chunk.iter().map(echo).collect())
                },
                &mut |done| if done >= stop_after { Err(Error::Interrupted) } else { Ok(()) },
            )
        };
        assert!(matches!(run(4 * CHUNK, &mut asked), Err(Error::Interrupted)));
        assert_eq!(asked, [CHUNK, CHUNK], "the second chunk was finished before the stop");
        let all = run(usize::MAX, &mut asked).unwrap();
        assert_eq!(asked, [CHUNK, CHUNK, 5], "no chunk is sampled twice");
        assert_eq!(all, prompts.iter().map(echo).collect::<Vec<_>>());
    }

    #[test]
    fn responses_of_another_generator_are_not_reused() {
        let dir = tempfile::tempdir().unwrap();
        for (generator, expected) in [("g", 1), ("h", 1), ("g", 0)] {
            let mut calls = 0;
            let mut sample = |chunk: &[Prompt], _: &mut dyn FnMut(usize) -> Result<()>| {
                calls += 1;
                Ok(chunk.iter().map(echo).collect())
            };
            complete(dir.path(), generator, &prompts(3), &mut sample, &mut |_| Ok(())).unwrap();
            assert_eq!(calls, expected, "{generator}");
        }
    }
}
