//! Win rate from comparisons.

/// One comparison of the policy's response with the other side's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Which prompt; comparisons of one prompt are a cluster.
    pub prompt: u64,
    /// Probability that the policy's response is better: 1 won, 0 lost, 0.5 a tie. `None`: the comparison failed.
    pub win: Option<f64>,
}

/// Win rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WinRate {
    /// Mean probability of a win, 0..=1; a tie counts one half.
    pub rate: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Comparisons that count.
    pub comparisons: usize,
    /// Prompts that they are about.
    pub prompts: usize,
    /// Comparisons with a probability above one half.
    pub wins: usize,
    /// Comparisons with a probability of exactly one half.
    pub ties: usize,
    /// Comparisons with a probability below one half.
    pub losses: usize,
    /// Comparisons that failed: they are no votes.
    pub failed: usize,
}

/// The win rate; `None` if no comparison counts.
pub fn win_rate(comparisons: &[Comparison]) -> Option<WinRate> {
    let _ = comparisons;
    todo!()
}
