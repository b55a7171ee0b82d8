//! Combines the labels of several judges, and measures their agreement. Computes only.

use super::label::{Label, Outcome};
use super::panel::Judgements;
use super::question::Comparison;
use crate::data::id;
use crate::measure::{Estimate, clustered_correlation, clustered_share, kappa, logit};

/// The label of each comparison: the weighted mean of the judges' probabilities (weights above 0). A judge without a
/// verdict is not counted, and a comparison without any verdict has no label. With one judge, its labels are unchanged.
pub fn mean(judges: &[Judgements], weights: &[f64]) -> Vec<Outcome> {
    match judges {
        [] => Vec::new(),
        [judge] => judge.outcomes.clone(),
        [first, ..] => (0..first.outcomes.len()).map(|i| mean_of(judges, weights, i)).collect(),
    }
}

fn mean_of(judges: &[Judgements], weights: &[f64], comparison: usize) -> Outcome {
    let outcomes = || judges.iter().map(|judge| &judge.outcomes[comparison]);
    let votes: Vec<(f64, &Label)> =
        outcomes().zip(weights).filter_map(|(outcome, weight)| Some((*weight, outcome.label()?))).collect();
    let total: f64 = votes.iter().map(|(weight, _)| weight).sum();
    if votes.is_empty() || total <= 0.0 {
        let dropped = outcomes().any(|outcome| matches!(outcome, Outcome::Dropped));
        return if dropped { Outcome::Dropped } else { Outcome::Failed };
    }
    let p = votes.iter().map(|(weight, label)| weight * label.p).sum::<f64>() / total;
    let soft = votes.iter().all(|(_, label)| label.log_odds.is_some());
    let log_odds = soft.then(|| logit(p)).filter(|log_odds| log_odds.is_finite());
    Outcome::of(Label { p, log_odds, orders: 0, conflict: None, mass: None })
}

/// The agreement of two judges on the comparisons for which both have a verdict. Comparisons of equal responses are
/// excluded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// Indices of the judges.
    pub judges: (usize, usize),
    /// Number of comparisons for which both have a verdict.
    pub comparisons: usize,
    /// Fraction of these on which both prefer the same response, without ties.
    pub same: Option<Estimate>,
    /// Cohen's kappa of their preferences, without ties.
    pub kappa: Option<f64>,
    /// Pearson's correlation between their probabilities.
    pub correlation: Option<Estimate>,
}

/// The agreement of each pair of judges.
pub fn agreements(judges: &[Judgements], items: &[Comparison<'_>]) -> Vec<Agreement> {
    let pairs = (0..judges.len()).flat_map(|i| (i + 1..judges.len()).map(move |j| (i, j)));
    pairs.map(|(i, j)| agreement((i, j), &common(&judges[i], &judges[j], items))).collect()
}

/// The fraction of comparisons on which two judges prefer the same response, over all pairs of judges.
pub fn overall(judges: &[Judgements], items: &[Comparison<'_>]) -> Option<Estimate> {
    let pairs = (0..judges.len()).flat_map(|i| (i + 1..judges.len()).map(move |j| (i, j)));
    let all: Vec<_> = pairs.flat_map(|(i, j)| common(&judges[i], &judges[j], items)).collect();
    clustered_share(&same(&all))
}

/// For each common comparison: (prompt, probability that response a is better by `one`, by `other`).
fn common(one: &Judgements, other: &Judgements, items: &[Comparison<'_>]) -> Vec<(u64, f64, f64)> {
    let outcomes = one.outcomes.iter().zip(&other.outcomes).zip(items);
    outcomes
        .filter(|(_, item)| item.response_a != item.response_b)
        .filter_map(|((x, y), item)| Some((id::key(&[item.prompt.id()]), x.label()?.p, y.label()?.p)))
        .collect()
}

fn decided(common: &[(u64, f64, f64)]) -> impl Iterator<Item = (u64, bool, bool)> {
    let is_tie = |p: f64| (p - 0.5).abs() < 1e-12;
    common.iter().filter(move |(_, x, y)| !is_tie(*x) && !is_tie(*y)).map(|(c, x, y)| (*c, *x > 0.5, *y > 0.5))
}

fn same(common: &[(u64, f64, f64)]) -> Vec<(u64, f64)> {
    decided(common).map(|(cluster, x, y)| (cluster, f64::from(u8::from(x == y)))).collect()
}

fn agreement(judges: (usize, usize), common: &[(u64, f64, f64)]) -> Agreement {
    Agreement {
        judges,
        comparisons: common.len(),
        same: clustered_share(&same(common)),
        kappa: kappa(&decided(common).map(|(_, x, y)| (x, y)).collect::<Vec<_>>()),
        correlation: clustered_correlation(common),
    }
}

#[cfg(test)]
mod tests {
    use plumbline_crds::preference_dataset::OrderCombination;

    use super::super::question::{Plan, QuestionRefs};
    use super::super::verdict::{SoftVerdict, Verdict};
    use super::*;
    use crate::data::Content;

    /// A judge that answered one question per comparison, with these verdicts.
    fn judge(verdicts: Vec<Verdict>) -> Judgements {
        let refs = (0..verdicts.len()).map(QuestionRefs::one_order).collect();
        Judgements::of(Plan { questions: Vec::new(), refs }, verdicts, OrderCombination::Logits)
    }

    fn soft(p: f64) -> Verdict {
        Verdict::soft(SoftVerdict { log_odds: logit(p), mass: Some(0.9) })
    }

    #[test]
    fn the_label_is_the_weighted_mean_of_the_probabilities() {
        let judges = [judge(vec![soft(0.9), soft(0.2)]), judge(vec![soft(0.6), soft(0.8)])];
        let labels = mean(&judges, &[3.0, 1.0]);
        let label = labels[0].label().unwrap();
        assert!((label.p - (3.0 * 0.9 + 0.6) / 4.0).abs() < 1e-12);
        assert!((label.log_odds.unwrap() - logit(label.p)).abs() < 1e-12);
        assert!((labels[1].label().unwrap().p - 0.35).abs() < 1e-12);
        assert!(matches!(mean(&judges, &[1.0, 1.0])[1], Outcome::Tie(_)), "0.2 and 0.8 cancel");
    }

    #[test]
    fn a_judge_without_a_verdict_does_not_count() {
        let judges = [judge(vec![Verdict::Refused, Verdict::Truncated]), judge(vec![soft(0.7), Verdict::Filtered])];
        let labels = mean(&judges, &[5.0, 1.0]);
        assert!((labels[0].label().unwrap().p - 0.7).abs() < 1e-12);
        assert_eq!(labels[1], Outcome::Failed);
    }

    #[test]
    fn one_judges_labels_are_unchanged_and_hard_votes_have_no_log_odds() {
        let alone = judge(vec![soft(0.9), Verdict::First(None)]);
        let expected = alone.outcomes.clone();
        assert_eq!(mean(&[alone], &[7.0]), expected);
        let mixed = [judge(vec![Verdict::First(None)]), judge(vec![soft(0.6)])];
        assert_eq!(mean(&mixed, &[1.0, 1.0])[0].label().unwrap().log_odds, None);
    }

    #[test]
    fn agreement_excludes_ties_and_failures() {
        let prompts: Vec<Content> = (0..6).map(|i| Content::Text(format!("p{i}"))).collect();
        let items: Vec<_> =
            prompts.iter().map(|prompt| Comparison { prompt, response_a: "a", response_b: "b" }).collect();
        let one = judge(vec![soft(0.9), soft(0.8), soft(0.3), soft(0.6), Verdict::Tie(None), soft(0.7)]);
        let other = judge(vec![soft(0.7), soft(0.4), soft(0.2), soft(0.9), soft(0.9), Verdict::Refused]);
        let judges = [one, other];
        let found = agreements(&judges, &items);
        assert_eq!((found.len(), found[0].judges, found[0].comparisons), (1, (0, 1), 5));
        assert!((found[0].same.unwrap().value - 0.75).abs() < 1e-12, "{found:?}");
        // Votes 1101 and 1001: observed agreement 3/4, expected by chance 3/4 * 1/2 + 1/4 * 1/2 = 1/2.
        assert!((found[0].kappa.unwrap() - 0.5).abs() < 1e-12);
        assert_eq!(overall(&judges, &items), found[0].same);
        assert_eq!(overall(&judges[..1], &items), None);
    }
}
