//! Continuous batching: jobs are admitted when there is room, each step samples one token for every active job, and
//! finished jobs leave at once. A prompt with several samples is prefilled once, and so is a prefix that prompts share.

use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use plumbline_crds::source::Sampling;
use plumbline_feedback::data::responses::Finish;

use crate::generate::sampler::{Uniforms, sample};
use crate::model::attention::Context;
use crate::model::cache::{Cache, Prefix};
use crate::model::decoder::Decoder;
use crate::model::heads::{self, SuppressedTokens};
use crate::model::linear::Adapters;
use crate::model::packed::Packed;
use crate::{Error, Result};

/// A shorter shared prefix is prefilled again: keeping it would cost more than it saves.
const SHORTEST_PREFIX: usize = 16;
/// Maximum number of elements of the attention mask over a prefix: one for each pair of a new token and an earlier
/// token.
const MOST_MASK: usize = 1 << 24;
/// Cache capacity grows in steps of this many tokens.
const CAPACITY_STEP: i64 = 64;

/// A request to the engine.
#[derive(Clone, Debug)]
pub struct Job {
    /// Token ids of the prompt, shared by its samples.
    pub tokens: Arc<[i64]>,
    /// Sampling parameters. Stop strings are up to the caller, which decodes the tokens and cancels the job.
    pub sampling: Sampling,
    /// Seeds this job's random numbers: the same (`sampling.seed`, key) gives the same text.
    pub key: u64,
    /// How many of the most likely tokens are reported with each token.
    pub top_logprobs: usize,
}

/// Identifies a job.
pub type JobId = u64;

/// One sampled token.
#[derive(Clone, Debug)]
pub struct Event {
    /// The job of the token.
    pub job: JobId,
    /// Token id.
    pub token: i64,
    /// Its log-probability in the unmodified distribution (temperature 1, nothing truncated), in nats.
    pub logprob: f32,
    /// The most likely tokens, most likely first, with their log-probabilities.
    pub top: Vec<(i64, f32)>,
    /// Set for the job's last token.
    pub finish: Option<Finish>,
}

/// The capacity of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Jobs that are sampled together.
    pub max_active: usize,
    /// Maximum length of prompt and response together, in tokens.
    pub max_context: usize,
    /// Prompt tokens prefilled in one step.
    pub batch_tokens: usize,
    /// Maximum number of tokens in the cache.
    pub cache_tokens: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_active: 64, max_context: 8192, batch_tokens: 2048, cache_tokens: 65_536 }
    }
}

/// Counters of the engine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Queued jobs.
    pub waiting: usize,
    /// Active jobs.
    pub active: usize,
    /// Prompt tokens that were not prefilled because a prefix or a whole prompt was shared.
    pub prefix_tokens_reused: u64,
    /// Prompt tokens of admitted jobs.
    pub prompt_tokens: u64,
    /// Sampled tokens.
    pub sampled_tokens: u64,
}

/// The engine. It owns or borrows a decoder.
pub struct Engine<M: Borrow<Decoder> = Decoder> {
    model: M,
    adapters: Adapters,
    eos_ids: Vec<i64>,
    limits: Limits,
    cache: Cache,
    waiting: VecDeque<(JobId, Job)>,
    /// In order of cache slot.
    active: Vec<Active>,
    prefix: Option<Prefix>,
    last_prompt: Arc<[i64]>,
    next_id: JobId,
    stats: Stats,
}

struct Active {
    id: JobId,
    sampling: Sampling,
    uniforms: Uniforms,
    top_logprobs: usize,
    last_token: i64,
    remaining: i64,
    /// Number of tokens during which the end token is not sampled.
    without_end: i64,
}

impl<M: Borrow<Decoder>> Engine<M> {
    /// An engine without jobs. A job ends with any of `eos_ids`.
    pub fn new(model: M, eos_ids: Vec<i64>, limits: Limits) -> Self {
        Self::with_adapters(model, Adapters::On, eos_ids, limits)
    }

    /// An engine that enables or disables the model's adapters.
    pub fn with_adapters(model: M, adapters: Adapters, eos_ids: Vec<i64>, limits: Limits) -> Self {
        let decoder: &Decoder = model.borrow();
        let max_context = limits.max_context.min(decoder.config.architecture.sampling_context() as usize);
        let cache = Cache::new(&decoder.config.architecture, 0, 0, decoder.kind, decoder.device());
        Self {
            model,
            adapters,
            eos_ids,
            limits: Limits { max_context, ..limits },
            cache,
            waiting: VecDeque::new(),
            active: Vec::new(),
            prefix: None,
            last_prompt: Arc::default(),
            next_id: 0,
            stats: Stats::default(),
        }
    }

    /// Queues a job. A prompt that leaves no room for a token is rejected.
    pub fn submit(&mut self, mut job: Job) -> Result<JobId> {
        let (len, most) = (job.tokens.len(), self.limits.max_context);
        if len == 0 {
            return Err(Error::Data("expected a prompt of at least one token, found an empty prompt".into()));
        }
        if len >= most {
            return Err(Error::Data(format!(
                "the prompt has {len} tokens; at most {} fit the context of {most}",
                most - 1
            )));
        }
        let vocab = self.model.borrow().config.architecture.vocab_size;
        if let Some(token) = job.tokens.iter().find(|&&t| t < 0 || t >= vocab) {
            return Err(Error::Data(format!("token id {token} is outside the vocabulary of {vocab}")));
        }
        job.sampling.max_new_tokens = job.sampling.max_new_tokens.min((most - len) as i64).max(1);
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.push_back((id, job));
        Ok(id)
    }

    /// Drops a job. Unknown and finished jobs are ignored.
    pub fn cancel(&mut self, id: JobId) {
        self.waiting.retain(|(waiting, _)| *waiting != id);
        if let Some(slot) = self.active.iter().position(|a| a.id == id) {
            self.release(slot);
        }
    }

    /// Samples one token for each active job, then admits waiting jobs and samples their first.
    pub fn step(&mut self) -> Result<Vec<Event>> {
        let _no_grad = tch::no_grad_guard();
        let mut events = self.decode();
        events.extend(self.admit());
        self.stats.sampled_tokens += events.len() as u64;
        Ok(events)
    }

    /// Whether no job is queued or active.
    pub fn idle(&self) -> bool {
        self.waiting.is_empty() && self.active.is_empty()
    }

    /// The counters so far.
    pub fn stats(&self) -> Stats {
        Stats { waiting: self.waiting.len(), active: self.active.len(), ..self.stats }
    }

    fn decode(&mut self) -> Vec<Event> {
        if self.active.is_empty() {
            return Vec::new();
        }
        let model: &Decoder = self.model.borrow();
        let tokens: Vec<[i64; 1]> = self.active.iter().map(|a| [a.last_token]).collect();
        let batch = Packed::new(&tokens).at_positions(self.cache.lengths()).to_device(model.device());
        let step = self.cache.step(model.kind);
        let mut context = Context::Decode { cache: &self.cache, step: &step };
        let hidden = model.forward(&batch, &mut context, self.adapters);
        let logits = heads::logits(model, &hidden);
        let events = pick(&logits, &mut self.active, &self.eos_ids);
        for slot in (0..events.len()).rev() {
            if events[slot].finish.is_some() {
                self.release(slot);
            }
        }
        events
    }

    fn release(&mut self, slot: usize) {
        self.cache.release(slot);
        self.active.swap_remove(slot);
    }

    fn admit(&mut self) -> Vec<Event> {
        let jobs = self.take_admissible();
        if jobs.is_empty() {
            return Vec::new();
        }
        // A prompt that several jobs ask for is read once.
        let mut prompts: Vec<&[i64]> = Vec::new();
        let mut numbers: HashMap<&[i64], usize> = HashMap::new();
        let which: Vec<usize> = jobs
            .iter()
            .map(|(_, job)| {
                *numbers.entry(&job.tokens).or_insert_with(|| {
                    prompts.push(&job.tokens);
                    prompts.len() - 1
                })
            })
            .collect();
        self.share_prefix(&prompts);
        let shared = self.prefix.as_ref().map_or(0, |p| p.tokens.len());
        let model: &Decoder = self.model.borrow();
        let rest: Vec<&[i64]> = prompts.iter().map(|p| &p[shared..]).collect();
        let batch = Packed::starting_at(&rest, shared as i64).to_device(model.device());
        let mut kept = Vec::new();
        let mut context = Context::Prefill { prefix: self.prefix.as_ref(), kept: &mut kept };
        let hidden = model.forward(&batch, &mut context, self.adapters).index_select(0, &batch.last_rows());
        let rows: Vec<i64> = which.iter().map(|&i| i as i64).collect();
        let logits = heads::logits(model, &hidden).index_select(0, &on(&rows, model.device()));

        let mut admitted: Vec<Active> = jobs.iter().map(|(id, job)| Active::new(*id, job)).collect();
        let events = pick(&logits, &mut admitted, &self.eos_ids);
        let starts = batch.starts();
        for ((active, event), &prompt) in admitted.into_iter().zip(&events).zip(&which) {
            if event.finish.is_none() {
                self.cache.admit(self.prefix.as_ref(), &kept, starts[prompt], batch.lengths[prompt]);
                self.active.push(active);
            }
        }
        let asked: usize = jobs.iter().map(|(_, j)| j.tokens.len()).sum();
        let read = batch.tokens_len() as usize;
        self.stats.prompt_tokens += asked as u64;
        self.stats.prefix_tokens_reused += (asked - read) as u64;
        if let Some((_, job)) = jobs.into_iter().next_back() {
            self.last_prompt = job.tokens;
        }
        events
    }

    /// Admits waiting jobs, first come first served, as far as slots, cache and the step's token limit allow.
    fn take_admissible(&mut self) -> Vec<(JobId, Job)> {
        let mut capacity = self.cache.capacity();
        let (mut tokens, mut taken) = (0, Vec::new());
        while let Some((_, job)) = self.waiting.front() {
            let count = self.active.len() + taken.len() + 1;
            let room = job.tokens.len() as i64 + job.sampling.max_new_tokens;
            let wanted = capacity.max((room + CAPACITY_STEP - 1) / CAPACITY_STEP * CAPACITY_STEP);
            let repeated = taken.last().is_some_and(|(_, last): &(JobId, Job)| last.tokens == job.tokens);
            let reads = if repeated { 0 } else { job.tokens.len() };
            let alone = self.active.is_empty() && taken.is_empty();
            let fits = count <= self.limits.max_active
                && tokens + reads <= self.limits.batch_tokens
                && count * wanted as usize <= self.limits.cache_tokens;
            if !fits && !alone {
                break;
            }
            (capacity, tokens) = (wanted, tokens + reads);
            taken.extend(self.waiting.pop_front());
        }
        let keeps = taken.iter().filter(|(_, j)| j.sampling.max_new_tokens > 1).count();
        if keeps > 0 {
            self.cache.reserve(self.active.len() + keeps, capacity);
        }
        taken
    }

    /// Sets `self.prefix` to a common prefix of all prompts: the current one, a longer one, or none.
    fn share_prefix(&mut self, prompts: &[&[i64]]) {
        let longest = prompts.iter().map(|p| p.len()).min().unwrap_or(1) - 1;
        let held = self.prefix.as_ref().map_or(0, |p| {
            let shared = p.tokens.len();
            let fits = shared <= longest && pays(prompts, shared) && prompts.iter().all(|q| q.starts_with(&p.tokens));
            if fits { p.tokens.len() } else { 0 }
        });
        let common = |a: &[i64], b: &[i64]| a.iter().zip(b).take_while(|(x, y)| x == y).count();
        let first = prompts[0];
        let candidate = match prompts {
            [only] => common(only, &self.last_prompt),
            _ => prompts[1..].iter().map(|p| common(first, p)).min().unwrap_or(0),
        }
        .min(longest);
        if candidate >= SHORTEST_PREFIX && candidate > held * 2 && pays(prompts, candidate) {
            let tokens = first[..candidate].to_vec();
            let mut layers = Vec::new();
            let model: &Decoder = self.model.borrow();
            let batch = Packed::new(&[&tokens]).to_device(model.device());
            let _ = model.forward(&batch, &mut Context::Prefill { prefix: None, kept: &mut layers }, self.adapters);
            self.prefix = Some(Prefix { tokens, layers });
        } else if held == 0 {
            self.prefix = None;
        }
    }
}

/// Whether prefilling a prefix of this many tokens once is worth the mask that it needs.
fn pays(prompts: &[&[i64]], shared: usize) -> bool {
    let longest = prompts.iter().map(|p| p.len()).max().unwrap_or(0);
    longest.saturating_sub(shared).saturating_mul(longest) <= MOST_MASK
}

impl Active {
    fn new(id: JobId, job: &Job) -> Self {
        Self {
            id,
            uniforms: Uniforms::new(job.sampling.seed, job.key),
            sampling: job.sampling.clone(),
            top_logprobs: job.top_logprobs,
            last_token: 0,
            remaining: job.sampling.max_new_tokens,
            without_end: job.sampling.min_new_tokens,
        }
    }
}

/// Samples one token for each row of `logits` (`[jobs, vocab]`).
fn pick(logits: &Tensor, jobs: &mut [Active], eos_ids: &[i64]) -> Vec<Event> {
    let tokens = match without_end(logits, jobs, eos_ids) {
        Some(masked) => sample_groups(&masked, jobs),
        None => sample_groups(logits, jobs),
    };
    let normalizer = logits.logsumexp([-1i64].as_slice(), false);
    let chosen = logits.gather(1, &on(&tokens, logits.device()).unsqueeze(1), false).squeeze_dim(1) - &normalizer;
    // One transfer for all rows, where the logits are on a GPU.
    let chosen = chosen.to_device(Device::Cpu);
    let most = jobs.iter().map(|j| j.top_logprobs).max().unwrap_or(0) as i64;
    let top = (most > 0).then(|| {
        let (values, ids) = logits.topk(most.min(logits.size()[1]), -1, true, true);
        ((values - normalizer.unsqueeze(1)).to_device(Device::Cpu), ids.to_device(Device::Cpu))
    });
    jobs.iter_mut()
        .zip(tokens)
        .enumerate()
        .map(|(row, (job, token))| {
            job.last_token = token;
            job.remaining -= 1;
            job.without_end -= 1;
            let finish = if eos_ids.contains(&token) {
                Some(Finish::Eos)
            } else {
                (job.remaining == 0).then_some(Finish::Length)
            };
            let row = row as i64;
            let top = top.as_ref().map_or_else(Vec::new, |(values, ids)| {
                (0..(job.top_logprobs as i64).min(values.size()[1]))
                    .map(|i| (ids.int64_value(&[row, i]), values.double_value(&[row, i]) as f32))
                    .collect()
            });
            Event { job: job.id, token, logprob: chosen.double_value(&[row]) as f32, top, finish }
        })
        .collect()
}

/// The logits with the end tokens suppressed for the jobs that may not end yet; none if all may.
fn without_end(logits: &Tensor, jobs: &[Active], eos_ids: &[i64]) -> Option<Tensor> {
    let rows: Vec<i64> = (0..).zip(jobs).filter(|(_, job)| job.without_end > 0).map(|(row, _)| row).collect();
    if rows.is_empty() || eos_ids.is_empty() {
        return None;
    }
    let masked = logits.copy();
    SuppressedTokens { tokens: eos_ids, rows: on(&rows, logits.device()) }.apply(&masked);
    Some(masked)
}

/// Numbers as a tensor on a device.
fn on(values: &[i64], device: Device) -> Tensor {
    Tensor::from_slice(values).to_device(device)
}

/// Samples the rows that share their settings in one call.
fn sample_groups(logits: &Tensor, jobs: &mut [Active]) -> Vec<i64> {
    let settings = |s: &Sampling| (s.temperature.to_bits(), s.top_p.to_bits(), s.top_k, s.min_p.to_bits());
    let mut groups: HashMap<_, Vec<usize>> = HashMap::new();
    for (row, job) in jobs.iter().enumerate() {
        groups.entry(settings(&job.sampling)).or_default().push(row);
    }
    let mut tokens = vec![0; jobs.len()];
    for rows in groups.into_values() {
        let uniforms: Vec<f64> = rows.iter().map(|&r| jobs[r].uniforms.draw()).collect();
        let index: Vec<i64> = rows.iter().map(|&r| r as i64).collect();
        let group = if rows.len() == jobs.len() {
            logits.shallow_clone()
        } else {
            logits.index_select(0, &on(&index, logits.device()))
        };
        for (&row, token) in rows.iter().zip(sample(&group.to_kind(Kind::Float), &jobs[rows[0]].sampling, &uniforms)) {
            tokens[row] = token;
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_prefix_of_a_long_prompt_is_read_again_rather_than_masked() {
        let prompts = |length: usize| vec![1; length];
        for (length, shared, expected) in
            [(4096, 64, true), (8192, 64, false), (8192, 7000, true), (131_072, 64, false)]
        {
            assert_eq!(pays(&[&prompts(10), &prompts(length)], shared), expected, "{shared} of {length}");
        }
    }
}
