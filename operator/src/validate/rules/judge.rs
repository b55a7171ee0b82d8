//! Rules between the fields of a judge. Computes only.

use plumbline_crds::judge::{Judge, JudgeApi, JudgeLimits, JudgeMode, LabelSource};

use super::{Findings, revision};
use crate::validate::problem::alternatives;
use crate::validate::templates;

pub(super) fn judge(judge: &Judge, path: &str, found: &mut Findings) {
    let fields = [
        ("endpoint", judge.endpoint.is_some()),
        ("model", judge.model.is_some()),
        ("lexicon", judge.lexicon.is_some()),
    ];
    found.exactly_one(path, &fields);
    revision(judge.model.as_ref(), &format!("{path}.model"), found);
    if judge.lexicon.is_some() {
        if judge.endpoint.is_none() && judge.model.is_none() {
            beside_lexicon(judge, path, found);
        }
        return;
    }
    found.at_most_one(path, &[("template", judge.template.is_some()), ("templates", !judge.templates.is_empty())]);
    found.0.extend(templates::check(judge, path));
    let answers = answers(judge);
    // Answers are distinguished by their words, without the leading space.
    if let [first, second] = &answers[..]
        && (first.trim() == second.trim() || first.trim().is_empty() || second.trim().is_empty())
    {
        found.push(
            format!("{path}.answers"),
            format!("expected two different answers, found \"{first}\" and \"{second}\"; change one"),
        );
    }
    for (i, example) in judge.examples.iter().enumerate() {
        let path = format!("{path}.examples[{i}]");
        let pairwise = judge.mode == JudgeMode::Pairwise;
        let mode = if pairwise { "Pairwise" } else { "Pointwise" };
        for (field, is_set, wanted) in [
            ("response", example.response.is_some(), !pairwise),
            ("responseA", example.response_a.is_some(), pairwise),
            ("responseB", example.response_b.is_some(), pairwise),
        ] {
            if wanted && !is_set {
                found.push(
                    format!("{path}.{field}"),
                    format!("expected {field} in an example of a {mode} judge, found nothing; add it"),
                );
            }
            if is_set && !wanted {
                found.push(
                    format!("{path}.{field}"),
                    format!(
                        "expected no {field} in an example of a {mode} judge, found one; remove it or change `mode`"
                    ),
                );
            }
        }
        if !answers.contains(&example.answer.as_str()) {
            // An answer may begin with a space.
            let known: Vec<String> = answers.iter().map(|answer| format!("\"{answer}\"")).collect();
            let known = alternatives(&known.iter().map(String::as_str).collect::<Vec<_>>());
            let message = format!("expected one of the judge's answers ({known}), found \"{}\"", example.answer);
            found.push(format!("{path}.answer"), message + "; write one of them");
        }
    }
}

/// A word list is asked nothing: it rates one response after the other, as a Pointwise judge does.
fn beside_lexicon(judge: &Judge, path: &str, found: &mut Findings) {
    for (field, is_set) in [
        ("template", judge.template.is_some()),
        ("templates", !judge.templates.is_empty()),
        ("api", judge.api != JudgeApi::default()),
        ("labelSource", judge.label_source != LabelSource::default()),
        ("criteria", !judge.criteria.is_empty()),
        ("answers", judge.answers.is_some()),
        ("examples", !judge.examples.is_empty()),
        ("limits", judge.limits != JudgeLimits::default()),
        ("price", judge.price.is_some()),
    ] {
        if is_set {
            let message =
                format!("expected no {field} beside lexicon, found some; a word list does not read it: remove it");
            found.push(format!("{path}.{field}"), message);
        }
    }
}

/// The two answers of a judge, with the defaults that `Judge::answers` documents.
fn answers(judge: &Judge) -> Vec<&str> {
    match (&judge.answers, judge.mode) {
        (Some(answers), _) => answers.iter().map(String::as_str).collect(),
        (None, JudgeMode::Pairwise) => vec!["A", "B"],
        (None, JudgeMode::Pointwise) => vec!["yes", "no"],
    }
}
