//! PPO (Schulman et al., 2017) on a language model, as Ziegler et al. (2019) and Stiennon et al. (2020) do it: roll out,
//! score, penalise the KL divergence to the SFT model, estimate advantages, and take clipped steps over minibatches.
//!
//! The value head sits on the policy's own backbone. Every mean is over the tokens that exist: there is no padding to
//! leave out. A rollout's randomness depends on seed and update alone, so a resumed run samples what it would have.
//!
//! Several ranks each sample for their share of the prompts, tell each other what they found, and so know the same: rewards,
//! whitening and guards are those of the whole rollout. Of each minibatch each computes its share.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use plumbline_crds::policy_tuning::{Guard, PolicyTuningSpec, Ppo};
use plumbline_crds::run::RunDocument;
use plumbline_crds::source::Sampling;
use plumbline_crds::training::Switch;
use plumbline_feedback::data::Content;
use plumbline_feedback::data::prompts;
use plumbline_feedback::data::responses::Finish;
use plumbline_feedback::data::tokens::{self, Sequence};
use plumbline_feedback::report::{LeftOut, Why};
use plumbline_feedback::shutdown;
use plumbline_feedback::text::tokenizer::Tokenizer;

use crate::advantage::{adapt_kl_coefficient, explained_variance, gae, token_rewards, whiten};
use crate::checkpoint::Checkpoints;
use crate::generate::{PromptTokens, generate};
use crate::loss::kl::kl;
use crate::loss::ppo::{clipped, policy_loss, value_loss};
use crate::model::config::Config;
use crate::model::linear::Adapters;
use crate::optim::{AdamW, copy_to_cpu, schedule};
use crate::ranks::Ranks;
use crate::stage::reward::RewardModel;
use crate::stage::tune::Policy;
use crate::stage::tune::rollout::{Behaviour, RolloutPrompt, Sample, measure};
use crate::train::frozen_states::FrozenStates;
use crate::train::means::Means;
use crate::train::order::{self, Batches};
use crate::train::responses::{ResponseBatch, to_f64};
use crate::train::supervised::{LONGEST_UNSAVED, StepSync, TrainingIo, newest};
use crate::{Error, Result};

/// Prefix of the parameters as they were at the last rollout within the guard's limits.
const GOOD: &str = "good/";

/// What a checkpoint holds beside tensors.
#[derive(Clone, Deserialize, Serialize)]
struct State {
    /// Updates done. The name is that of every stage's checkpoints.
    step: i64,
    kl_coefficient: f64,
    /// Responses sampled.
    episodes: i64,
    /// Why a guard stopped training here, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stopped_by_guard: Option<String>,
}

/// Trains the policy against a reward model.
pub(super) fn train(
    spec: &PolicyTuningSpec,
    prompts: &[RolloutPrompt],
    tokenizer: &Tokenizer,
    policy: &mut Policy,
    reward: &RewardModel,
    io: &mut TrainingIo,
) -> Result<Option<String>> {
    let settings = spec.ppo.clone().unwrap_or_default();
    let training = &spec.training;
    let groups: Vec<Vec<usize>> = (0..prompts.len()).map(|i| vec![i]).collect();
    policy.add_value_head();
    let mut optimizer = AdamW::new(&policy.params, &training.optimizer);
    let checkpoints = Checkpoints::new(io.work, training.checkpoint.keep);
    let total = order::steps(prompts.len(), spec.rollout.prompts_per_step, training.epochs, training.max_steps);
    let mut state = State { step: 0, kl_coefficient: settings.kl_coefficient, episodes: 0, stopped_by_guard: None };
    let mut good: BTreeMap<String, Tensor> = snapshot(policy);
    tch::manual_seed(training.seed);
    let ranks = io.ranks;
    if let Some(checkpoint) = newest::<State>(&checkpoints, ranks)? {
        optimizer.restore(&checkpoint.tensors)?;
        checkpoint.restore_generators(optimizer.device())?;
        for (name, tensor) in &mut good {
            *tensor = checkpoint.tensor(&format!("{GOOD}{name}"))?.copy();
        }
        state = checkpoint.state;
    }
    ranks.check_same(state.step, &policy.params)?;

    io.progress.stage("Tuning", total);
    io.progress.advance(state.step);
    let mut batches = Batches::new(&groups, spec.rollout.prompts_per_step, training.seed);
    let mut saved = Instant::now();
    while state.step < total && state.stopped_by_guard.is_none() {
        let chosen = batches.step(state.step);
        let batch: Vec<&RolloutPrompt> = chosen.iter().map(|&i| &prompts[i]).collect();
        let (samples, frozen) = roll_out(spec, tokenizer, policy, reward, ranks.share(&batch), state.step)?;
        let (samples, frozen) = together(ranks, policy, settings.epochs, samples, frozen)?;
        let experience = Experience::new(&samples, &settings, state.kl_coefficient);
        if let Some(why) = spec.guard.as_ref().and_then(|g| tripped(g, &experience)) {
            restore(policy, &good);
            state.stopped_by_guard = Some(format!(
                "Update {} of {total}: {why}. Training stopped and the last policy within the limits was kept.",
                state.step + 1
            ));
            save(&checkpoints, &state, &optimizer, &good, policy, io)?;
            break;
        }
        good = snapshot(policy);
        let rate = schedule::learning_rate(training.learning_rate, &training.schedule, state.step, total);
        let mut means = experience.means(&samples, state.kl_coefficient);
        update(
            policy,
            &mut optimizer,
            (spec, &Behaviour::new(&spec.rollout.sampling, tokenizer)),
            &settings,
            (&samples, frozen.as_ref()),
            &experience,
            (rate, state.step),
            ranks,
            &mut means,
        )?;
        if let Some(adaptive) = &settings.adaptive_kl {
            state.kl_coefficient = adapt_kl_coefficient(
                state.kl_coefficient,
                experience.kl_per_response,
                adaptive.target,
                adaptive.horizon as f64,
                samples.len() as f64,
            );
        }
        state.step += 1;
        state.episodes += samples.len() as i64;

        let mut values = means.means();
        values.extend([("learning_rate", rate), ("episode", state.episodes as f64)]);
        io.metrics.log(state.step, &values)?;
        for name in ["objective/scores", "objective/kl", "policy/entropy_avg", "completions/mean_length"] {
            if let Some(value) = means.mean(name) {
                io.progress.metric(name, value);
            }
        }
        io.progress.advance(state.step);
        let unsaved = saved.elapsed() > LONGEST_UNSAVED;
        let told = StepSync { stopping: shutdown::requested(), unsaved, ..StepSync::default() }.together(ranks)?;
        let due = state.step % training.checkpoint.every_steps == 0 || told.unsaved;
        if due || told.stopping || state.step == total {
            save(&checkpoints, &state, &optimizer, &good, policy, io)?;
            saved = Instant::now();
        }
        if told.stopping && state.step < total {
            // Nobody ends before the progress of all is safe.
            ranks.wait()?;
            return Err(Error::Interrupted);
        }
    }
    Ok(state.stopped_by_guard)
}

/// Makes safe what was done so far.
fn save(
    checkpoints: &Checkpoints,
    state: &State,
    optimizer: &AdamW,
    good: &BTreeMap<String, Tensor>,
    policy: &Policy,
    io: &mut TrainingIo,
) -> Result<()> {
    io.ranks.check_same(state.step, &policy.params)?;
    let mut tensors = optimizer.state();
    tensors.extend(good.iter().map(|(name, t)| (format!("{GOOD}{name}"), t.shallow_clone())));
    io.checkpoint(|| checkpoints.save(state.step, state, tensors, optimizer.device()))
}

/// Reads the prompts to sample from, which leave room for a response, and counts the others.
pub(super) fn read(
    run: &RunDocument,
    spec: &PolicyTuningSpec,
    tokenizer: &Tokenizer,
    config: &Config,
) -> Result<(Vec<RolloutPrompt>, LeftOut)> {
    let most = config.longest(spec.training.max_length) as i64 - spec.rollout.sampling.max_new_tokens;
    let source = spec.prompts.as_ref().ok_or_else(|| Error::Config("spec.method PPO needs spec.prompts".into()))?;
    let path = run.input("prompts").map(|i| std::path::Path::new(&i.path));
    let found = prompts::read(source, path, "spec.prompts")?;
    let mut left_out = LeftOut::new("prompts");
    left_out.read(found.prompts.len() + found.duplicates);
    left_out.add_all(Why::Duplicate, found.duplicates);
    let mut kept = Vec::new();
    for prompt in found.prompts {
        let tokens = tokens::prompt(tokenizer, &prompt.content).map_err(|e| e.within("spec.prompts"))?;
        if tokens.is_empty() {
            left_out.add(Why::Empty);
            continue;
        }
        if tokens.len() as i64 > most {
            left_out.add(Why::TooLong);
            continue;
        }
        let conversation = matches!(prompt.content, Content::Messages(_));
        kept.push(RolloutPrompt { id: prompt.id, tokens, conversation });
    }
    if left_out.total() > 0 {
        tracing::warn!(
            "{} were left out; a prompt may have at most {most} tokens, to leave room for a response",
            left_out.words()
        );
    }
    if kept.is_empty() {
        return Err(Error::Data(format!(
            "spec.prompts: no prompt has between 1 and {most} tokens (spec.training.maxLength, or the model's context, less maxNewTokens): {} left out",
            left_out.words()
        )));
    }
    Ok((kept, left_out))
}

fn roll_out(
    spec: &PolicyTuningSpec,
    tokenizer: &Tokenizer,
    policy: &Policy,
    reward: &RewardModel,
    prompts: &[&RolloutPrompt],
    update: i64,
) -> Result<(Vec<Sample>, Option<FrozenStates>)> {
    // Each update has random numbers of its own.
    let sampling = Sampling { seed: spec.rollout.sampling.seed ^ (update << 20), ..spec.rollout.sampling.clone() };
    let asked: Vec<PromptTokens> =
        prompts.iter().map(|p| PromptTokens { key: key_of(&p.id), tokens: p.tokens.clone() }).collect();
    let per_prompt = spec.rollout.responses_per_prompt as usize;
    let mut check = |_done: usize| Ok(());
    let responses = generate(&policy.decoder, Adapters::On, tokenizer, &asked, per_prompt, &sampling, &mut check)?;
    let sampled = prompts
        .iter()
        .zip(responses)
        .flat_map(|(prompt, responses)| {
            responses.into_iter().map(|r| {
                let sequence = Sequence { prompt: prompt.tokens.clone(), response: r.tokens };
                (sequence, r.finish, prompt.conversation)
            })
        })
        .collect();
    Ok(measure(policy, reward, sampled, &Behaviour::new(&spec.rollout.sampling, tokenizer)))
}

/// The samples of all ranks, in the order of their prompts. What frozen layers computed for a rank's own samples is of no use
/// for its share of a minibatch; to compute it for all is worth it for as many epochs as there are ranks.
fn together(
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

/// Seeds a prompt's samples: FNV-1a of its id.
pub(crate) fn key_of(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// What a rollout teaches. Lists have one entry a sample, inner ones one a response token.
struct Experience {
    scores: Vec<f64>,
    kl: Vec<Vec<f64>>,
    advantages: Vec<Vec<f64>>,
    returns: Vec<Vec<f64>>,
    /// Mean over responses of log policy - log reference summed over tokens.
    kl_per_response: f64,
    /// Mean over tokens, in nats.
    entropy: f64,
}

impl Experience {
    fn new(samples: &[Sample], settings: &Ppo, kl_coefficient: f64) -> Self {
        let scores: Vec<f64> = samples
            .iter()
            .map(|s| {
                let score = settings.score_clip.map_or(s.score, |c| s.score.clamp(-c, c));
                if s.finish == Finish::Length { score - settings.missing_eos_penalty } else { score }
            })
            .collect();
        let estimates: Vec<Vec<f64>> = samples
            .iter()
            .map(|s| to_f64(&kl(&Tensor::from_slice(&s.old), &Tensor::from_slice(&s.reference), settings.kl_estimator)))
            .collect();
        let mut rewards: Vec<Vec<f64>> =
            estimates.iter().zip(&scores).map(|(k, &score)| token_rewards(k, kl_coefficient, score)).collect();
        if settings.whiten_rewards == Switch::Enabled {
            whiten_all(&mut rewards, true);
        }
        let (mut advantages, returns): (Vec<_>, Vec<_>) =
            rewards.iter().zip(samples).map(|(r, s)| gae(r, &s.values, settings.gamma, settings.lambda)).unzip();
        if settings.whiten_advantages == Switch::Enabled {
            whiten_all(&mut advantages, false);
        }
        let count = samples.len() as f64;
        let direct = |s: &Sample| s.old.iter().zip(&s.reference).map(|(p, r)| p - r).sum::<f64>();
        let tokens: usize = samples.iter().map(|s| s.old.len()).sum();
        Self {
            scores,
            kl: estimates,
            advantages,
            returns,
            kl_per_response: samples.iter().map(direct).sum::<f64>() / count,
            entropy: samples.iter().flat_map(|s| &s.entropy).sum::<f64>() / tokens as f64,
        }
    }

    fn means(&self, samples: &[Sample], kl_coefficient: f64) -> Means {
        let count = samples.len() as f64;
        let mut means = Means::default();
        let penalties: f64 = self.kl.iter().flatten().sum::<f64>() * -kl_coefficient;
        let scores: f64 = samples.iter().map(|s| s.score).sum();
        let entropy: f64 = samples.iter().flat_map(|s| &s.entropy).sum();
        let (flat_values, flat_returns): (Vec<f64>, Vec<f64>) = (
            samples.iter().flat_map(|s| &s.values).copied().collect(),
            self.returns.iter().flatten().copied().collect(),
        );
        means.add("objective/kl", self.kl_per_response, 1.0);
        means.add("objective/kl_coefficient", kl_coefficient, 1.0);
        means.add("objective/entropy", entropy, count);
        means.add("objective/scores", scores, count);
        means.add("objective/non_score_reward", penalties, count);
        means.add("objective/rlhf_reward", self.scores.iter().sum::<f64>() + penalties, count);
        means.add("val/explained_variance", explained_variance(&flat_values, &flat_returns), 1.0);
        means.add("val/num_eos_tokens", samples.iter().filter(|s| s.finish == Finish::Eos).count() as f64, 1.0);
        means.add("completions/mean_length", samples.iter().map(|s| s.old.len() as f64).sum(), count);
        means
    }
}

fn whiten_all(rows: &mut [Vec<f64>], keep_mean: bool) {
    let mut flat: Vec<f64> = rows.iter().flatten().copied().collect();
    whiten(&mut flat, keep_mean);
    let mut next = flat.into_iter();
    for value in rows.iter_mut().flatten() {
        *value = next.next().unwrap_or_default();
    }
}

/// Clipped steps over a rollout: epochs of shuffled minibatches.
#[allow(clippy::too_many_arguments, reason = "one call; a struct would only rename them")]
fn update(
    policy: &Policy,
    optimizer: &mut AdamW,
    (spec, behaviour): (&PolicyTuningSpec, &Behaviour),
    settings: &Ppo,
    (samples, frozen): (&[Sample], Option<&FrozenStates>),
    experience: &Experience,
    (rate, update): (f64, i64),
    ranks: &Ranks,
    means: &mut Means,
) -> Result<()> {
    let head = policy.value_head.as_ref().ok_or_else(|| Error::Failed("PPO needs a value head".into()))?;
    let (training, device) = (&spec.training, policy.decoder.device());
    let single: Vec<Vec<usize>> = (0..samples.len()).map(|i| vec![i]).collect();
    ranks.seed(training.seed, update);
    'epochs: for epoch in 0..settings.epochs {
        let shuffled = order::shuffled(&single, training.seed, update * settings.epochs + epoch);
        for minibatch in shuffled.chunks(training.batch_size as usize) {
            let tokens: f64 = minibatch.iter().map(|&i| samples[i].old.len() as f64).sum();
            let mut of_step = Means::default();
            for micro in ranks.share(minibatch).chunks(training.micro_batch_size as usize) {
                let sequences: Vec<&Sequence> = micro.iter().map(|&i| &samples[i].sequence).collect();
                let batch = ResponseBatch::new(&sequences, device).with_frozen_states(frozen.map(|t| t.gather(micro)));
                let hidden = batch.hidden(&policy.decoder, Adapters::Training);
                let found = behaviour.logprobs(&policy.decoder, &batch, &hidden);
                let values = head.forward(&hidden);
                let column = |rows: &dyn Fn(usize) -> Vec<f64>| {
                    let flat: Vec<f32> = micro.iter().flat_map(|&i| rows(i)).map(|x| x as f32).collect();
                    Tensor::from_slice(&flat).to_device(device)
                };
                let old = column(&|i| samples[i].old.clone());
                let advantages = column(&|i| experience.advantages[i].clone());
                let policy_losses = policy_loss(&found.logprobs, &old, &advantages, settings.clip_range);
                let old_values = column(&|i| samples[i].values.clone());
                let returns = column(&|i| experience.returns[i].clone());
                let value_losses = value_loss(&values, &old_values, &returns, settings.value_clip_range);
                let loss = policy_losses.sum(Kind::Float) + value_losses.sum(Kind::Float) * settings.value_coefficient;
                (loss / tokens).backward();

                let n = found.logprobs.size()[0] as f64;
                let sum = |t: &Tensor| t.detach().sum(Kind::Double).double_value(&[]);
                let difference = (&found.logprobs - &old).detach();
                let ratio = difference.exp();
                of_step.add("loss/policy_avg", sum(&policy_losses), n);
                of_step.add("loss/value_avg", sum(&value_losses), n);
                of_step.add("policy/entropy_avg", sum(&found.entropy), n);
                of_step.add("policy/approxkl_avg", 0.5 * sum(&difference.square()), n);
                of_step.add("policy/clipfrac_avg", sum(&clipped(&found.logprobs, &old, settings.clip_range)), n);
                of_step.add("val/ratio", sum(&ratio), n);
                let value_moves = (&values - &old_values).abs().gt(settings.value_clip_range);
                of_step.add("val/clipfrac_avg", sum(&value_moves), n);
            }
            ranks.sum_gradients(&policy.params)?;
            let norm = optimizer.step(rate)?;
            let mut of_step = StepSync { means: of_step, ..StepSync::default() }.together(ranks)?.means;
            of_step.add("grad_norm", norm, 1.0);
            means.merge(&of_step);
            let moved = of_step.mean("policy/approxkl_avg").unwrap_or_default();
            if settings.target_kl.is_some_and(|most| moved > most) {
                break 'epochs;
            }
        }
    }
    Ok(())
}

/// Why a guard stops training, if it does.
fn tripped(guard: &Guard, found: &Experience) -> Option<String> {
    if let Some(most) = guard.max_kl.filter(|&most| found.kl_per_response > most) {
        let kl = found.kl_per_response;
        return Some(format!("the KL divergence is {kl:.2} nats per response, above spec.guard.maxKl of {most}"));
    }
    guard.min_entropy.filter(|&least| found.entropy < least).map(|least| {
        format!("the entropy is {:.3} nats per token, below spec.guard.minEntropy of {least}", found.entropy)
    })
}

fn snapshot(policy: &Policy) -> BTreeMap<String, Tensor> {
    policy.params.iter().map(|(name, t)| (name.clone(), copy_to_cpu(t))).collect()
}

fn restore(policy: &Policy, saved: &BTreeMap<String, Tensor>) {
    tch::no_grad(|| {
        for (name, tensor) in &policy.params {
            if let Some(saved) = saved.get(name) {
                tensor.shallow_clone().copy_(saved);
            }
        }
    });
}
