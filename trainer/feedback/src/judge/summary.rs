//! Summarises an audit for programs: numbers under stable names, and why a dataset has no records. Computes only.

use std::collections::BTreeMap;

use super::audit::{Audit, Length, PanelAudit};
use super::panel::PanelJudgements;
use super::tripwire;
use crate::measure::Estimate;
use crate::report::decimal;

/// Biases under stable names: the value, and the ends of its interval as `<name>_low` and `<name>_high`. Those of the
/// only judge or, with several, those of their combined labels.
pub fn bias(audit: &PanelAudit) -> BTreeMap<String, String> {
    audit.alone().map_or_else(|| bias_of_length(&audit.length), bias_of)
}

/// Agreement under stable names, in the same form: of the only judge with itself, or of several with each other.
pub fn agreement(audit: &PanelAudit) -> BTreeMap<String, String> {
    if let Some(alone) = audit.alone() {
        return agreement_of(alone);
    }
    let mut out = BTreeMap::new();
    put(&mut out, "judges_agreement", audit.agreement);
    put(&mut out, "always_longer", audit.length.longer_rate);
    out
}

/// The numbers of each judge if there are several: `judges.<name>.<number>`.
pub fn of_each_judge(audit: &PanelAudit) -> BTreeMap<String, String> {
    if audit.judges.len() < 2 {
        return BTreeMap::new();
    }
    let of_judge = |(name, audit): &(String, Audit)| {
        let questions: i64 = audit.verdicts.values().sum();
        let mut all = bias_of(audit);
        all.extend(agreement_of(audit));
        all.insert("questions".into(), questions.to_string());
        all.insert("conflicts".into(), audit.comparisons.conflicts.to_string());
        all.insert("unparsed_rate".into(), decimal(audit.unparsed_rate));
        let name = name.replace('-', "_");
        all.into_iter().map(|(number, value)| (format!("judges.{name}.{number}"), value)).collect::<Vec<_>>()
    };
    audit.judges.iter().flat_map(of_judge).collect()
}

fn bias_of_length(length: &Length) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    put(&mut out, "longer_rate", length.longer_rate);
    put(&mut out, "length_correlation", length.correlation);
    out
}

fn bias_of(audit: &Audit) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    if let Some(p) = &audit.position {
        put(&mut out, "position_log_odds", p.log_odds);
        put(&mut out, "first_rate", p.first_rate);
    }
    out.extend(bias_of_length(&audit.length));
    put(&mut out, "label_mass", audit.label_mass);
    out
}

fn agreement_of(audit: &Audit) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    if let Some(p) = &audit.position {
        put(&mut out, "orders", p.conflict_rate.map(complement));
        if let Some(kappa) = p.kappa {
            out.insert("orders_kappa".into(), decimal(kappa));
        }
        put(&mut out, "orders_correlation", p.correlation);
        put(&mut out, "always_first", p.first_rate);
    }
    put(&mut out, "always_longer", audit.length.longer_rate);
    out
}

fn complement(e: Estimate) -> Estimate {
    Estimate { value: 1.0 - e.value, low: 1.0 - e.high, high: 1.0 - e.low }
}

fn put(out: &mut BTreeMap<String, String>, name: &str, estimate: Option<Estimate>) {
    if let Some(e) = estimate {
        out.insert(name.into(), decimal(e.value));
        out.insert(format!("{name}_low"), decimal(e.low));
        out.insert(format!("{name}_high"), decimal(e.high));
    }
}

/// Explains with counts why there are no records at all.
pub fn nothing_labelled(audit: &PanelAudit, judged: &PanelJudgements, counts: &BTreeMap<String, i64>) -> String {
    if judged.outcomes.is_empty() {
        let n = |name: &str| counts.get(name).copied().unwrap_or_default();
        return format!(
            "no prompt has two responses to compare: of {} responses to {} prompts, {} are empty, and {} pairs are \
             too similar; raise spec.generator.sampling.temperature (at 0 all responses to a prompt are the same) or \
             responsesPerPrompt",
            n("responses"),
            n("prompts"),
            n("empty_responses"),
            n("similar_pairs")
        );
    }
    let c = &audit.comparisons;
    let pairs = [
        (c.labels, "below spec.pairs.minConfidence"),
        (c.ties, "ties"),
        (c.dropped, "dropped because their two orders conflict (combine: AgreeOnly)"),
        (c.failed, "with a question that has no verdict"),
    ];
    let pairs: Vec<String> = pairs.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    let mut reasons: BTreeMap<String, i64> = BTreeMap::new();
    for (why, n) in judged.judges.iter().flat_map(|judge| &judge.reasons) {
        *reasons.entry(why.clone()).or_default() += n;
    }
    let why = if reasons.is_empty() {
        String::new()
    } else {
        format!(". Questions without a verdict: {}", tripwire::causes(&reasons))
    };
    format!(
        "none of the {} pairs has a label, so there is no dataset: {}{why}",
        judged.outcomes.len(),
        pairs.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::super::audit::{Comparisons, Position};
    use super::*;

    #[test]
    fn maps_contain_each_estimate_with_its_interval() {
        let e = Some(Estimate { value: 0.25, low: 0.2, high: 0.3 });
        let audit = Audit {
            verdicts: BTreeMap::new(),
            unparsed_rate: 0.0,
            comparisons: Comparisons::default(),
            position: Some(Position {
                first_rate: e,
                log_odds: e,
                conflict_rate: e,
                kappa: Some(0.5),
                correlation: e,
                prompts: 9,
            }),
            length: Length { longer_rate: e, correlation: e },
            label_mass: e,
            low_mass_rate: e,
        };
        let (bias, agreement) = (bias_of(&audit), agreement_of(&audit));
        assert_eq!(bias["position_log_odds_low"], "0.2");
        assert_eq!((agreement["orders"].as_str(), agreement["orders_low"].as_str()), ("0.75", "0.7"));
        assert!(bias.len() <= 32 && agreement.len() <= 32);
        let nothing = Audit { position: None, length: Length::default(), label_mass: None, ..audit };
        assert!(bias_of(&nothing).is_empty(), "what could not be measured is not in the status");
    }

    #[test]
    fn each_of_several_judges_has_its_numbers() {
        let e = |value: f64| Some(Estimate { value, low: value - 0.1, high: value + 0.1 });
        let of_judge = |longer| Audit {
            verdicts: BTreeMap::from([("first", 9), ("refused", 1)]),
            unparsed_rate: 0.1,
            comparisons: Comparisons::default(),
            position: None,
            length: Length { longer_rate: e(longer), correlation: None },
            label_mass: None,
            low_mass_rate: None,
        };
        let audit = PanelAudit {
            judges: vec![("a".into(), of_judge(0.25)), ("b-1".into(), of_judge(0.75))],
            comparisons: Comparisons { labels: 5, ..Comparisons::default() },
            length: Length { longer_rate: e(0.5), correlation: None },
            partial: 1,
            agreements: Vec::new(),
            agreement: e(0.875),
        };
        assert_eq!(
            (bias(&audit)["longer_rate"].as_str(), agreement(&audit)["judges_agreement"].as_str()),
            ("0.5", "0.875")
        );
        let each = of_each_judge(&audit);
        assert_eq!((each["judges.a.longer_rate"].as_str(), each["judges.b_1.longer_rate"].as_str()), ("0.25", "0.75"));
        assert_eq!(each["judges.b_1.questions"], "10");
        let alone = PanelAudit { judges: audit.judges[..1].to_vec(), ..audit };
        assert!(of_each_judge(&alone).is_empty());
        assert_eq!(bias(&alone)["longer_rate"], "0.25");
    }
}
