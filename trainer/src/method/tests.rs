//! What every method has to satisfy, on four responses of 2, 3, 1 and 4 tokens to two prompts.
//!
//! The expected losses were computed with PyTorch, in Float64:
//! ```python
//! old = [t([-1.0, -0.5]), t([-2.0, -0.7, -1.2]), t([-0.3]), t([-0.9, -1.5, -0.4, -2.2])]
//! new = [t([-0.9, -0.8]), t([-1.9, -0.7, -1.0]), t([-0.6]), t([-0.9, -1.2, -0.45, -2.0])]
//! ref = [t([-1.2, -0.4]), t([-2.5, -0.9, -1.0]), t([-0.3]), t([-1.1, -1.0, -0.5, -2.1])]
//! score, n = t([1.0, 0.25, -0.5, 2.0]), [2, 3, 1, 4]
//! def clip(r, a, high): return -torch.minimum(r * a, r.clamp(0.8, high) * a)
//! # GRPO: beta 0.04 with K3, clipped to 0.8..1.28
//! group = lambda r: (r - r.mean()) / (r.std() + 1e-4)
//! A = torch.cat([group(score[:2]), group(score[2:])])
//! k3 = [(r - x).exp() - 1 - (r - x) for x, r in zip(new, ref)]
//! token = [clip((x - o).exp(), a, 1.28) + 0.04 * k for x, o, a, k in zip(new, old, A, k3)]
//! cispo = [-(x - o).exp().clamp(max=1.28) * a * x + 0.04 * k for x, o, a, k in zip(new, old, A, k3)]
//! gspo = [clip((x - o).mean().exp(), a, 1.28) + 0.04 * k.mean() for x, o, a, k in zip(new, old, A, k3)]
//! sum(l.mean() for l in token) / 4, sum(l.sum() for l in token) / (4 * 8)                # Grpo, DrGrpo of 8 tokens
//! sum(l.sum() for l in token) / 10, sum(l.sum() for l in cispo) / 10, sum(gspo) / 4     # Dapo, Cispo, Gspo
//! # RLOO and REINFORCE with the mean as baseline: beta 0.05 with K1
//! R = score - 0.05 * t([(o - r).sum() for o, r in zip(old, ref)])
//! A = torch.cat([R[:2] - R[:2].flip(0), R[2:] - R[2:].flip(0)])
//! sum(clip((x - o).sum().exp(), a, 1.2) for x, o, a in zip(new, old, A)) / 4
//! sum(-a * x.sum() for x, a in zip(new, R - R.mean())) / 4
//! # REINFORCE++ (beta 0.01) and A2C (beta 0.05, lambda 1): rewards to go, whose last one has the score
//! def to_go(beta, o, r, s):
//!     reward = -beta * (o - r); reward[-1] += s
//!     return reward.flip(0).cumsum(0).flip(0)
//! flat = torch.cat([to_go(0.01, o, r, s) for o, r, s in zip(old, ref, score)])
//! A = ((flat - flat.mean()) / (flat.var() + 1e-8).sqrt()).split(n)
//! sum(clip((x - o).exp(), a, 1.2).sum() for x, o, a in zip(new, old, A)) / 10
//! v = [t([0.5, 0.4]), t([0.1, 0.2, 0.3]), t([-0.2]), t([1.0, 0.9, 0.8, 0.7])]; now = [x + 0.1 for x in v]
//! G = [to_go(0.05, o, r, s) for o, r, s in zip(old, ref, score)]
//! (sum((-(g - w) * x).sum() for g, w, x in zip(G, v, new)) + 0.25 * sum(((w - g) ** 2).sum() for w, g in zip(now, G))) / 10
//! ```

use tch::{Kind, Tensor};

use plumbline_crds::online::{self, GroupBaseline, GrpoLoss, ReinforceBaseline};
use plumbline_crds::training::Switch;
use plumbline_feedback::data::responses::Finish;
use plumbline_feedback::data::tokens::Sequence;

use super::a2c::A2c;
use super::grpo::Grpo;
use super::ppo::Ppo;
use super::reinforce::Reinforce;
use super::reinforce_plus_plus::ReinforcePlusPlus;
use super::rloo::Rloo;
use crate::train::online::{MicroBatch, OnPolicy};
use crate::train::samples::Sample;
use crate::values::to_f64;

/// Of Grpo, DrGrpo, Dapo, Cispo and Gspo.
const GRPO: [f64; 5] = [-0.020_670, -0.047_502, -0.152_007, 0.173_315, -0.019_158];
/// The same without the last response: `/ 3` responses, `/ (3 * 8)`, `/ 6` tokens.
const MASKED: [f64; 5] = [0.234_645, 0.067_766, 0.271_065, -0.336_833, 0.238_055];
/// The gradient of Cispo, by `backward()` with the ratios detached.
const CISPO_GRADIENT: [f64; 10] = [
    -0.077_096, -0.054_341, 0.079_937, 0.071_422, 0.086_350, 0.050_981, -0.069_982, -0.091_390, -0.067_063, -0.085_981,
];
const RLOO: f64 = -0.149_258;
const REINFORCE: f64 = 1.056_141;
const REINFORCE_PLUS_PLUS: f64 = -0.042_264;
const A2C: f64 = 0.768_141;

const NEW: [&[f64]; 4] = [&[-0.9, -0.8], &[-1.9, -0.7, -1.0], &[-0.6], &[-0.9, -1.2, -0.45, -2.0]];

fn samples() -> Vec<Sample> {
    let old: [&[f64]; 4] = [&[-1.0, -0.5], &[-2.0, -0.7, -1.2], &[-0.3], &[-0.9, -1.5, -0.4, -2.2]];
    let reference: [&[f64]; 4] = [&[-1.2, -0.4], &[-2.5, -0.9, -1.0], &[-0.3], &[-1.1, -1.0, -0.5, -2.1]];
    let values: [&[f64]; 4] = [&[0.5, 0.4], &[0.1, 0.2, 0.3], &[-0.2], &[1.0, 0.9, 0.8, 0.7]];
    let scores = [1.0, 0.25, -0.5, 2.0];
    (0..4)
        .map(|i| Sample {
            group: i / 2,
            sequence: Sequence { prompt: vec![1], response: vec![2; old[i].len()] },
            finish: if i == 3 { Finish::Length } else { Finish::Eos },
            old: old[i].to_vec(),
            reference: reference[i].to_vec(),
            values: values[i].to_vec(),
            entropy: vec![0.0; old[i].len()],
            score: scores[i],
        })
        .collect()
}

/// The mean loss of the four responses in micro-batches, and its gradient in the log-probabilities. `new`: these, end to end.
fn loss<M: OnPolicy>(method: &M, new: &[f64], micro_batches: &[&[usize]]) -> (f64, Vec<f64>) {
    let samples = samples();
    let (experience, _) = method.experience(&samples);
    let weight: f64 = samples.iter().map(|s| method.weight(s)).sum();
    let logprobs = Tensor::from_slice(new).to_kind(Kind::Float).set_requires_grad(true);
    let starts = [0, 2, 5, 6];
    let mut total = 0.0;
    for items in micro_batches {
        let of_item = |&i: &usize| logprobs.narrow(0, starts[i], samples[i].old.len() as i64);
        let now = Tensor::cat(&items.iter().map(of_item).collect::<Vec<_>>(), 0);
        let values: Vec<f64> = items.iter().flat_map(|&i| &samples[i].values).map(|v| v + 0.1).collect();
        let values = Tensor::from_slice(&values).to_kind(Kind::Float);
        let micro = MicroBatch::of(&samples, items, now, Some(values));
        let (loss, _) = method.loss(&experience, &micro);
        let loss = loss / weight;
        loss.backward();
        total += loss.double_value(&[]);
    }
    (total, to_f64(&logprobs.grad()))
}

/// The loss is the expected one, whatever the micro-batches, and its gradient is that of finite differences.
fn check<M: OnPolicy>(name: &str, method: &M, expected: f64) {
    let new = NEW.concat();
    let (found, gradient) = loss(method, &new, &[&[0, 1, 2, 3]]);
    assert!((found - expected).abs() < 2e-6, "{name}: found {found}, expected {expected}");
    for split in [&[&[0][..], &[1], &[2], &[3]][..], &[&[3, 1], &[2, 0]]] {
        let (of_split, split_gradient) = loss(method, &new, split);
        assert!((of_split - found).abs() < 1e-6, "{name}: {of_split} in {split:?}, {found} at once");
        assert!(gradient.iter().zip(&split_gradient).all(|(a, b)| (a - b).abs() < 1e-6), "{name}: {split:?}");
    }
    for i in 0..new.len() {
        let at = |step: f64| {
            let mut moved = new.clone();
            moved[i] += step;
            loss(method, &moved, &[&[0, 1, 2, 3]]).0
        };
        let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
        assert!((slope - gradient[i]).abs() < 1e-3, "{name}, token {i}: {} by differences, {}", slope, gradient[i]);
    }
}

fn grpo(loss: GrpoLoss) -> online::Grpo {
    let (clip_range, clip_range_high) = (Some(0.2), Some(0.28));
    online::Grpo { loss, kl_coefficient: 0.04, clip_range, clip_range_high, ..online::Grpo::default() }
}

#[test]
fn the_losses_of_grpo_match_pytorch_and_their_gradients_differences() {
    for (kind, expected) in
        [(GrpoLoss::Grpo, GRPO[0]), (GrpoLoss::DrGrpo, GRPO[1]), (GrpoLoss::Dapo, GRPO[2]), (GrpoLoss::Gspo, GRPO[4])]
    {
        check(&format!("{kind:?}"), &Grpo::new(grpo(kind), 8), expected);
    }
    // The gradient of CISPO leaves out that of its ratios, so it is no difference of losses.
    let (found, gradient) = loss(&Grpo::new(grpo(GrpoLoss::Cispo), 8), &NEW.concat(), &[&[0, 1, 2, 3]]);
    assert!((found - GRPO[3]).abs() < 2e-6, "{found}");
    assert!(gradient.iter().zip(CISPO_GRADIENT).all(|(g, e)| (g - e).abs() < 2e-6), "{gradient:?}");
    let dual = online::Grpo { dual_clip: Some(1.1), ..grpo(GrpoLoss::Dapo) };
    // torch.where(a < 0, torch.minimum(clip(r, a, 1.28), -1.1 * a), clip(r, a, 1.28))
    assert!((loss(&Grpo::new(dual, 8), &NEW.concat(), &[&[0, 1, 2, 3]]).0 + 0.160_956).abs() < 2e-6);
}

#[test]
fn masked_truncated_responses_count_neither_in_the_loss_nor_in_its_mean() {
    let kinds = [GrpoLoss::Grpo, GrpoLoss::DrGrpo, GrpoLoss::Dapo, GrpoLoss::Cispo, GrpoLoss::Gspo];
    for (kind, expected) in kinds.into_iter().zip(MASKED) {
        let method = Grpo::new(online::Grpo { mask_truncated: Switch::Enabled, ..grpo(kind) }, 8);
        let mut new = NEW.concat();
        let found = loss(&method, &new, &[&[0, 1, 2, 3]]).0;
        assert!((found - expected).abs() < 2e-6, "{kind:?}: found {found}, expected {expected}");
        // The last response is the one that was truncated: no ratio of it, not even an infinite one, matters.
        new[9] = 1000.0;
        let (again, gradient) = loss(&method, &new, &[&[0, 1, 2, 3]]);
        assert!((again - found).abs() < 1e-9 && gradient[6..].iter().all(|g| *g == 0.0), "{kind:?}: {gradient:?}");
    }
}

#[test]
fn metrics_of_grpo_are_of_the_ratios_that_its_loss_clips_and_of_no_masked_response() {
    let metrics = |settings: online::Grpo| {
        let (samples, method) = (samples(), Grpo::new(settings, 8));
        let (experience, of_rollout) = method.experience(&samples);
        let micro =
            MicroBatch::of(&samples, &[0, 1, 2, 3], Tensor::from_slice(&NEW.concat()).to_kind(Kind::Float), None);
        let mut means = method.loss(&experience, &micro).1;
        means.merge(&of_rollout);
        move |name: &str| means.mean(name)
    };
    let close = |found: Option<f64>, expected: f64| found.is_some_and(|found| (found - expected).abs() < 1e-6);
    // Of ten tokens, exp(0.3) of the last response and its positive advantage exceed 1.28; exp(-0.3) of the third, with a
    // negative advantage, is below 0.8.
    let dapo = metrics(grpo(GrpoLoss::Dapo));
    assert!(close(dapo("clip_ratio/high_mean"), 0.1) && close(dapo("clip_ratio/low_mean"), 0.1));
    assert!(close(dapo("clip_ratio/region_mean"), 0.2) && close(dapo("reward_std"), 1.149_049));
    assert!(close(dapo("frac_reward_zero_std"), 0.0) && close(dapo("completions/clipped_ratio"), 0.25));
    let masked = metrics(online::Grpo { mask_truncated: Switch::Enabled, ..grpo(GrpoLoss::Dapo) });
    assert!(close(masked("clip_ratio/high_mean"), 0.0) && close(masked("clip_ratio/low_mean"), 1.0 / 6.0));
    // The ratio of the third response, of one token, is the only one of a response outside the range.
    let gspo = metrics(grpo(GrpoLoss::Gspo));
    assert!(close(gspo("clip_ratio/low_mean"), 0.25) && close(gspo("clip_ratio/high_mean"), 0.0));
    let cispo = metrics(grpo(GrpoLoss::Cispo));
    assert!(close(cispo("cispo_clip_ratio"), 0.1) && cispo("clip_ratio/low_mean").is_none());
    let narrow = metrics(online::Grpo { loss: GrpoLoss::Gspo, ..online::Grpo::default() });
    // Then the fourth response is outside too.
    assert!(close(narrow("clip_ratio/region_mean"), 0.5), "the default range of Gspo is 0.0003 to 0.0004");
}

#[test]
fn the_losses_of_the_other_methods_match_pytorch_and_their_gradients_differences() {
    check("RLOO", &Rloo::new(online::Rloo::default()), RLOO);
    let settings = online::Reinforce { baseline: ReinforceBaseline::BatchMean, ..online::Reinforce::default() };
    check("REINFORCE", &Reinforce::new(settings), REINFORCE);
    check("REINFORCE++", &ReinforcePlusPlus::new(online::ReinforcePlusPlus::default()), REINFORCE_PLUS_PLUS);
    check("A2C", &A2c::new(online::A2c::default()), A2C);
}

// As above, with: A / (A.std() + 1e-8); (A - A.mean()) / A.std(); the scores less the mean of their group; gamma 0.9 and
// lambda 0.8, and advantages normalised over all tokens.
#[test]
fn settings_of_advantages_match_pytorch_too() {
    let whiten_advantages = Switch::Enabled;
    check("RLOO", &Rloo::new(online::Rloo { whiten_advantages, ..Default::default() }), -0.069_501);
    let (baseline, scale_advantages) = (ReinforceBaseline::BatchMean, Switch::Enabled);
    let settings = online::Reinforce { baseline, scale_advantages, ..Default::default() };
    check("REINFORCE", &Reinforce::new(settings), 0.980_487);
    let settings = online::ReinforcePlusPlus { baseline: GroupBaseline::Group, ..Default::default() };
    check("REINFORCE++", &ReinforcePlusPlus::new(settings), -0.044_131);
    let settings = online::A2c { gamma: 0.9, lambda: 0.8, whiten_advantages, ..Default::default() };
    check("A2C", &A2c::new(settings), 0.241_361);
}

/// The metrics of all samples under a policy whose log-probabilities are `now`, end to end.
fn means<M: OnPolicy>(method: &M, samples: &[Sample], now: &[f64]) -> Vec<(String, f64)> {
    let (experience, _) = method.experience(samples);
    let now = Tensor::from_slice(now).to_kind(Kind::Float);
    let micro = MicroBatch::of(samples, &[0, 1, 2, 3], now, None);
    let (_, means) = method.loss(&experience, &micro);
    means.means().into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[test]
fn before_the_first_step_no_ratio_is_clipped_and_no_policy_has_moved() {
    let samples = samples();
    let old: Vec<f64> = samples.iter().flat_map(|s| s.old.clone()).collect();
    for means in [
        means(&Ppo::new(online::Ppo::default()), &samples, &old),
        means(&Grpo::new(online::Grpo::default(), 8), &samples, &old),
        means(&Rloo::new(online::Rloo::default()), &samples, &old),
        means(&Reinforce::new(online::Reinforce::default()), &samples, &old),
        means(&ReinforcePlusPlus::new(online::ReinforcePlusPlus::default()), &samples, &old),
        means(&A2c::new(online::A2c::default()), &samples, &old),
    ] {
        let clipped = |name: &str| name.contains("clip") || name == "policy/approxkl_avg";
        assert!(means.iter().filter(|(name, _)| clipped(name)).all(|(_, value)| *value == 0.0), "{means:?}");
        assert!(means.contains(&("val/ratio".to_owned(), 1.0)), "{means:?}");
    }
}
