//! Derives a label for each comparison from the verdicts. Computes only.

use plumbline_crds::preference_dataset::OrderCombination;

use super::order::{self, Preference};
use super::question::{Plan, QuestionRefs};
use super::verdict::Verdict;
use crate::measure::sigmoid;

/// The outcome of a comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// Response a is better with probability `p`, which is not one half.
    Label(Label),
    /// The judge has no preference, so there is no better response to learn from.
    Tie(Label),
    /// The orders favour different responses, and the spec excludes such pairs (`combine: AgreeOnly`).
    Dropped,
    /// A question about it has no verdict.
    Failed,
}

/// A preference between responses a and b: of one judge, or the mean of several.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Label {
    /// Probability that a is better.
    pub p: f64,
    /// Log-odds that a is better, in nats; none for a hard label.
    pub log_odds: Option<f64>,
    /// Number of orders that were judged: 2 or 1; 0 for a pointwise judge, and for several judges.
    pub orders: i32,
    /// Whether the orders favour different responses; none unless there are two.
    pub conflict: Option<bool>,
    /// Mean total probability of the judge's two answers.
    pub mass: Option<f64>,
}

impl Outcome {
    /// The outcome of a label; a probability of one half is a tie.
    pub fn of(label: Label) -> Self {
        if (label.p - 0.5).abs() < 1e-12 { Self::Tie(label) } else { Self::Label(label) }
    }

    /// The label, including that of a tie.
    pub fn label(&self) -> Option<&Label> {
        match self {
            Self::Label(label) | Self::Tie(label) => Some(label),
            _ => None,
        }
    }
}

/// The outcome of each comparison of a plan. `verdicts`: in the order of the plan's questions.
pub fn outcomes(plan: &Plan, verdicts: &[Verdict], combine: OrderCombination) -> Vec<Outcome> {
    plan.refs.iter().map(|u| outcome(u, verdicts, combine)).collect()
}

fn outcome(asked: &QuestionRefs, verdicts: &[Verdict], combine: OrderCombination) -> Outcome {
    let label = match asked {
        QuestionRefs::Equal => Some(Label { p: 0.5, log_odds: Some(0.0), orders: 0, conflict: None, mass: None }),
        QuestionRefs::Pairwise(orders) => {
            let shown: Vec<_> = orders.iter().map(|asked| (asked.presentation, &verdicts[asked.question])).collect();
            let used: Vec<&Verdict> = shown.iter().map(|(_, v)| *v).collect();
            order::combine(&shown, combine).map(|Preference { p, log_odds, conflict }| Label {
                p,
                log_odds,
                orders: orders.len() as i32,
                conflict,
                mass: mean_mass(&used),
            })
        }
        QuestionRefs::Pointwise { a, b } => pointwise(&verdicts[*a], &verdicts[*b]),
    };
    match label {
        None => Outcome::Failed,
        Some(l) if combine == OrderCombination::AgreeOnly && l.conflict == Some(true) => Outcome::Dropped,
        Some(l) => Outcome::of(l),
    }
}

/// Bradley-Terry on two scores: the log-odds that a is better are the difference between the log-odds that each is
/// good.
fn pointwise(a: &Verdict, b: &Verdict) -> Option<Label> {
    let label = |p, log_odds| Label { p, log_odds, orders: 0, conflict: None, mass: mean_mass(&[a, b]) };
    if let (Some(a), Some(b)) = (a.log_odds(), b.log_odds()) {
        return Some(label(sigmoid(a - b), Some(a - b)));
    }
    let (a, b) = (a.probability()?, b.probability()?);
    Some(label(0.5 + (a - b) / 2.0, None))
}

fn mean_mass(verdicts: &[&Verdict]) -> Option<f64> {
    let masses: Vec<f64> = verdicts.iter().map(|v| v.mass()).collect::<Option<_>>()?;
    (!masses.is_empty()).then(|| masses.iter().sum::<f64>() / masses.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::super::verdict::SoftVerdict;
    use super::*;

    fn one(used: QuestionRefs, verdicts: &[Verdict], combine: OrderCombination) -> Outcome {
        outcomes(&Plan { questions: Vec::new(), refs: vec![used] }, verdicts, combine)[0]
    }

    fn soft(log_odds: f64) -> Verdict {
        Verdict::soft(SoftVerdict { log_odds, mass: Some(0.8) })
    }

    #[test]
    fn two_scores_become_the_probability_of_their_difference() {
        let Outcome::Label(label) =
            one(QuestionRefs::Pointwise { a: 0, b: 1 }, &[soft(2.0), soft(-1.0)], OrderCombination::Logits)
        else {
            panic!()
        };
        assert!((label.p - 1.0 / (1.0 + (-3.0_f64).exp())).abs() < 1e-12);
        assert_eq!((label.log_odds, label.orders, label.mass), (Some(3.0), 0, Some(0.8)));
    }

    #[test]
    fn two_hard_scores_are_a_win_or_a_tie() {
        let both =
            |a: Verdict, b: Verdict| one(QuestionRefs::Pointwise { a: 0, b: 1 }, &[a, b], OrderCombination::Logits);
        assert!(both(Verdict::First(None), Verdict::Second(None)).label().unwrap().p >= 1.0);
        assert!(matches!(both(Verdict::First(None), Verdict::First(None)), Outcome::Tie(_)));
    }

    #[test]
    fn a_failed_verdict_never_becomes_a_label() {
        for failed in [
            Verdict::Unparsed(""),
            Verdict::Ambiguous,
            Verdict::Refused,
            Verdict::Truncated,
            Verdict::Filtered,
            Verdict::TransportFailed,
        ] {
            for combine in [OrderCombination::Logits, OrderCombination::Probabilities, OrderCombination::AgreeOnly] {
                let verdicts = [soft(9.0), failed.clone()];
                let pair = QuestionRefs::both_orders(0);
                assert_eq!(one(pair, &verdicts, combine), Outcome::Failed);
                assert_eq!(one(QuestionRefs::Pointwise { a: 1, b: 0 }, &verdicts, combine), Outcome::Failed);
            }
        }
    }

    #[test]
    fn agree_only_drops_conflicts_and_only_these() {
        let pair = || QuestionRefs::both_orders(0);
        let conflict = [soft(1.0), soft(2.0)];
        assert_eq!(one(pair(), &conflict, OrderCombination::AgreeOnly), Outcome::Dropped);
        let Outcome::Label(kept) = one(pair(), &conflict, OrderCombination::Logits) else { panic!() };
        assert_eq!((kept.log_odds, kept.conflict), (Some(-0.5), Some(true)));
        let agree = [soft(1.0), soft(-2.0)];
        assert!(
            matches!(one(pair(), &agree, OrderCombination::AgreeOnly), Outcome::Label(l) if l.log_odds == Some(1.5))
        );
    }

    #[test]
    fn equal_responses_are_a_tie_without_a_question() {
        assert!(
            matches!(one(QuestionRefs::Equal, &[], OrderCombination::Logits), Outcome::Tie(l) if (l.p - 0.5).abs() < 1e-12)
        );
    }
}
