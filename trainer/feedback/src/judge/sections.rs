//! The sections of a report that show an audit: the records, the judges' biases and agreement, samples. Computes only.

use std::collections::BTreeMap;

use super::audit::{Audit, PanelAudit};
use super::panel::PanelJudgements;
use crate::data::preference::Preference;
use crate::data::{Content, id};
use crate::measure::Estimate;
use crate::report::{Number, Sample, SampleScore, Section};

/// Number of labelled pairs shown in a report.
const SAMPLES: usize = 12;
/// Number of reasons shown in a report.
const REASONS: usize = 20;
/// Fraction of pairs in conflict above which a report has a notice: the rate of random verdicts.
const NOTICED_CONFLICTS: f64 = 0.5;

/// The sections about the records (`train` and `validation` of them), about the judges, and with samples of labelled
/// pairs.
pub fn sections(
    audit: &PanelAudit,
    judged: &PanelJudgements,
    records: &[Preference],
    splits: [usize; 2],
) -> Vec<Section> {
    let mut sections = vec![held(audit, records.len(), splits)];
    if audit.judges.len() > 1 {
        sections.push(agreements(audit));
    }
    for (name, of_judge) in &audit.judges {
        let conflicts = of_judge.position.and_then(|p| p.conflict_rate);
        if let Some(rate) = conflicts.filter(|rate| rate.value >= NOTICED_CONFLICTS) {
            sections.push(order_decides(&titled("The order matters as much as the responses", name, audit), rate));
        }
        sections.push(consistency(of_judge, titled("Biases of the judge", name, audit)));
    }
    sections.push(certainty(records));
    sections.push(outcomes(audit));
    for ((name, _), judge) in audit.judges.iter().zip(&judged.judges).filter(|(_, j)| !j.reasons.is_empty()) {
        sections.push(Section::Table {
            title: titled("Why questions have no verdict", name, audit),
            columns: vec!["reason".into(), "questions".into()],
            rows: reasons(&judge.reasons),
        });
    }
    if !records.is_empty() {
        sections.push(samples(records));
    }
    sections
}

/// A title, with the judge's name if there are several judges.
fn titled(title: &str, name: &str, audit: &PanelAudit) -> String {
    if audit.judges.len() > 1 { format!("{title}: {name}") } else { title.to_owned() }
}

fn order_decides(title: &str, rate: Estimate) -> Section {
    Section::Notice {
        title: title.to_owned(),
        text: format!(
            "In {:.1} % of the pairs the judge's preference changes when the two responses are swapped; tossing a \
             coin gives 50 %. Both orders together cancel a constant preference for a position, but not chance. \
             Compare the labels with your own before you use them.",
            100.0 * rate.value
        ),
    }
}

/// The agreement of each pair of judges.
fn agreements(audit: &PanelAudit) -> Section {
    let interval = |e: Option<Estimate>, scale: f64| {
        e.map_or_else(String::new, |e| {
            format!("{:.2} ({:.2} to {:.2})", scale * e.value, scale * e.low, scale * e.high)
        })
    };
    let rows = audit.agreements.iter().map(|a| {
        let (one, other) = a.judges;
        vec![
            format!("{} and {}", audit.judges[one].0, audit.judges[other].0),
            a.comparisons.to_string(),
            interval(a.same, 100.0),
            a.kappa.map_or_else(String::new, |kappa| format!("{kappa:.2}")),
            interval(a.correlation, 1.0),
        ]
    });
    Section::Table {
        title: "Agreement of the judges".into(),
        columns: ["judges", "pairs", "same preference, percent", "kappa", "correlation"].map(String::from).into(),
        rows: rows.collect(),
    }
}

/// The most frequent reasons first, then the number of others: a server may give each question a different reason.
fn reasons(reasons: &BTreeMap<String, i64>) -> Vec<Vec<String>> {
    let mut sorted: Vec<(&String, i64)> = reasons.iter().map(|(why, n)| (why, *n)).collect();
    sorted.sort_by_key(|(_, n)| -n);
    let more: i64 = sorted.iter().skip(REASONS).map(|(_, n)| n).sum();
    let mut rows: Vec<Vec<String>> =
        sorted.iter().take(REASONS).map(|(why, n)| vec![(*why).clone(), n.to_string()]).collect();
    if more > 0 {
        rows.push(vec!["other reasons".into(), more.to_string()]);
    }
    rows
}

/// The section with the numbers of records and of what was skipped.
fn held(audit: &PanelAudit, records: usize, [train, validation]: [usize; 2]) -> Section {
    let c = &audit.comparisons;
    let rows = [
        ("Records", records as i64, "pairs with a label that meets minConfidence: the records of the dataset"),
        ("Train", train as i64, ""),
        ("Validation", validation as i64, "of prompts that are in no other split"),
        ("Left out, low confidence", c.labels - records as i64, "below spec.pairs.minConfidence"),
        ("Left out, ties", c.ties, "the judge sees no difference"),
        ("Left out, dropped", c.dropped, "orders in conflict under combine: AgreeOnly"),
        ("Left out, without a verdict", c.failed, "a question about the pair has none"),
    ];
    let partial =
        ("Without one of the judges", audit.partial, "which has no verdict on the pair; the others made the label");
    let rows = rows.into_iter().chain((audit.partial > 0).then_some(partial));
    let rows = rows.map(|(label, n, note)| Number::new(label, n as f64).count().note(note)).collect();
    Section::Numbers { title: "Contents of the dataset".into(), rows }
}

fn consistency(audit: &Audit, title: String) -> Section {
    let number = |label: &str, e: Option<Estimate>, reference: Option<f64>, note: &str| {
        let mut number = Number::new(label, e.map_or(f64::NAN, |e| e.value)).note(note);
        number.interval = e.map(|e| (e.low, e.high));
        number.reference = reference;
        number
    };
    let mut rows = Vec::new();
    if let Some(p) = &audit.position {
        rows.push(
            number(
                "Orders in conflict",
                p.conflict_rate,
                None,
                "share of pairs whose two orders favour different responses",
            )
            .percent(),
        );
        rows.push(
            number(
                "Verdicts for the first",
                p.first_rate,
                Some(0.5),
                "equal to the agreement with the baseline \"always the first\"",
            )
            .percent(),
        );
        rows.push(number(
            "Position bias",
            p.log_odds,
            Some(0.0),
            "log-odds added to the response shown first; both orders together cancel it",
        ));
        rows.push(
            Number::new("Kappa of the two orders", p.kappa.unwrap_or(f64::NAN))
                .note("agreement of both orders beyond chance"),
        );
        rows.push(number(
            "Correlation of the two orders",
            p.correlation,
            Some(0.0),
            "of their verdicts on the same response; a constant preference for a position does not change it",
        ));
    }
    let length = &audit.length;
    rows.push(
        number(
            "Labels for the longer",
            length.longer_rate,
            Some(0.5),
            "equal to the agreement with the baseline \"always the longer\"; longer can be better",
        )
        .percent(),
    );
    rows.push(number(
        "Margin and length",
        length.correlation,
        Some(0.0),
        "correlation of the log-odds with the difference in characters",
    ));
    if audit.label_mass.is_some() {
        rows.push(
            number(
                "Label mass",
                audit.label_mass,
                None,
                "probability of the judge's two answers together, mean over replies",
            )
            .percent(),
        );
        rows.push(number("Replies with low label mass", audit.low_mass_rate, None, "share below one half").percent());
    }
    Section::Numbers { title, rows }
}

fn certainty(records: &[Preference]) -> Section {
    const EDGES: [f64; 6] = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0];
    let rows = EDGES.windows(2).map(|edge| {
        let inside = |p: f64| p >= edge[0] && (p < edge[1] || edge[1] >= 1.0);
        let n = records.iter().filter(|r| inside(r.p)).count();
        let share = 100.0 * n as f64 / records.len().max(1) as f64;
        vec![format!("{:.1} to {:.1}", edge[0], edge[1]), n.to_string(), format!("{share:.1}")]
    });
    Section::Table {
        title: "Confidence of the labels".into(),
        columns: vec!["p(chosen is better)".into(), "pairs".into(), "percent".into()],
        rows: rows.collect(),
    }
}

fn outcomes(audit: &PanelAudit) -> Section {
    let c = &audit.comparisons;
    let verdicts = audit.verdicts();
    let questions = verdicts.values().sum::<i64>().max(1) as f64;
    let mut rows: Vec<Vec<String>> = [
        ("pairs with a label", c.labels),
        ("pairs without a preference", c.ties),
        ("pairs dropped for conflict", c.dropped),
        ("pairs with a question that has no verdict", c.failed),
    ]
    .into_iter()
    .map(|(what, n)| vec![what.to_owned(), n.to_string(), String::new()])
    .collect();
    rows.extend(verdicts.iter().map(|(kind, n)| {
        vec![format!("questions answered: {kind}"), n.to_string(), format!("{:.1}", 100.0 * *n as f64 / questions)]
    }));
    Section::Table {
        title: "Outcome of pairs and questions".into(),
        columns: vec!["outcome".into(), "count".into(), "percent".into()],
        rows,
    }
}

/// A random selection of pairs, drawn by hash.
fn samples(records: &[Preference]) -> Section {
    let mut drawn: Vec<&Preference> = records.iter().collect();
    let pair = |r: &Preference| r.provenance.as_ref().map(|p| p.pair_id.clone()).unwrap_or_default();
    drawn.sort_by_cached_key(|r| id::key(&["sample", &pair(r)]));
    let text = |c: &Content| match c {
        Content::Messages(turns) if turns.len() == 1 => turns[0].content.clone(),
        other => other.to_text(),
    };
    let sample = |r: &&Preference| Sample {
        prompt: text(&r.prompt),
        texts: vec![text(&r.chosen), text(&r.rejected)],
        scores: vec![SampleScore { name: "p(better)".into(), values: vec![Some(r.p), Some(1.0 - r.p)] }],
    };
    Section::Samples {
        title: "Labelled pairs".into(),
        columns: vec!["chosen".into(), "rejected".into()],
        rows: drawn.iter().take(SAMPLES).map(sample).collect(),
    }
}
