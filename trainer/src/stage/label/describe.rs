//! Describes a dataset for users and programs: its counts, its headline and the facts of its report. Computes only.

use std::collections::{BTreeMap, BTreeSet};

use plumbline_crds::preference_dataset::Generator;
use plumbline_crds::run::RunDocument;
use plumbline_feedback::data::preference::{Preference, Split};
use plumbline_feedback::data::prompts;
use plumbline_feedback::data::responses::Sampled;
use plumbline_feedback::judge::audit::PanelAudit;
use plumbline_feedback::judge::pairs::Chosen;
use plumbline_feedback::judge::runtime::Backend;
use plumbline_feedback::judge::{JudgeRuntime, Judgements, PanelJudgements};
use plumbline_feedback::measure::Estimate;
use plumbline_feedback::report::{Report, Section};

/// Maximum number of answering models that a report names.
const MODELS: usize = 5;

/// Counts under stable names; `pairs` counts the labelled ones.
pub(super) fn counts(
    found: &prompts::Prompts,
    responses: &[Vec<Sampled>],
    chosen: &[Chosen],
    judged: &PanelJudgements,
    audit: &PanelAudit,
    parts: &[(Split, Vec<Preference>); 2],
) -> BTreeMap<String, i64> {
    let all = || responses.iter().flatten();
    let c = &audit.comparisons;
    let records = parts.iter().map(|(_, part)| part.len() as i64).sum::<i64>();
    let mut counts: BTreeMap<String, i64> = [
        ("prompts", found.prompts.len() as i64),
        ("duplicate_prompts", found.duplicates as i64),
        ("responses", all().count() as i64),
        ("empty_responses", chosen.iter().map(|c| c.empty as i64).sum()),
        ("cut_responses", all().filter(|r| r.cut).count() as i64),
        ("similar_pairs", chosen.iter().map(|c| c.too_similar as i64).sum()),
        ("compared_pairs", judged.outcomes.len() as i64),
        ("pairs", records),
        ("unsure_pairs", c.labels - records),
        ("ties", c.ties),
        ("dropped_pairs", c.dropped),
        ("failed_pairs", c.failed),
        ("conflicts", c.conflicts),
        ("questions", judged.judges.iter().map(|judge| judge.verdicts.len() as i64).sum()),
        ("implausible_usage", judged.judges.iter().map(|judge| judge.implausible).sum()),
        ("train", parts[0].1.len() as i64),
        ("validation", parts[1].1.len() as i64),
    ]
    .into_iter()
    .map(|(name, n)| (name.to_owned(), n))
    .collect();
    // Only failures: first, second and tie are reported by the biases.
    let failures = audit.verdicts().into_iter().filter(|(kind, _)| !["first", "second", "tie"].contains(kind));
    counts.extend(failures.map(|(kind, n)| (kind.to_owned(), n)));
    if audit.judges.len() > 1 {
        counts.insert("partial_pairs".into(), audit.partial);
    }
    counts
}

/// A summary: the records first, then what was skipped, then the judge's self-consistency.
pub(super) fn headline(audit: &PanelAudit, counts: &BTreeMap<String, i64>) -> String {
    let n = |name: &str| counts.get(name).copied().unwrap_or_default();
    let left_out = [
        (n("unsure_pairs"), "below minConfidence"),
        (n("ties"), "ties"),
        (n("dropped_pairs"), "dropped"),
        (n("failed_pairs"), "without a verdict"),
    ];
    let left_out: Vec<String> =
        left_out.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    let left_out = if left_out.is_empty() { String::new() } else { format!(", left out: {}", left_out.join(", ")) };
    let names: Vec<&str> = audit.judges.iter().map(|(name, _)| name.as_str()).collect();
    let (by, how) = if let Some(alone) = audit.alone() {
        let conflict = alone.position.and_then(|p| p.conflict_rate);
        let how =
            |r: Estimate| format!("; the two orders of the judge conflict in {:.1} % of the pairs", 100.0 * r.value);
        (names.concat(), conflict.map(how))
    } else {
        let how = |r: Estimate| format!("; two of them prefer the same response in {:.1} %", 100.0 * r.value);
        (names.join(", "), audit.agreement.map(how))
    };
    format!(
        "{} records ({} train, {} validation) from {} pairs compared by the judge{} {by}{left_out}{}",
        n("pairs"),
        n("train"),
        n("validation"),
        n("compared_pairs"),
        if names.len() > 1 { "s" } else { "" },
        how.unwrap_or_default()
    )
}

/// Adds the facts of the dataset: its inputs, generator and judges.
pub(super) fn describe(
    report: &mut Report,
    document: &RunDocument,
    generator: &Generator,
    (judges, judged): (&[JudgeRuntime], &PanelJudgements),
    counts: &BTreeMap<String, i64>,
) {
    let prompts = format!("{} prompts, {} duplicates left out", counts["prompts"], counts["duplicate_prompts"]);
    report.fact("Prompts", prompts);
    let sampling = &generator.sampling;
    report.fact(
        "Responses",
        format!(
            "{} per prompt from {}, temperature {}, top-p {}, top-k {}, at most {} tokens, seed {}",
            generator.responses_per_prompt,
            generator.model.as_ref().map_or("", |m| m.uri.as_str()),
            sampling.temperature,
            sampling.top_p,
            sampling.top_k,
            sampling.max_new_tokens,
            sampling.seed
        ),
    );
    for (runtime, said) in judges.iter().zip(&judged.judges) {
        let named = |fact: &str| {
            if judges.len() > 1 { format!("{fact}, {}", runtime.spec.name) } else { fact.to_owned() }
        };
        describe_judge(report, &named, runtime, said);
    }
    if let (Some(amount), [_, _, ..]) = (&judged.cost.amount, judges) {
        let currency = judged.cost.currency.as_deref().unwrap_or_default();
        report.fact("Cost of the judges", format!("{amount} {currency}, {} requests", judged.cost.requests));
    }
    let digest = |role: &str| document.input(role).map(|i| i.digest.as_str());
    let own = digest("generator.model");
    let is_own = |i: usize| digest(&format!("judges[{i}].model")).is_some_and(|model| Some(model) == own);
    if (0..judges.len()).any(is_own) {
        report.sections.push(Section::Notice {
            title: "Judge and generator are the same model".into(),
            text: "The judge has the same weights as the model that wrote the responses, and may prefer what it would \
                   have written itself. Measure the result with a judge of another family, or without a judge."
                .into(),
        });
    }
}

/// Adds a judge's model and settings. `named` adds the judge's name to a fact's name if there are several judges.
fn describe_judge(report: &mut Report, named: &dyn Fn(&str) -> String, runtime: &JudgeRuntime, said: &Judgements) {
    let judge = &runtime.spec;
    let how = match &runtime.backend {
        Backend::Lexicon(_) => "word list".to_owned(),
        Backend::Endpoint(_) => {
            format!("{:?}, {:?}, label from {:?}", runtime.prompt.mode, runtime.prompt.api, judge.label_source)
        }
    };
    report.fact(named("Judge"), format!("{} ({}): {how}", judge.name, runtime.model_name()));
    let templates: BTreeSet<&str> = said.plan.questions.iter().map(|q| runtime.prompt.template_name(q)).collect();
    report.fact(named("Questions"), templates.into_iter().collect::<Vec<_>>().join(", "));
    if !said.models.is_empty() {
        let models: Vec<String> = said.models.iter().take(MODELS).cloned().collect();
        let more = said.models.len().saturating_sub(MODELS);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        report.fact(named("Answered by"), models.join(", ") + &more);
    }
    let told: BTreeSet<String> = said.dialects.iter().flat_map(|dialect| dialect.told()).collect();
    if !told.is_empty() {
        report.fact(named("Asked with"), told.into_iter().collect::<Vec<_>>().join("; "));
    }
    if said.implausible > 0 {
        let text = "replies with an impossible token count; the most that they can cost is charged instead";
        report.fact(named("Implausible usage"), format!("{} {text}", said.implausible));
    }
    if let Some(amount) = &said.cost.amount {
        let currency = said.cost.currency.as_deref().unwrap_or_default();
        report.fact(named("Cost of the judge"), format!("{amount} {currency}, {} requests", said.cost.requests));
    }
}
