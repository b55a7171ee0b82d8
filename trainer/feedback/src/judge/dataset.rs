//! Converts labels to the records of a dataset, and checks the dataset's gates. Computes only.

use plumbline_crds::preference_dataset::DatasetGates;

use super::audit::{Audit, PanelAudit};
use super::label::Outcome;
use super::panel::PanelJudgements;
use super::question::{Comparison, QuestionRefs};
use super::{JudgeRuntime, pairs};
use crate::data::preference::Preference;
use crate::data::provenance::{self, JudgeLabel, Provenance};

/// The records of the comparisons whose label has at least `min_confidence` (0.5..=1), ordered by prompt and pair,
/// independent of the order in which replies arrived.
pub fn records(
    judges: &[JudgeRuntime],
    judged: &PanelJudgements,
    items: &[Comparison<'_>],
    min_confidence: f64,
) -> Vec<Preference> {
    let mut records: Vec<Preference> = items
        .iter()
        .enumerate()
        .filter_map(|(i, item)| record(judges, judged, i, item))
        .filter(|record| record.p >= min_confidence)
        .collect();
    let key = |r: &Preference| (r.prompt_id.clone(), r.provenance.as_ref().map(|p| p.pair_id.clone()));
    records.sort_by_cached_key(key);
    records
}

fn record(judges: &[JudgeRuntime], judged: &PanelJudgements, i: usize, item: &Comparison<'_>) -> Option<Preference> {
    let Outcome::Label(label) = &judged.outcomes[i] else { return None };
    let a_wins = label.p > 0.5;
    let of_chosen = |p: f64| if a_wins { p } else { 1.0 - p };
    let (chosen, rejected) =
        if a_wins { (item.response_a, item.response_b) } else { (item.response_b, item.response_a) };
    let prompt_id = item.prompt.id();
    let (chosen_id, rejected_id) = (pairs::response_id(&prompt_id, chosen), pairs::response_id(&prompt_id, rejected));
    let said = judges.iter().zip(&judged.judges).filter_map(|(runtime, judged)| {
        let label = judged.outcomes[i].label()?;
        let question = match &judged.plan.refs[i] {
            QuestionRefs::Equal => return None,
            QuestionRefs::Pairwise(orders) => orders.first()?.question,
            QuestionRefs::Pointwise { a, .. } => *a,
        };
        Some(JudgeLabel {
            judge: runtime.spec.name.clone(),
            model: runtime.model_name(),
            template: runtime.prompt.template_name(&judged.plan.questions[question]).to_owned(),
            weight: runtime.spec.weight,
            p: of_chosen(label.p),
            orders: label.orders,
            conflict: label.conflict,
            label_mass: label.mass,
        })
    });
    Some(Preference {
        prompt: item.prompt.clone(),
        chosen: item.prompt.answered_by(chosen),
        rejected: item.prompt.answered_by(rejected),
        p: of_chosen(label.p),
        margin: label.log_odds.map(f64::abs),
        provenance: Some(Provenance {
            version: provenance::VERSION,
            judges: said.collect(),
            pair_id: pairs::pair_id(&prompt_id, &chosen_id, &rejected_id),
            chosen_id,
            rejected_id,
        }),
        prompt_id,
    })
}

/// Default maximum fraction of pairs in conflict, and the number of pairs from which it is checked.
const MAX_CONFLICT_RATE: f64 = 0.75;
const PAIRS_FOR_CONFLICTS: i64 = 20;
/// Minimum number of prompts for checking the correlation of the two orders: with fewer, it is mostly chance.
const PROMPTS_FOR_CORRELATION: usize = 100;

/// The gates that a dataset of `records` pairs fails, each as a sentence with its numbers. Gates about judging apply to
/// each judge.
pub fn failed_gates(gates: &DatasetGates, audit: &PanelAudit, records: i64) -> Vec<String> {
    let c = &audit.comparisons;
    let mut failed = Vec::new();
    if let Some(least) = gates.min_pairs
        && records < least
    {
        failed.push(format!(
            "spec.gates.minPairs is {least}, but {records} pairs have a usable label ({} below minConfidence, {} \
             ties, {} dropped, {} without a verdict)",
            c.labels - records,
            c.ties,
            c.dropped,
            c.failed
        ));
    }
    for (name, of_judge) in &audit.judges {
        let found = failed_by_judge(gates, of_judge, records);
        let named = |text: String| if audit.judges.len() > 1 { format!("judge {name}: {text}") } else { text };
        failed.extend(found.into_iter().map(named));
    }
    failed
}

/// The failed gates about the verdicts of a judge.
fn failed_by_judge(gates: &DatasetGates, audit: &Audit, records: i64) -> Vec<String> {
    let mut failed = failed_by_orders(gates, audit, records);
    if audit.unparsed_rate > gates.max_unparsed_rate {
        let kinds: Vec<String> =
            audit.verdicts.iter().filter(|(_, n)| **n > 0).map(|(k, n)| format!("{n} {k}")).collect();
        failed.push(format!(
            "spec.gates.maxUnparsedRate is {}, but the share of questions without a verdict is {:.3} ({})",
            gates.max_unparsed_rate,
            audit.unparsed_rate,
            kinds.join(", ")
        ));
    }
    if let Some(mass) = audit.label_mass
        && mass.value < gates.min_label_mass
    {
        failed.push(format!(
            "spec.gates.minLabelMass is {}, but the judge gives its two answers a total probability of only {:.4}, \
             averaged over replies: it tends to say something else (try another template, examples or answers, or \
             labelSource: Verdict)",
            gates.min_label_mass, mass.value
        ));
    }
    failed
}

/// The failed gates about the two orders of a pair.
fn failed_by_orders(gates: &DatasetGates, audit: &Audit, records: i64) -> Vec<String> {
    let c = &audit.comparisons;
    let conflicts = c.conflicts as f64 / c.both_orders.max(1) as f64;
    let mut failed = Vec::new();
    // The default permits what can be chance, unless there are no records: 16 or more heads in 20 coin tosses have a
    // probability of 1 in 170.
    let by_default = (c.both_orders >= PAIRS_FOR_CONFLICTS || records == 0).then_some(MAX_CONFLICT_RATE);
    if let Some(most) = gates.max_conflict_rate.or(by_default)
        && conflicts > most
    {
        let first = audit.position.and_then(|p| p.first_rate).map_or(f64::NAN, |r| 100.0 * r.value);
        failed.push(format!(
            "spec.gates.maxConflictRate is {most}, but the two orders of {} of {} pairs ({conflicts:.3}) favour \
             different responses: {first:.1} % of the verdicts favour the response shown first (try another judge, or \
             clearer criteria)",
            c.conflicts, c.both_orders
        ));
    }
    if let Some(position) = audit.position.filter(|p| p.prompts >= PROMPTS_FOR_CORRELATION)
        && let Some(said) = position.correlation
        && said.low <= gates.min_order_correlation
    {
        failed.push(format!(
            "spec.gates.minOrderCorrelation is {}, but the judge's verdicts in the two orders of a pair have a \
             correlation of {:.3} ({:.3} to {:.3}) on {} prompts, which is no more than chance may give",
            gates.min_order_correlation, said.value, said.low, said.high, position.prompts
        ));
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::super::audit::{Comparisons, Length, Position};
    use super::super::verdict::Verdict;
    use super::*;
    use crate::measure::Estimate;

    fn audit(labels: i64, conflicts: i64, both_orders: i64, unparsed_rate: f64) -> Audit {
        Audit {
            verdicts: Verdict::KINDS.into_iter().map(|k| (k, 1)).collect(),
            unparsed_rate,
            comparisons: Comparisons { labels, conflicts, both_orders, ..Comparisons::default() },
            position: None,
            length: Length::default(),
            label_mass: None,
            low_mass_rate: None,
        }
    }

    fn alone(audit: Audit) -> PanelAudit {
        PanelAudit {
            comparisons: audit.comparisons,
            length: audit.length,
            partial: 0,
            agreements: Vec::new(),
            agreement: None,
            judges: vec![("j".into(), audit)],
        }
    }

    #[test]
    fn gates_fail_beyond_their_limit_and_report_the_numbers() {
        let gates = DatasetGates {
            min_pairs: Some(10),
            max_conflict_rate: Some(0.4),
            max_unparsed_rate: 0.02,
            ..DatasetGates::default()
        };
        assert_eq!(failed_gates(&gates, &alone(audit(10, 4, 10, 0.02)), 10), Vec::<String>::new());
        let failed = failed_gates(&gates, &alone(audit(9, 5, 10, 0.03)), 9);
        assert_eq!(failed.len(), 3);
        assert!(failed[0].contains("minPairs is 10, but 9 pairs"), "{}", failed[0]);
        assert!(
            failed[1].contains("maxConflictRate is 0.4") && failed[1].contains("5 of 10 pairs (0.500)"),
            "{}",
            failed[1]
        );
        assert!(failed[2].contains("without a verdict is 0.030") && failed[2].contains("1 truncated"), "{}", failed[2]);
    }

    #[test]
    fn a_gate_about_judging_applies_to_each_judge_and_names_it() {
        let both = PanelAudit {
            judges: vec![("good".into(), audit(24, 0, 24, 0.0)), ("bad".into(), audit(24, 24, 24, 0.6))],
            ..alone(audit(24, 24, 48, 0.3))
        };
        let failed = failed_gates(&DatasetGates::default(), &both, 24);
        assert!(failed.len() == 2 && failed.iter().all(|f| f.starts_with("judge bad: spec.gates.")), "{failed:?}");
    }

    #[test]
    fn an_uninformative_judge_fails_by_default() {
        let estimate = |value: f64, half: f64| Some(Estimate { value, low: value - half, high: value + half });
        let orders = |correlation: f64, prompts: usize| {
            Some(Position {
                first_rate: estimate(0.9, 0.05),
                log_odds: None,
                conflict_rate: None,
                kappa: None,
                correlation: estimate(correlation, 0.15),
                prompts,
            })
        };
        let default = DatasetGates::default();
        let of = |audit: Audit| failed_gates(&default, &alone(audit), 20);
        let some =
            |failed: Vec<String>, words: &str| assert!(failed.len() == 1 && failed[0].contains(words), "{failed:?}");
        some(of(Audit { position: orders(0.9, 24), ..audit(24, 24, 24, 0.0) }), "24 of 24 pairs (1.000)");
        some(of(audit(24, 0, 24, 0.6)), "maxUnparsedRate is 0.5");
        some(
            of(Audit { label_mass: estimate(0.004, 0.001), ..audit(24, 0, 0, 0.0) }),
            "a total probability of only 0.0040",
        );
        some(
            of(Audit { position: orders(0.02, 150), ..audit(150, 75, 150, 0.0) }),
            "a correlation of 0.020 (-0.130 to 0.170)",
        );
        for passes in [
            audit(24, 12, 24, 0.25),
            audit(14, 11, 14, 0.0),
            Audit { position: orders(0.02, 24), ..audit(24, 12, 24, 0.0) },
            Audit { position: orders(0.4, 150), ..audit(150, 90, 150, 0.0) },
            Audit { label_mass: estimate(0.3, 0.1), ..audit(24, 0, 0, 0.0) },
        ] {
            assert_eq!(of(passes.clone()), Vec::<String>::new(), "{passes:?}");
        }
        let off = DatasetGates {
            max_conflict_rate: Some(1.0),
            max_unparsed_rate: 1.0,
            min_label_mass: 0.0,
            min_order_correlation: -1.0,
            ..DatasetGates::default()
        };
        let worst = Audit { position: orders(-0.8, 150), label_mass: estimate(0.0, 0.0), ..audit(0, 150, 150, 1.0) };
        assert_eq!(failed_gates(&off, &alone(worst), 0), Vec::<String>::new());
    }
}
