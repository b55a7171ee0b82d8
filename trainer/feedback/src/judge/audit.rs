//! Audits a judge by its verdicts: how often it fails or contradicts itself, and how far it is biased towards a
//! position or towards length. Computes only.
//!
//! Intervals are 95 % intervals that treat prompts, not pairs, as independent: pairs of the same prompt are correlated.

use std::collections::{BTreeMap, BTreeSet};

use super::ensemble::{self, Agreement};
use super::label::{Label, Outcome};
use super::panel::{Judgements, PanelJudgements};
use super::question::{Comparison, QuestionRefs};
use super::verdict::Verdict;
use crate::data::id;
use crate::data::preference::vote;
use crate::measure::{self, Estimate, clustered_correlation, clustered_mean, clustered_share};

/// An audit of a judge on one set of comparisons.
#[derive(Clone, Debug, PartialEq)]
pub struct Audit {
    /// Questions by the kind of their verdict.
    pub verdicts: BTreeMap<&'static str, i64>,
    /// Questions without a verdict / questions.
    pub unparsed_rate: f64,
    /// Comparisons by outcome.
    pub comparisons: Comparisons,
    /// Position bias; none if responses were not shown in pairs.
    pub position: Option<Position>,
    /// Length bias.
    pub length: Length,
    /// Total probability of the judge's two answers, mean over replies.
    pub label_mass: Option<Estimate>,
    /// Fraction of replies whose label mass is below one half, that is, most of the probability is on other tokens.
    pub low_mass_rate: Option<Estimate>,
}

/// Comparisons by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Comparisons {
    /// With a label.
    pub labels: i64,
    /// Without a preference.
    pub ties: i64,
    /// Dropped because the two orders disagree.
    pub dropped: i64,
    /// With a question that has no verdict.
    pub failed: i64,
    /// Whose orders favour different responses, including dropped ones.
    pub conflicts: i64,
    /// With a verdict in both orders.
    pub both_orders: i64,
}

/// The influence of the order in which responses are shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    /// Fraction of verdicts for the response shown first, a tie counting one half; also the judge's agreement with
    /// "always the first". If every pair is shown in both orders, one half means no bias.
    pub first_rate: Option<Estimate>,
    /// Log-odds that the judge adds to the response shown first, in nats: the mean over pairs of half the sum of both
    /// orders' log-odds of the first response, in which the quality of the responses cancels.
    pub log_odds: Option<Estimate>,
    /// Pairs whose orders favour different responses / pairs with both orders.
    pub conflict_rate: Option<Estimate>,
    /// Cohen's kappa of the two orders, treated as two raters of the same pairs.
    pub kappa: Option<f64>,
    /// Pearson's correlation between the two orders' log-odds of response a, or their votes if there are no
    /// probabilities. A constant position bias does not change it; noise moves it towards 0. `None` if there are few
    /// prompts or no variation.
    pub correlation: Option<Estimate>,
    /// Number of prompts with a pair in both orders.
    pub prompts: usize,
}

/// The influence of length.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Length {
    /// Fraction of labels for the longer response, excluding equal lengths; also the agreement with "always the
    /// longer". One half means no bias only if length and quality are unrelated.
    pub longer_rate: Option<Estimate>,
    /// Pearson's correlation between the label's log-odds and the difference in characters.
    pub correlation: Option<Estimate>,
}

/// An audit of several judges and of their combined labels.
#[derive(Clone, Debug, PartialEq)]
pub struct PanelAudit {
    /// The audit of each judge, with its name.
    pub judges: Vec<(String, Audit)>,
    /// Comparisons by outcome of the combined labels. Conflicts and both orders are sums over the judges.
    pub comparisons: Comparisons,
    /// Length bias of the combined labels.
    pub length: Length,
    /// Comparisons with a label that lacks the verdict of at least one judge.
    pub partial: i64,
    /// The agreement of each pair of judges.
    pub agreements: Vec<Agreement>,
    /// Fraction of comparisons on which two judges prefer the same response, over all pairs of judges.
    pub agreement: Option<Estimate>,
}

impl PanelAudit {
    /// Number of questions by kind of verdict, over all judges.
    pub fn verdicts(&self) -> BTreeMap<&'static str, i64> {
        let mut all = BTreeMap::new();
        for (kind, n) in self.judges.iter().flat_map(|(_, audit)| &audit.verdicts) {
            *all.entry(*kind).or_default() += n;
        }
        all
    }

    /// The audit of the judge, if there is only one.
    pub fn alone(&self) -> Option<&Audit> {
        if let [(_, audit)] = self.judges.as_slice() { Some(audit) } else { None }
    }
}

/// Audits judges on the comparisons that they judged. `names`: their names, in order.
pub fn audit_panel(names: &[&str], judged: &PanelJudgements, items: &[Comparison<'_>]) -> PanelAudit {
    let named = names.iter().zip(&judged.judges);
    let judges: Vec<_> = named.map(|(name, judge)| ((*name).to_owned(), audit(judge, items))).collect();
    let clusters = clusters(items);
    let mut comparisons = Comparisons::of(&judged.outcomes);
    for (_, audit) in &judges {
        comparisons.conflicts += audit.comparisons.conflicts;
        comparisons.both_orders += audit.comparisons.both_orders;
    }
    let is_partial = |i: &usize| judged.judges.iter().any(|judge| judge.outcomes[*i].label().is_none());
    let labelled = (0..items.len()).filter(|i| judged.outcomes[*i].label().is_some());
    PanelAudit {
        judges,
        comparisons,
        length: length(&judged.outcomes, items, &clusters),
        partial: labelled.filter(is_partial).count() as i64,
        agreements: ensemble::agreements(&judged.judges, items),
        agreement: ensemble::overall(&judged.judges, items),
    }
}

fn clusters(items: &[Comparison<'_>]) -> Vec<u64> {
    items.iter().map(|i| id::key(&[i.prompt.id()])).collect()
}

/// Audits a judge on the comparisons that it judged.
pub fn audit(judged: &Judgements, items: &[Comparison<'_>]) -> Audit {
    let clusters = clusters(items);
    let verdicts = judged.counts();
    let questions = judged.verdicts.len().max(1) as f64;
    let failed = judged.verdicts.iter().filter(|v| v.probability().is_none()).count() as f64;
    let position = position(judged, &clusters);
    let masses: Vec<(u64, f64)> = used(judged, &clusters).filter_map(|(c, v)| Some((c, v.mass()?))).collect();
    let low: Vec<(u64, f64)> = masses.iter().map(|(c, m)| (*c, f64::from(u8::from(*m < 0.5)))).collect();
    Audit {
        verdicts,
        unparsed_rate: failed / questions,
        comparisons: comparisons(judged),
        position,
        length: length(&judged.outcomes, items, &clusters),
        label_mass: clustered_share(&masses),
        low_mass_rate: clustered_share(&low),
    }
}

impl Comparisons {
    fn of(outcomes: &[Outcome]) -> Self {
        let mut counts = Self::default();
        for outcome in outcomes {
            match outcome {
                Outcome::Label(_) => counts.labels += 1,
                Outcome::Tie(_) => counts.ties += 1,
                Outcome::Dropped => counts.dropped += 1,
                Outcome::Failed => counts.failed += 1,
            }
        }
        counts
    }
}

fn comparisons(judged: &Judgements) -> Comparisons {
    let mut counts = Comparisons::of(&judged.outcomes);
    for asked in &judged.plan.refs {
        if let Some((x, y)) = both_orders(asked, &judged.verdicts) {
            counts.both_orders += 1;
            counts.conflicts += i64::from(is_conflict(x, y));
        }
    }
    counts
}

/// Every use of a question: (cluster, verdict).
fn used<'a>(judged: &'a Judgements, clusters: &'a [u64]) -> impl Iterator<Item = (u64, &'a Verdict)> {
    judged.plan.refs.iter().zip(clusters).flat_map(|(asked, cluster)| {
        let questions: Vec<usize> = match asked {
            QuestionRefs::Equal => Vec::new(),
            QuestionRefs::Pairwise(orders) => orders.iter().map(|asked| asked.question).collect(),
            QuestionRefs::Pointwise { a, b } => vec![*a, *b],
        };
        questions.into_iter().map(|q| (*cluster, &judged.verdicts[q]))
    })
}

/// The verdicts of a pair's two orders, each about the response shown first; `None` unless both have a verdict.
fn both_orders<'a>(asked: &QuestionRefs, verdicts: &'a [Verdict]) -> Option<(&'a Verdict, &'a Verdict)> {
    let QuestionRefs::Pairwise(orders) = asked else { return None };
    let [x, y] = orders.as_slice() else { return None };
    let (x, y) = (&verdicts[x.question], &verdicts[y.question]);
    (x.probability().is_some() && y.probability().is_some()).then_some((x, y))
}

/// Whether both orders favour the response shown first, or both the second.
fn is_conflict(x: &Verdict, y: &Verdict) -> bool {
    let lean = |v: &Verdict| v.probability().map_or(0.0, |p| p - 0.5);
    lean(x) * lean(y) > 0.0
}

fn position(judged: &Judgements, clusters: &[u64]) -> Option<Position> {
    if !judged.plan.refs.iter().any(|u| matches!(u, QuestionRefs::Pairwise(_))) {
        return None;
    }
    let pairs: Vec<(u64, &Verdict, &Verdict)> = judged
        .plan
        .refs
        .iter()
        .zip(clusters)
        .filter_map(|(u, c)| both_orders(u, &judged.verdicts).map(|(x, y)| (*c, x, y)))
        .collect();
    let first: Vec<(u64, f64)> =
        used(judged, clusters).filter_map(|(c, v)| Some((c, vote(v.probability()?)))).collect();
    let biases: Vec<(u64, f64)> =
        pairs.iter().filter_map(|(c, x, y)| Some((*c, f64::midpoint(x.log_odds()?, y.log_odds()?)))).collect();
    let conflicts: Vec<(u64, f64)> =
        pairs.iter().map(|(c, x, y)| (*c, f64::from(u8::from(is_conflict(x, y))))).collect();
    let said: Vec<(u64, f64, f64)> = pairs
        .iter()
        .filter_map(|(c, x, y)| match (x.log_odds(), y.log_odds()) {
            (Some(x), Some(y)) => Some((*c, x, -y)),
            _ => Some((*c, x.probability()? - 0.5, 0.5 - y.probability()?)),
        })
        .collect();
    Some(Position {
        first_rate: clustered_share(&first),
        log_odds: clustered_mean(&biases),
        conflict_rate: clustered_share(&conflicts),
        kappa: kappa(&pairs),
        correlation: clustered_correlation(&said),
        prompts: pairs.iter().map(|(c, ..)| c).collect::<BTreeSet<_>>().len(),
    })
}

/// The agreement of the two orders' votes for response a, without ties.
fn kappa(pairs: &[(u64, &Verdict, &Verdict)]) -> Option<f64> {
    let for_first =
        |v: &Verdict| v.probability().map(|p| p - 0.5).filter(|lean| lean.abs() > 0.0).map(|lean| lean > 0.0);
    let votes: Vec<(bool, bool)> = pairs.iter().filter_map(|(_, x, y)| Some((for_first(x)?, !for_first(y)?))).collect();
    measure::kappa(&votes)
}

fn length(outcomes: &[Outcome], items: &[Comparison<'_>], clusters: &[u64]) -> Length {
    let labelled: Vec<(u64, &Label, f64)> = outcomes
        .iter()
        .zip(items)
        .zip(clusters)
        .filter_map(|((outcome, item), cluster)| {
            let difference = item.response_a.chars().count() as f64 - item.response_b.chars().count() as f64;
            Some((*cluster, outcome.label()?, difference))
        })
        .collect();
    let longer: Vec<(u64, f64)> = labelled
        .iter()
        .filter(|(_, _, difference)| *difference != 0.0)
        .map(|(c, l, difference)| (*c, if *difference > 0.0 { vote(l.p) } else { 1.0 - vote(l.p) }))
        .collect();
    let margins: Vec<(u64, f64, f64)> = labelled.iter().filter_map(|(c, l, d)| Some((*c, l.log_odds?, *d))).collect();
    Length { longer_rate: clustered_share(&longer), correlation: clustered_correlation(&margins) }
}

#[cfg(test)]
mod tests {
    use plumbline_crds::preference_dataset::OrderCombination;

    use super::super::question::Plan;
    use super::super::verdict::SoftVerdict;
    use super::*;
    use crate::data::Content;

    /// A judge with planted quality and position bias on `n` prompts of `pairs` pairs. Quality and noise are derived
    /// from a hash.
    fn planted(n: usize, pairs: usize, position: f64, length: f64, hard: bool, seed: usize) -> Audit {
        let normal = |name: &str, i: usize| {
            let draw = |k: &str| id::unit(&[k, name, &i.to_string(), &seed.to_string()]).max(1e-12);
            (-2.0 * draw("r").ln()).sqrt() * (2.0 * std::f64::consts::PI * draw("t")).cos()
        };
        let prompts: Vec<Content> = (0..n).map(|i| Content::Text(format!("prompt {i}"))).collect();
        let texts: Vec<String> = (0..=40).map(|l| "x".repeat(l)).collect();
        let (mut items, mut refs, mut verdicts) = (Vec::new(), Vec::new(), Vec::new());
        for i in 0..n * pairs {
            let lengths = [0, 1]
                .map(|s| (id::unit(&["length", &i.to_string(), &s.to_string(), &seed.to_string()]) * 40.0) as usize);
            let quality = 1.5 * normal("quality", i) + length * (lengths[0] as f64 - lengths[1] as f64) / 10.0;
            for sign in [1.0, -1.0] {
                let log_odds = sign * quality + position + 0.3 * normal("noise", 2 * i + usize::from(sign > 0.0));
                let verdict = Verdict::soft(SoftVerdict { log_odds, mass: Some(0.9) });
                verdicts.push(match verdict {
                    Verdict::First(_) if hard => Verdict::First(None),
                    Verdict::Second(_) if hard => Verdict::Second(None),
                    soft => soft,
                });
            }
            refs.push(QuestionRefs::both_orders(2 * i));
            items.push(Comparison {
                prompt: &prompts[i / pairs],
                response_a: &texts[lengths[0]],
                response_b: &texts[lengths[1]],
            });
        }
        let plan = Plan { questions: Vec::new(), refs };
        audit(&Judgements::of(plan, verdicts, OrderCombination::Logits), &items)
    }

    #[test]
    fn a_planted_position_bias_is_within_its_95_percent_interval() {
        for planted_bias in [0.0, 1.0, -2.0] {
            let held = (0..100)
                .filter(|seed| {
                    let bias = planted(60, 2, planted_bias, 0.0, false, *seed).position.unwrap().log_odds.unwrap();
                    bias.low <= planted_bias && planted_bias <= bias.high
                })
                .count();
            assert!(held >= 90, "{held} of 100 intervals hold {planted_bias}"); // 90: three deviations below 95
        }
    }

    #[test]
    fn conflicts_follow_the_planted_bias() {
        // A hard-verdict judge with log-odds ~ N(0, 1.5^2 + noise): P(|quality| < 1) by quadrature is 0.495 without
        // noise.
        let audit = planted(1000, 2, 1.0, 0.0, true, 1);
        let rate = audit.position.unwrap().conflict_rate.unwrap();
        assert!((rate.value - 0.495).abs() < 0.03, "{rate:?}");
        assert_eq!(audit.position.unwrap().log_odds, None, "hard verdicts have no log-odds");
        let first = audit.position.unwrap().first_rate.unwrap();
        assert!((first.value - 0.7475).abs() < 0.02, "{first:?}");
        let fair = planted(1000, 2, 0.0, 0.0, true, 1).position.unwrap();
        assert!(fair.first_rate.unwrap().low < 0.5 && 0.5 < fair.first_rate.unwrap().high);
        assert!(fair.kappa.unwrap() > audit.position.unwrap().kappa.unwrap() + 0.3, "{:?}", fair.kappa);
    }

    #[test]
    fn only_a_planted_length_bias_is_detected() {
        let fair = planted(500, 1, 0.0, 0.0, false, 3).length;
        assert!(fair.correlation.unwrap().low < 0.0 && 0.0 < fair.correlation.unwrap().high);
        assert!(fair.longer_rate.unwrap().low < 0.5 && 0.5 < fair.longer_rate.unwrap().high);
        let biased = planted(500, 1, 0.0, 1.0, false, 3).length;
        assert!(biased.correlation.unwrap().low > 0.3 && biased.longer_rate.unwrap().low > 0.6, "{biased:?}");
    }

    #[test]
    fn failures_are_counted_by_name_and_excluded_from_rates() {
        let prompt = Content::Text("p".into());
        let item = Comparison { prompt: &prompt, response_a: "long text", response_b: "x" };
        let plan = Plan { questions: Vec::new(), refs: vec![QuestionRefs::both_orders(0); 2] };
        let verdicts = vec![Verdict::First(None), Verdict::Truncated];
        let audit = audit(&Judgements::of(plan, verdicts, OrderCombination::Logits), &[item, item]);
        assert_eq!((audit.verdicts["truncated"], audit.verdicts["first"], audit.unparsed_rate), (1, 1, 0.5));
        assert_eq!(audit.comparisons, Comparisons { failed: 2, ..Comparisons::default() });
        assert_eq!(audit.position.unwrap().conflict_rate, None);
        assert_eq!((audit.length, audit.label_mass), (Length::default(), None));
    }
}
