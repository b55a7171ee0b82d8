//! The lexicon judge: derives a verdict from the valence of a response's words. Computes only.

use super::verdict::{SoftVerdict, Verdict};
use crate::measure::Vader;

/// Upper bound of a valence: 1 would mean infinite log-odds.
const MOST: f64 = 0.999;

/// The verdict on a response: it is good with probability (1 + c) / 2, where c is its compound valence (-1 to 1), so
/// the log-odds are ln((1 + c) / (1 - c)). The judge ignores the prompt, and never fails.
pub fn verdict(vader: &Vader, response: &str) -> Verdict {
    from_compound(vader.compound(response))
}

fn from_compound(compound: f64) -> Verdict {
    let c = compound.clamp(-MOST, MOST);
    Verdict::soft(SoftVerdict { log_odds: ((1.0 + c) / (1.0 - c)).ln(), mass: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valence_is_the_probability_of_good_and_never_certain() {
        assert!((from_compound(0.5).probability().unwrap() - 0.75).abs() < 1e-12);
        assert!(matches!(from_compound(0.0), Verdict::Tie(_)));
        let best = from_compound(1.0).probability().unwrap();
        assert!(best > 0.999 && best < 1.0);
        assert!((from_compound(-1.0).probability().unwrap() + best - 1.0).abs() < 1e-12);
    }
}
