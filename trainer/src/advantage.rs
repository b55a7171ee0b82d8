//! Rewards per token, advantages and returns. Pure; plain numbers of one response at a time, so nothing can leak
//! between responses or out of padding.

use std::collections::BTreeMap;

use plumbline_crds::online::RewardScale;

/// Rewards of one response: minus the weighted KL estimate at each token, and the score at the last.
///
/// `kl`: one estimate per token (nats). `score`: the reward of the whole response.
pub fn token_rewards(kl: &[f64], kl_coefficient: f64, score: f64) -> Vec<f64> {
    let mut rewards: Vec<f64> = kl.iter().map(|k| -kl_coefficient * k).collect();
    if let Some(last) = rewards.last_mut() {
        *last += score;
    }
    rewards
}

/// Generalised advantage estimation (Schulman et al., 2016, eq. 11-16) of one response:
/// `A_t = sum_l (gamma lambda)^l (r_{t+l} + gamma V_{t+l+1} - V_{t+l})`, the value after the last token being 0.
///
/// Returns (advantages, returns); the returns are advantages + values.
pub fn gae(rewards: &[f64], values: &[f64], gamma: f64, lambda: f64) -> (Vec<f64>, Vec<f64>) {
    let n = rewards.len().min(values.len());
    let mut advantages = vec![0.0; n];
    let mut running = 0.0;
    for t in (0..n).rev() {
        let next = values[..n].get(t + 1).copied().unwrap_or(0.0);
        running = rewards[t] + gamma * next - values[t] + gamma * lambda * running;
        advantages[t] = running;
    }
    let returns = advantages.iter().zip(values).map(|(a, v)| a + v).collect();
    (advantages, returns)
}

/// Scales values to variance 1 (unbiased, 1e-8 added), and to mean 0 unless `keep_mean`. Over all tokens of a rollout.
pub fn whiten(values: &mut [f64], keep_mean: bool) {
    let n = values.len() as f64;
    if n < 2.0 {
        return;
    }
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let scale = (variance + 1e-8).sqrt().recip();
    for v in values {
        *v = (*v - mean) * scale + if keep_mean { mean } else { 0.0 };
    }
}

/// The same over the values of all rows together.
pub fn whiten_all(rows: &mut [Vec<f64>], keep_mean: bool) {
    let mut flat: Vec<f64> = rows.iter().flatten().copied().collect();
    whiten(&mut flat, keep_mean);
    let mut next = flat.into_iter();
    for value in rows.iter_mut().flatten() {
        *value = next.next().unwrap_or_default();
    }
}

/// Advantages relative to a group (GRPO: Shao et al., 2024, section 4.1.2): each score less the mean of its group, divided
/// by a standard deviation (unbiased, 1e-4 added) as `scale` says. `groups[i]`: the group of `scores[i]`.
pub fn group_relative(scores: &[f64], groups: &[usize], scale: RewardScale) -> Vec<f64> {
    let of_groups = by_group(scores, groups);
    let of_all = deviation(scores);
    let advantage = |(score, group): (&f64, &usize)| {
        let of_group = &of_groups[group];
        let centred = score - of_group.iter().sum::<f64>() / of_group.len() as f64;
        match scale {
            RewardScale::Group => centred / (deviation(of_group) + 1e-4),
            RewardScale::Batch => centred / (of_all + 1e-4),
            RewardScale::None => centred,
        }
    };
    scores.iter().zip(groups).map(advantage).collect()
}

/// Advantages with a leave-one-out baseline (RLOO: Ahmadian et al., 2024, eq. 9): each reward less the mean of the others in
/// its group; 0 for the only one of a group. `groups[i]`: the group of `rewards[i]`.
pub fn leave_one_out(rewards: &[f64], groups: &[usize]) -> Vec<f64> {
    let of_groups = by_group(rewards, groups);
    let advantage = |(reward, group): (&f64, &usize)| {
        let of_group = &of_groups[group];
        match of_group.len() {
            1 => 0.0,
            n => reward - (of_group.iter().sum::<f64>() - reward) / (n - 1) as f64,
        }
    };
    rewards.iter().zip(groups).map(advantage).collect()
}

/// The values of each group.
pub fn by_group(values: &[f64], groups: &[usize]) -> BTreeMap<usize, Vec<f64>> {
    let mut all: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for (value, group) in values.iter().zip(groups) {
        all.entry(*group).or_default().push(*value);
    }
    all
}

/// Standard deviation, unbiased; 0 of a single value.
pub fn deviation(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    if n < 2.0 {
        return 0.0;
    }
    let mean = values.iter().sum::<f64>() / n;
    (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt()
}

/// The proportional controller of the KL coefficient (Ziegler et al., 2019, section 2.2): after `responses` responses
/// with a mean of `kl` (nats per response) the coefficient is multiplied by `1 + clip(kl / target - 1, -0.2, 0.2) *
/// responses / horizon`.
pub fn adapt_kl_coefficient(coefficient: f64, kl: f64, target: f64, horizon: f64, responses: f64) -> f64 {
    let error = (kl / target - 1.0).clamp(-0.2, 0.2);
    coefficient * (1.0 + error * responses / horizon)
}

/// 1 - Var(returns - values) / Var(returns): 1 if the values predict the returns, 0 if they predict nothing.
pub fn explained_variance(values: &[f64], returns: &[f64]) -> f64 {
    let variance = |xs: &mut dyn Iterator<Item = f64>| {
        let xs: Vec<f64> = xs.collect();
        let mean = xs.iter().sum::<f64>() / xs.len() as f64;
        xs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / xs.len() as f64
    };
    let total = variance(&mut returns.iter().copied());
    if total == 0.0 {
        return f64::NAN;
    }
    1.0 - variance(&mut returns.iter().zip(values).map(|(r, v)| r - v)) / total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < 1e-6, "{found:?} {expected:?}");
        }
    }

    #[test]
    fn rewards_advantages_and_returns_of_two_responses() {
        // KL by K1: -1+1.2, -0.5+0.4, -2+2.5; and a score of 1. The golden case places the score one token later, so
        // its row has a fourth token without KL.
        let rewards = token_rewards(&[0.2, -0.1, 0.5, 0.0], 0.05, 1.0);
        close(&rewards, &[-0.01, 0.005, -0.025, 1.0]);
        let (advantages, returns) = gae(&rewards, &[0.1, 0.2, 0.3, 0.4], 1.0, 0.95);
        close(&advantages, &[0.771_863, 0.717_750, 0.645, 0.6]);
        close(&returns, &[0.871_863, 0.917_750, 0.945, 1.0]);

        let rewards = token_rewards(&[0.2, -0.2, 0.0, 0.2, -0.5], 0.05, -0.5);
        close(&rewards, &[-0.01, 0.01, 0.0, -0.01, -0.475]);
        let (advantages, returns) = gae(&rewards, &[0.5, 0.4, 0.3, 0.2, 0.1], 1.0, 0.95);
        close(&advantages, &[-0.848_402, -0.777_266, -0.723_438, -0.656_250, -0.575]);
        close(&returns[..2], &[-0.348_402, -0.377_266]);
    }

    #[test]
    fn without_lambda_an_advantage_is_the_one_step_error() {
        let (advantages, _) = gae(&[0.0, 0.0, 5.0], &[1.0, 2.0, 3.0], 1.0, 0.0);
        close(&advantages, &[1.0, 1.0, 2.0]);
    }

    #[test]
    fn a_reward_at_the_end_is_discounted_back() {
        let (_, returns) = gae(&[0.0, 0.0, 0.0, 1.0], &[0.0, 0.0, 0.0, 1.0], 0.9, 0.95);
        close(&returns, &[0.9f64.powi(3) * 0.95 * 0.95, 0.9f64.powi(2) * 0.95, 0.9, 1.0]);
    }

    #[test]
    fn whitening_uses_the_unbiased_variance_and_can_keep_the_mean() {
        let all = [0.771_863, 0.717_750, 0.645, -0.848_402, -0.777_266, -0.723_438, -0.656_250, -0.575];
        let mut whitened = all;
        whiten(&mut whitened, false);
        assert!(whitened.iter().sum::<f64>().abs() < 1e-9);
        assert!((whitened.iter().map(|x| x * x).sum::<f64>() / 7.0 - 1.0).abs() < 1e-6);
        close(&whitened[..1], &[1.280_430]);
        let mut kept = all;
        whiten(&mut kept, true);
        let mean = all.iter().sum::<f64>() / 8.0;
        close(&kept[..1], &[1.280_430 + mean]);
    }

    // Python, with r = torch.tensor([1, 0, .5, .25]): (r - r.mean()) / (r.std() + 1e-4); r - r.mean(); r - (r.sum() - r) / 3
    #[test]
    fn advantages_of_a_group_are_relative_to_it() {
        let (scores, groups) = ([1.0, 0.0, 0.5, 0.25], [7; 4]);
        close(&group_relative(&scores, &groups, RewardScale::Group), &[1.317_157, -1.024_455, 0.146_351, -0.439_052]);
        close(&group_relative(&scores, &groups, RewardScale::None), &[0.5625, -0.4375, 0.0625, -0.1875]);
        close(&leave_one_out(&scores, &groups), &[0.75, -0.583_333, 0.083_333, -0.25]);
    }

    #[test]
    fn groups_do_not_mix_whatever_their_order_and_size() {
        let (scores, groups) = ([1.0, 10.0, 3.0, 10.0, 5.0], [0, 2, 0, 2, 1]);
        close(&group_relative(&scores, &groups, RewardScale::None), &[-1.0, 0.0, 1.0, 0.0, 0.0]);
        close(&leave_one_out(&scores, &groups), &[-2.0, 0.0, 2.0, 0.0, 0.0]);
        let by_group = group_relative(&scores, &groups, RewardScale::Group);
        assert!(by_group.iter().all(|a| a.is_finite()) && by_group[1] == 0.0 && by_group[4] == 0.0, "{by_group:?}");
        let by_batch = group_relative(&scores, &groups, RewardScale::Batch);
        // The standard deviation of all five scores is 4.086563.
        close(&by_batch[..3], &[-0.244_698, 0.0, 0.244_698]);
    }

    #[test]
    fn the_kl_controller_moves_by_at_most_a_fifth() {
        assert!((adapt_kl_coefficient(0.1, 12.0, 6.0, 100.0, 10.0) - 0.1 * 1.02).abs() < 1e-12);
        assert!((adapt_kl_coefficient(0.1, 6.0, 6.0, 100.0, 10.0) - 0.1).abs() < 1e-12);
        assert!((adapt_kl_coefficient(0.1, 0.0, 6.0, 100.0, 10.0) - 0.1 * 0.98).abs() < 1e-12);
    }

    #[test]
    fn explained_variance_is_one_for_perfect_values_and_zero_for_a_constant() {
        assert!((explained_variance(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]) - 1.0).abs() < 1e-12);
        assert!(explained_variance(&[5.0, 5.0, 5.0], &[1.0, 2.0, 3.0]).abs() < 1e-12);
        assert!(explained_variance(&[0.0, 0.0], &[1.0, 1.0]).is_nan());
    }
}
