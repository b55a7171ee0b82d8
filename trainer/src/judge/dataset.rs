//! From labels to the records of a dataset, and whether the dataset is good enough. Computes only.

use plumbline_crds::preference_dataset::DatasetGates;

use super::audit::Audit;
use super::label::Outcome;
use super::panel::Judged;
use super::question::{Comparison, Use};
use super::{JudgeRuntime, pairs};
use crate::data::preference::{Preference, Provenance};

/// The records of the comparisons whose label is at least `min_confidence` sure (0.5..=1), in order of prompt and pair: the
/// order does not depend on which reply came first.
pub fn records(
    runtime: &JudgeRuntime,
    judged: &Judged,
    items: &[Comparison<'_>],
    min_confidence: f64,
) -> Vec<Preference> {
    let mut records: Vec<Preference> = judged
        .outcomes
        .iter()
        .zip(&judged.plan.uses)
        .zip(items)
        .filter_map(|((outcome, asked), item)| record(runtime, judged, outcome, asked, item))
        .filter(|record| record.p >= min_confidence)
        .collect();
    let key = |r: &Preference| (r.prompt_id.clone(), r.provenance.as_ref().map(|p| p.pair_id.clone()));
    records.sort_by_cached_key(key);
    records
}

fn record(
    runtime: &JudgeRuntime,
    judged: &Judged,
    outcome: &Outcome,
    asked: &Use,
    item: &Comparison<'_>,
) -> Option<Preference> {
    let Outcome::Label(label) = outcome else { return None };
    let question = match asked {
        Use::Equal => return None,
        Use::Pairwise(orders) => orders.first()?.1,
        Use::Pointwise { a, .. } => *a,
    };
    let a_wins = label.p > 0.5;
    let (chosen, rejected) =
        if a_wins { (item.response_a, item.response_b) } else { (item.response_b, item.response_a) };
    let prompt_id = item.prompt.id();
    let (chosen_id, rejected_id) = (pairs::response_id(&prompt_id, chosen), pairs::response_id(&prompt_id, rejected));
    Some(Preference {
        prompt: item.prompt.clone(),
        chosen: item.prompt.answered_by(chosen),
        rejected: item.prompt.answered_by(rejected),
        p: if a_wins { label.p } else { 1.0 - label.p },
        margin: label.log_odds.map(f64::abs),
        provenance: Some(Provenance {
            judge: runtime.spec.name.clone(),
            model: runtime.model_name(),
            template: judged.plan.questions[question].template.clone(),
            orders: label.orders,
            conflict: label.conflict,
            label_mass: label.mass,
            pair_id: pairs::pair_id(&prompt_id, &chosen_id, &rejected_id),
            chosen_id,
            rejected_id,
        }),
        prompt_id,
    })
}

/// The gates that a dataset of `records` pairs does not pass, each in a sentence with its numbers.
pub fn failed_gates(gates: &DatasetGates, audit: &Audit, records: i64) -> Vec<String> {
    let c = &audit.comparisons;
    let mut failed = Vec::new();
    if let Some(least) = gates.min_pairs
        && records < least
    {
        failed.push(format!(
            "spec.gates.minPairs is {least}, and {records} pairs have a sure label ({} less sure, {} ties, {} dropped, {} \
             without a verdict)",
            c.labels - records,
            c.ties,
            c.dropped,
            c.failed
        ));
    }
    let conflicts = c.conflicts as f64 / c.both_orders.max(1) as f64;
    if let Some(most) = gates.max_conflict_rate
        && conflicts > most
    {
        failed.push(format!(
            "spec.gates.maxConflictRate is {most}, and the two orders of {} of {} pairs ({conflicts:.3}) favour different responses",
            c.conflicts, c.both_orders
        ));
    }
    if let Some(most) = gates.max_unparsed_rate
        && audit.unparsed_rate > most
    {
        let kinds: Vec<String> =
            audit.verdicts.iter().filter(|(_, n)| **n > 0).map(|(k, n)| format!("{n} {k}")).collect();
        failed.push(format!(
            "spec.gates.maxUnparsedRate is {most}, and {:.3} of the questions have no verdict ({})",
            audit.unparsed_rate,
            kinds.join(", ")
        ));
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::super::audit::{Comparisons, Length};
    use super::super::verdict::Verdict;
    use super::*;

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

    #[test]
    fn gates_fail_beyond_their_limit_and_say_the_numbers() {
        let gates = DatasetGates {
            min_pairs: Some(10),
            max_conflict_rate: Some(0.4),
            max_unparsed_rate: Some(0.02),
            min_human_kappa: None,
        };
        assert_eq!(failed_gates(&gates, &audit(10, 4, 10, 0.02), 10), Vec::<String>::new());
        let failed = failed_gates(&gates, &audit(9, 5, 10, 0.03), 9);
        assert_eq!(failed.len(), 3);
        assert!(failed[0].contains("minPairs is 10, and 9 pairs"), "{}", failed[0]);
        assert!(
            failed[1].contains("maxConflictRate is 0.4") && failed[1].contains("5 of 10 pairs (0.500)"),
            "{}",
            failed[1]
        );
        assert!(failed[2].contains("0.030 of the questions") && failed[2].contains("1 truncated"), "{}", failed[2]);
        assert_eq!(failed_gates(&DatasetGates::default(), &audit(0, 9, 9, 1.0), 0), Vec::<String>::new());
    }
}
