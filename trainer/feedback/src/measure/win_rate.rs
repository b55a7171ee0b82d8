//! Win rate of a policy from comparisons (computes).

use std::collections::BTreeSet;

use super::interval::clustered_share;

/// One comparison of the policy's response with a response of the other side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// The prompt. Comparisons of one prompt (several samples, both orders) are correlated.
    pub prompt: u64,
    /// Probability that the policy's response is better: 1 won, 0 lost, 0.5 a tie. `None`, NaN or a value outside
    /// 0..=1: the comparison failed.
    pub win: Option<f64>,
}

/// A win rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WinRate {
    /// Mean probability of a win, 0..=1; a tie counts one half.
    pub rate: f64,
    /// Lower end of the 95 % interval, clustered by prompt (see [`clustered_share`]).
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Valid comparisons.
    pub comparisons: usize,
    /// Number of their prompts.
    pub prompts: usize,
    /// Comparisons with a probability above one half.
    pub wins: usize,
    /// Comparisons with a probability of exactly one half.
    pub ties: usize,
    /// Comparisons with a probability below one half.
    pub losses: usize,
    /// Failed comparisons, which do not count.
    pub failed: usize,
}

/// The win rate; `None` if no comparison is valid.
pub fn win_rate(comparisons: &[Comparison]) -> Option<WinRate> {
    let votes: Vec<(u64, f64)> =
        comparisons.iter().filter_map(|c| c.win.filter(|p| (0.0..=1.0).contains(p)).map(|p| (c.prompt, p))).collect();
    let estimate = clustered_share(&votes)?;
    Some(WinRate {
        rate: estimate.value,
        low: estimate.low,
        high: estimate.high,
        comparisons: votes.len(),
        prompts: votes.iter().map(|(prompt, _)| prompt).collect::<BTreeSet<_>>().len(),
        wins: votes.iter().filter(|(_, p)| *p > 0.5).count(),
        ties: votes.iter().filter(|(_, p)| (*p - 0.5).abs() == 0.0).count(),
        losses: votes.iter().filter(|(_, p)| *p < 0.5).count(),
        failed: comparisons.len() - votes.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(wins: &[(u64, Option<f64>)]) -> Option<WinRate> {
        win_rate(&wins.iter().map(|&(prompt, win)| Comparison { prompt, win }).collect::<Vec<_>>())
    }

    #[test]
    fn a_failed_comparison_is_counted_but_not_in_the_rate() {
        let r = of(&[(1, Some(1.0)), (2, Some(0.5)), (3, None), (4, Some(f64::NAN)), (5, Some(1.5)), (6, Some(0.0))]);
        let r = r.unwrap();
        assert!((r.rate - 0.5).abs() < 1e-12, "1, 0.5 and 0; the failures change nothing: {r:?}");
        assert_eq!((r.comparisons, r.prompts, r.failed), (3, 3, 3));
        assert_eq!((r.wins, r.ties, r.losses), (1, 1, 1));
        assert_eq!(of(&[(1, None)]), None, "no vote, no rate");
    }

    #[test]
    fn a_win_rate_is_the_mean_win_probability() {
        // From TRL's tests: probabilities of .3 and .9 that the reference wins correspond to a win probability of .4.
        let r = of(&[(1, Some(0.7)), (2, Some(0.1))]).unwrap();
        assert!((r.rate - 0.4).abs() < 1e-12);
    }

    #[test]
    fn repeating_the_same_comparisons_does_not_narrow_the_interval() {
        let once: Vec<_> = (0..50).map(|g| (g, Some(f64::from(u8::from(g % 3 != 0))))).collect();
        let twice: Vec<_> = once.iter().chain(&once).copied().collect();
        let (once, twice) = (of(&once).unwrap(), of(&twice).unwrap());
        assert!((once.low - twice.low).abs() < 1e-9 && (once.high - twice.high).abs() < 1e-9, "{once:?} {twice:?}");
    }

    #[test]
    fn swapping_the_sides_mirrors_rate_and_interval() {
        let wins: Vec<_> = (0..40).map(|g| (g / 2, Some((g % 7) as f64 / 7.0))).collect();
        let swapped: Vec<_> = wins.iter().map(|&(g, p)| (g, p.map(|p| 1.0 - p))).collect();
        let (a, b) = (of(&wins).unwrap(), of(&swapped).unwrap());
        assert!((a.rate + b.rate - 1.0).abs() < 1e-9 && (a.low + b.high - 1.0).abs() < 1e-9);
    }
}
