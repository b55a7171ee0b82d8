//! The loop of methods that learn from their own samples (policy gradients): sample, score, check the guards, take
//! steps over minibatches, adapt, save. A run that is killed at any point resumes from its last checkpoint and produces
//! the same result.
//!
//! A method is an [`OnPolicy`]. With several ranks, each samples for its share of the prompts, and all exchange their
//! samples: advantages, guards and metrics are computed over the whole rollout. Each rank then computes its share of
//! every minibatch.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use plumbline_crds::policy_tuning::PolicyTuningSpec;
use plumbline_crds::training::{Precision, Training};
use plumbline_feedback::shutdown;
use plumbline_feedback::text::tokenizer::Tokenizer;

use crate::checkpoint::Checkpoint;
use crate::model::heads::TokenLogProbs;
use crate::model::linear::Adapters;
use crate::optim::{AdamW, schedule};
use crate::ranks::Ranks;
use crate::train::checkpointing::{Checkpointing, merge_means};
use crate::train::frozen_states::FrozenStates;
use crate::train::guard;
use crate::train::io::TrainingIo;
use crate::train::means::Means;
use crate::train::order::{self, Batches};
use crate::train::policy::Policy;
use crate::train::responses::ResponseBatch;
use crate::train::rollout::{self, Behaviour, RolloutPrompt};
use crate::train::samples::{self, Sample, Statistics};
use crate::train::scorer::Scorer;
use crate::train::step::Stepper;
use crate::{Error, Result};

/// Prefix of the parameters at the last rollout within the guards' limits.
const GOOD: &str = "good/";

/// Largest difference, in nats, between the log-probabilities of a token that the same policy computes in Float32.
const SAME_POLICY: f64 = 1e-5;

/// A policy-gradient method.
pub trait OnPolicy {
    /// The method's state in a checkpoint, besides the policy and its optimiser.
    type State: Clone + DeserializeOwned + Serialize;
    /// The method's training data from a rollout, such as advantages.
    type Experience;

    /// The state to save.
    fn state(&self) -> Self::State;
    /// Restores a saved state.
    fn restore(&mut self, state: Self::State);
    /// Epochs over a rollout, 1 or more.
    fn epochs(&self) -> i64;
    /// The training data from the samples of all ranks, and the method's metrics.
    fn experience(&self, samples: &[Sample]) -> (Self::Experience, Means);
    /// Weight of a sample in the mean loss of a minibatch: its tokens for a mean over tokens, 1 for a mean over responses, 0
    /// for a sample that is left out of the loss.
    fn weight(&self, sample: &Sample) -> f64;
    /// The summed loss of a micro-batch, with gradients, and its metrics.
    fn loss(&self, experience: &Self::Experience, micro: &MicroBatch) -> (Tensor, Means);
    /// Whether to skip the remaining epochs over a rollout, given the metrics of the last step.
    fn stops_early(&self, _step: &Means) -> bool {
        false
    }
    /// Updates the method after training on a rollout.
    fn adapt(&mut self, _samples: &[Sample], _rollout: &Statistics) {}
}

/// Samples that are computed together, under the current policy.
pub struct MicroBatch<'a> {
    samples: &'a [Sample],
    /// Numbers of the samples in the rollout.
    items: &'a [usize],
    /// `[response tokens]`: log-probability and entropy of each token, in nats.
    pub now: TokenLogProbs,
    /// `[response tokens]`: the critic's values, if the policy has a value head.
    pub values: Option<Tensor>,
    /// `[samples]`, Int64: response tokens of each sample.
    pub lengths: Tensor,
    /// `[response tokens]`, Int64: the sample of each token.
    owners: Tensor,
    /// Whether the rollout is learnt from in a single step, so that the policy that learns is the one that sampled.
    is_only_step: bool,
    device: Device,
}

impl MicroBatch<'_> {
    /// The samples, in order.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.items.iter().map(|&i| &self.samples[i])
    }

    /// `[response tokens]`: log-probabilities when the responses were sampled.
    pub fn sampled(&self) -> Tensor {
        self.tokens(|_, s| &s.old)
    }

    /// `[response tokens]`, without gradient: the log-probabilities that ratios are relative to. Those at sampling time,
    /// except in the only step of a rollout: its ratios are exactly 1, where the rounding of two passes, summed over a
    /// response, could exceed a clipping range.
    pub fn old(&self) -> Tensor {
        if self.is_only_step { self.now.logprobs.detach() } else { self.sampled() }
    }

    /// `[samples]`, Float32: a value of each sample; `of` maps the number of a sample in the rollout and the sample to it.
    pub fn per_sample(&self, of: impl Fn(usize, &Sample) -> f64) -> Tensor {
        let flat: Vec<f32> = self.items.iter().map(|&i| of(i, &self.samples[i]) as f32).collect();
        Tensor::from_slice(&flat).to_device(self.device)
    }

    /// `[response tokens]`: the value of each sample (`[samples]`), repeated for its tokens.
    pub fn spread(&self, per_sample: &Tensor) -> Tensor {
        per_sample.index_select(0, &self.owners)
    }

    /// `[samples]`: values per token (`[response tokens]`), summed over each sample.
    pub fn sums(&self, per_token: &Tensor) -> Tensor {
        Tensor::zeros([self.items.len() as i64], (per_token.kind(), self.device)).index_add(0, &self.owners, per_token)
    }

    /// `[response tokens]`, Float32: values per token of each sample; `of` maps the number of a sample in the rollout
    /// and the sample to its values.
    pub fn tokens<'s>(&'s self, of: impl Fn(usize, &'s Sample) -> &'s [f64]) -> Tensor {
        let values = self.items.iter().flat_map(|&i| of(i, &self.samples[i]));
        let flat: Vec<f32> = values.map(|&x| x as f32).collect();
        Tensor::from_slice(&flat).to_device(self.device)
    }
}

/// The contents of a checkpoint besides tensors.
#[derive(Clone, Deserialize, Serialize)]
struct State<S> {
    /// Number of updates. Every loop's checkpoints use this name.
    step: i64,
    /// Number of responses sampled.
    episodes: i64,
    /// Why a guard stopped training at this point, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stopped_by_guard: Option<String>,
    /// The state of the method.
    method: S,
}

/// The inputs of an online method.
pub struct Online<'a> {
    /// How to sample and train.
    pub spec: &'a PolicyTuningSpec,
    /// The prompts to sample responses to.
    pub prompts: &'a [RolloutPrompt],
    /// The policy's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The policy, with a value head if the method has a critic.
    pub policy: &'a Policy,
    /// The source of rewards.
    pub scorer: &'a dyn Scorer,
}

impl Online<'_> {
    /// Tunes the policy by a method. Returns the reason if a guard stopped training; the policy is then that of the
    /// last rollout within the limits.
    ///
    /// # Errors
    /// `Interrupted` after a checkpoint; those of the scorer; `Failed` if ranks differ; `Store`, `PeerLost`.
    pub fn train<M: OnPolicy>(&self, method: &mut M, io: &mut TrainingIo) -> Result<Option<String>> {
        let Self { spec, prompts, tokenizer, policy, scorer } = *self;
        let training = &spec.training;
        let total = order::steps(prompts.len(), spec.rollout.prompts_per_step, training.epochs, training.max_steps);
        let optimizer = AdamW::new(&policy.params, &training.optimizer);
        let mut checkpointing = Checkpointing::new(io, training, total, optimizer.device());
        let micro_batch = training.micro_batch_size as usize;
        let mut stepper = Stepper { params: &policy.params, optimizer, micro_batch };
        let mut state = State { step: 0, episodes: 0, stopped_by_guard: None, method: method.state() };
        let mut good = spec.guard.as_ref().map(|_| policy.snapshot());
        tch::manual_seed(training.seed);
        if let Some(checkpoint) = checkpointing.resume::<State<M::State>>(&io.ranks)? {
            stepper.optimizer.restore(&checkpoint.tensors)?;
            good.as_mut().map_or(Ok(()), |good| restore_good(good, &checkpoint))?;
            state = checkpoint.state;
            method.restore(state.method.clone());
        }
        io.ranks.check_same(state.step, &policy.params)?;

        io.progress.stage("Tuning", total);
        io.progress.advance(state.step);
        let behaviour = Behaviour::new(&spec.rollout.sampling, tokenizer);
        let single: Vec<Vec<usize>> = (0..prompts.len()).map(|i| vec![i]).collect();
        let mut batches = Batches::new(&single, spec.rollout.prompts_per_step, training.seed);
        while state.step < total && state.stopped_by_guard.is_none() {
            let batch = batches.step(state.step);
            // Several ranks stop together, after the update.
            let is_alone = io.ranks.size() == 1;
            let mut check = |_| if is_alone && shutdown::requested() { Err(Error::Interrupted) } else { Ok(()) };
            let share = io.ranks.share(&batch);
            let sampled = rollout::sample(&spec.rollout, tokenizer, policy, prompts, share, state.step, &mut check);
            if let Err(Error::Interrupted) = sampled {
                let contents = || (state.clone(), tensors(&stepper, good.as_ref()));
                checkpointing.save(state.step, &policy.params, io, contents)?;
            }
            let (samples, frozen) = rollout::measure(policy, scorer, sampled?, &behaviour)?;
            let (samples, frozen) = gather(&io.ranks, policy, method.epochs(), samples, frozen)?;
            let found = Statistics::new(&samples);
            if let (Some(guard), Some(good)) = (&spec.guard, &mut good) {
                if let Some(why) = guard::tripped(guard, &found) {
                    policy.restore(good);
                    state.stopped_by_guard = Some(format!(
                        "Update {} of {total}: {why}. Training stopped and the last policy within the limits was kept.",
                        state.step + 1
                    ));
                    let contents = || (state.clone(), tensors(&stepper, Some(good)));
                    checkpointing.save(state.step, &policy.params, io, contents)?;
                    break;
                }
                *good = policy.snapshot();
            }
            let rate = schedule::learning_rate(training.learning_rate, &training.schedule, state.step, total);
            let mut means = samples::means(&samples, &found);
            let is_only_step = method.epochs() == 1 && samples.len() as i64 <= training.batch_size;
            let rollout = Rollout { samples: &samples, frozen: frozen.as_ref(), behaviour: &behaviour, is_only_step };
            means.merge(&self.learn(method, &rollout, &mut stepper, rate, state.step, &io.ranks)?);
            method.adapt(&samples, &found);
            state.step += 1;
            state.episodes += samples.len() as i64;
            state.method = method.state();

            log(&state, &means, rate, io)?;
            let sync = checkpointing.sync(Means::default(), &io.ranks)?;
            let contents = || (state.clone(), tensors(&stepper, good.as_ref()));
            checkpointing.end_step(state.step, &sync, &policy.params, io, contents)?;
        }
        Ok(state.stopped_by_guard)
    }

    /// Takes optimiser steps over a rollout: epochs of shuffled minibatches. Returns the metrics of the method and of
    /// all steps.
    fn learn<M: OnPolicy>(
        &self,
        method: &M,
        rollout: &Rollout,
        stepper: &mut Stepper,
        rate: f64,
        update: i64,
        ranks: &Ranks,
    ) -> Result<Means> {
        let training = &self.spec.training;
        let (experience, mut means) = method.experience(rollout.samples);
        let single: Vec<Vec<usize>> = (0..rollout.samples.len()).map(|i| vec![i]).collect();
        ranks.seed(training.seed, update);
        'epochs: for epoch in 0..method.epochs() {
            let shuffled = order::shuffled(&single, training.seed, update * method.epochs() + epoch);
            for (i, minibatch) in shuffled.chunks(training.batch_size as usize).enumerate() {
                let weight = |i: usize| method.weight(&rollout.samples[i]);
                let loss = |items: &[usize]| Ok(method.loss(&experience, &rollout.forward(self.policy, items)));
                let (share, norm) = stepper.step(minibatch, weight, loss, rate, ranks)?;
                let mut of_step = merge_means(share, ranks)?;
                of_step.add("grad_norm", norm, 1.0);
                if epoch == 0 && i == 0 {
                    let difference = initial_difference(&of_step, training, update);
                    means.add("policy/initial_difference", difference, 1.0);
                }
                means.merge(&of_step);
                if method.stops_early(&of_step) {
                    break 'epochs;
                }
            }
        }
        Ok(means)
    }
}

/// Root mean square difference, in nats, between the log-probabilities of the first minibatch and those at sampling time. Before
/// any step it is rounding, and an adapter's dropout; more means that training computes another policy than the one that
/// sampled.
fn initial_difference(first: &Means, training: &Training, update: i64) -> f64 {
    let difference = (2.0 * first.mean("policy/approxkl_avg").unwrap_or_default()).sqrt();
    let has_dropout = training.adapter.as_ref().is_some_and(|adapter| adapter.dropout > 0.0);
    if training.precision == Precision::Float32 && !has_dropout && difference > SAME_POLICY {
        tracing::warn!(
            update = update + 1,
            "the first log-probabilities differ from those at sampling time by {difference:.1e} nats; expected at most \
             {SAME_POLICY:.0e}, as the policy has not moved yet: ratios and clipping are off by as much"
        );
    }
    difference
}

/// A measured rollout.
struct Rollout<'a> {
    samples: &'a [Sample],
    frozen: Option<&'a FrozenStates>,
    behaviour: &'a Behaviour<'a>,
    is_only_step: bool,
}

impl Rollout<'_> {
    /// Runs the current policy on some of the samples.
    fn forward<'m>(&'m self, policy: &Policy, items: &'m [usize]) -> MicroBatch<'m> {
        let device = policy.decoder.device();
        let sequences: Vec<_> = items.iter().map(|&i| &self.samples[i].sequence).collect();
        let states = self.frozen.map(|t| t.gather(items));
        let batch = ResponseBatch::new(&sequences, device).with_frozen_states(states);
        let hidden = batch.hidden(&policy.decoder, Adapters::Training);
        let now = self.behaviour.logprobs(&policy.decoder, &batch, &hidden);
        let values = policy.value_head.as_ref().map(|head| head.forward(&hidden));
        let (lengths, owners) = owners(&batch.counts, device);
        let is_only_step = self.is_only_step;
        MicroBatch { samples: self.samples, items, now, values, lengths, owners, is_only_step, device }
    }
}

/// `[samples]` and `[tokens]`, Int64: the tokens of each sample, and the sample of each token.
fn owners(counts: &[i64], device: Device) -> (Tensor, Tensor) {
    let of_token = |(i, &n): (usize, &i64)| std::iter::repeat_n(i as i64, n as usize);
    let owners: Vec<i64> = counts.iter().enumerate().flat_map(of_token).collect();
    (Tensor::from_slice(counts).to_device(device), Tensor::from_slice(&owners).to_device(device))
}

/// Gathers the samples of all ranks, in the order of their prompts. The frozen states of a rank's own samples do not
/// match its share of a minibatch; computing them for all samples pays off if there are at least as many epochs as
/// ranks.
fn gather(
    ranks: &Ranks,
    policy: &Policy,
    epochs: i64,
    samples: Vec<Sample>,
    frozen: Option<FrozenStates>,
) -> Result<(Vec<Sample>, Option<FrozenStates>)> {
    if ranks.size() == 1 {
        return Ok((samples, frozen));
    }
    let samples = ranks.gather(samples)?.into_iter().flatten().collect::<Vec<_>>();
    let tokens: Vec<Vec<i64>> = samples.iter().map(|s| s.sequence.tokens()).collect();
    let frozen = tch::no_grad(|| FrozenStates::of_ranks(ranks, epochs, &policy.decoder, &tokens));
    Ok((samples, frozen))
}

fn log<S>(state: &State<S>, means: &Means, rate: f64, io: &mut TrainingIo) -> Result<()> {
    let mut values = means.means();
    values.extend([("learning_rate", rate), ("episode", state.episodes as f64)]);
    io.metrics.log(state.step, &values)?;
    for name in ["objective/scores", "objective/kl", "policy/entropy_avg", "completions/mean_length"] {
        if let Some(value) = means.mean(name) {
            io.progress.metric(name, value);
        }
    }
    io.progress.advance(state.step);
    Ok(())
}

/// The tensors of a checkpoint: parameters, optimiser, and with guards the parameters at the last rollout within their limits.
fn tensors(stepper: &Stepper, good: Option<&BTreeMap<String, Tensor>>) -> BTreeMap<String, Tensor> {
    let mut tensors = stepper.optimizer.state();
    tensors.extend(good.into_iter().flatten().map(|(name, t)| (format!("{GOOD}{name}"), t.shallow_clone())));
    tensors
}

fn restore_good<S>(good: &mut BTreeMap<String, Tensor>, checkpoint: &Checkpoint<S>) -> Result<()> {
    for (name, tensor) in good {
        *tensor = checkpoint.tensor(&format!("{GOOD}{name}"))?.copy();
    }
    Ok(())
}

#[cfg(test)]
impl<'a> MicroBatch<'a> {
    /// A micro-batch without a model, on the CPU.
    pub(crate) fn of(samples: &'a [Sample], items: &'a [usize], logprobs: Tensor, values: Option<Tensor>) -> Self {
        let now = TokenLogProbs { entropy: logprobs.zeros_like(), logprobs };
        let counts: Vec<i64> = items.iter().map(|&i| samples[i].old.len() as i64).collect();
        let (lengths, owners) = owners(&counts, Device::Cpu);
        Self { samples, items, now, values, lengths, owners, is_only_step: false, device: Device::Cpu }
    }
}
