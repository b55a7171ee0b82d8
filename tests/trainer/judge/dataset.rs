//! The label stage from prompts to a published dataset, with a scripted generator and a planted judge.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use plumbline_crds::artifact;
use plumbline_crds::run::{RunDocument, StageResult};
use plumbline_feedback::data::preference::{Split, read_split};
use plumbline_feedback::data::prompts::Prompt;
use plumbline_feedback::data::responses::Sampled;
use plumbline_feedback::report::{Report, Section};
use plumbline_feedback::{Error, Result};
use plumbline_testkit::judge_sim::{Config, Fault, JudgeSim};
use plumbline_trainer::stage::label::run_with;
use serde_json::{Value, json};

const PROMPTS: usize = 70;

/// A run of 70 prompts, four responses each, three pairs a prompt, in a folder.
pub(crate) fn document(root: &Path, sim: &JudgeSim, more: &Value) -> RunDocument {
    let prompts = root.join("prompts.jsonl");
    let lines: Vec<String> = (0..=PROMPTS).map(|i| format!("{{\"prompt\": \"prompt {}\"}}\n", i % PROMPTS)).collect();
    fs::write(&prompts, lines.concat()).unwrap();
    fs::create_dir_all(root.join("work")).unwrap();
    let mut spec = json!({
        "prompts": {"uri": "prompts.jsonl", "validationFraction": 0.2},
        "generator": {"model": {"uri": "hf://org/sft"}},
        "judges": [{"name": "sim", "endpoint": {"url": sim.url(), "model": "planted"}, "limits": {"concurrency": 8},
            "templates": ["builtin:pairwise-v1", "builtin:pairwise-v2"]}],
    });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({
        "resource": {"apiVersion": "plumbline.dev/v1alpha1", "kind": "PreferenceDataset", "metadata": {"name": "d"}, "spec": spec},
        "inputs": [
            {"role": "prompts", "name": "prompts.jsonl", "path": prompts, "digest": "sha256:p"},
            {"role": "generator.model", "name": "hf://org/sft", "path": "/nowhere", "digest": "sha256:m"},
        ],
        "output": root.join("out"),
        "work": root.join("work"),
    }))
    .unwrap()
}

/// Four responses a prompt; their qualities are drawn by a scramble of the prompt's number.
fn responses(prompts: &[Prompt]) -> Vec<Vec<Sampled>> {
    let of = |p: &Prompt| {
        let i: usize = p.content.to_text().trim_start_matches("prompt ").parse().unwrap();
        let quality = |s: usize| ((i * 37 + s * 53 + i * s * 11) % 101) as f64 / 25.0 - 2.0;
        (0..4).map(|s| Sampled { text: format!("words {i} {s} of quality={:.3}", quality(s)), cut: s == 3 }).collect()
    };
    prompts.iter().map(of).collect()
}

pub(crate) fn label(document: &RunDocument) -> Result<StageResult> {
    run_with(document, &mut |prompts, _| Ok(responses(prompts)))
}

/// Every file of the artifact but the manifest, which holds the time.
fn files(document: &RunDocument) -> BTreeMap<String, Vec<u8>> {
    let manifest = artifact::verify(Path::new(&document.output)).unwrap();
    let read = |path: &String| fs::read(Path::new(&document.output).join(path)).unwrap();
    manifest.files.iter().map(|f| (f.path.clone(), read(&f.path))).collect()
}

/// The files that are the same whenever and in however many attempts they are made: all but those that tell how long it
/// took.
fn content(document: &RunDocument) -> BTreeMap<String, Vec<u8>> {
    let mut files = files(document);
    files.retain(|name, _| !artifact::RECORDS.contains(&name.as_str()));
    files
}

/// The report but for the time that it took.
fn report(document: &RunDocument) -> Report {
    let mut report = Report::read(Path::new(&document.output)).unwrap().unwrap();
    report.summary.retain(|name, _| !name.starts_with("seconds."));
    report.sections.retain(|section| !matches!(section, Section::Timings { .. }));
    report
}

pub(crate) fn quality(text: &plumbline_feedback::data::Content) -> f64 {
    text.to_text().rsplit('=').next().unwrap().parse().unwrap()
}

#[test]
fn a_dataset_holds_what_was_planted_and_says_how_it_was_made() {
    let (root, sim) =
        (tempfile::tempdir().unwrap(), JudgeSim::start(Config { position_bias: 0.7, ..Config::default() }));
    let document = document(root.path(), &sim, &json!({}));
    let result = label(&document).unwrap();
    let (train, validation) = (
        read_split(Path::new(&document.output), Split::Train).unwrap(),
        read_split(Path::new(&document.output), Split::Validation).unwrap(),
    );
    assert_eq!((train.len() + validation.len()) as i64, result.counts["pairs"]);
    assert_eq!(result.counts["prompts"], 70);
    assert_eq!(result.counts["duplicatePrompts"], 1);
    assert_eq!(result.counts["responses"], 280);
    assert_eq!(result.counts["cutResponses"], 70);
    assert_eq!(result.counts["comparedPairs"], 210);
    assert_eq!(result.counts["questions"], 420);
    assert!(result.counts["pairs"] >= 200);
    let (pairs, title) = (result.counts["pairs"], &result.message);
    let splits = format!("{pairs} records ({} train, {} validation) from 210 pairs", train.len(), validation.len());
    assert!(title.starts_with(&splits), "{title}");
    let report = Report::read(Path::new(&document.output)).unwrap().unwrap();
    let Some(Section::Numbers { rows, .. }) = report.sections.first() else { panic!("{:?}", report.sections.first()) };
    assert_eq!((rows[0].label.as_str(), rows[0].value as i64), ("Records", pairs), "the first number is the records");
    for record in train.iter().chain(&validation) {
        let difference = quality(&record.chosen) - quality(&record.rejected);
        assert!(difference > 0.0, "the worse response was chosen: {record:?}");
        assert!((record.margin.unwrap() - difference).abs() < 1e-4, "{record:?}");
        assert!((record.p - 1.0 / (1.0 + (-difference).exp())).abs() < 1e-4);
        let provenance = &record.provenance.as_ref().unwrap().judges[0];
        assert_eq!((provenance.judge.as_str(), provenance.model.as_str(), provenance.orders), ("sim", "planted", 2));
        assert!((provenance.label_mass.unwrap() - 0.9).abs() < 1e-9);
    }
    let prompts_of = |records: &[plumbline_feedback::data::preference::Preference]| {
        records.iter().map(|r| r.prompt_id.clone()).collect::<std::collections::BTreeSet<_>>()
    };
    assert!(prompts_of(&train).is_disjoint(&prompts_of(&validation)), "a prompt is in one split only");
    assert!((5..25).contains(&prompts_of(&validation).len()), "{} of 70 prompts", prompts_of(&validation).len());
    let value = |name: &str| result.bias[name].parse::<f64>().unwrap();
    assert!((value("positionLogOdds") - 0.7).abs() < 1e-3 && value("firstRate") > 0.55, "{:?}", result.bias);
    assert!(result.agreement["orders"].parse::<f64>().unwrap() < 0.9);
    let files = files(&document);
    for name in [
        "data/train-00000.jsonl",
        "data/train-00000.parquet",
        "data/validation-00000.jsonl",
        "journal/replies.jsonl",
        "journal/responses.jsonl",
        "report.json",
        "report.html",
        "README.md",
    ] {
        assert!(files.contains_key(name), "{name} is missing among {:?}", files.keys());
    }
    let card = String::from_utf8_lossy(&files["README.md"]).into_owned();
    assert!(card.contains("data/validation-*.jsonl") && card.contains("hf://org/sft"), "{card}");
    let summary: Value = serde_json::from_slice(&files["summary.json"]).unwrap();
    assert_eq!(summary["duplicate_prompts"], 1.0);
    assert!((summary["position_log_odds"].as_f64().unwrap() - 0.7).abs() < 1e-3, "{summary}");
    let rate = [&summary["first_rate_ci"][0], &summary["first_rate"], &summary["first_rate_ci"][1]];
    assert!(rate.map(|v| v.as_f64().unwrap()).is_sorted_by(|a, b| a < b), "{summary}");
    assert!((summary["seconds"]["label"].as_f64().unwrap() - result.seconds["label"]).abs() < 1e-9, "{summary}");
    assert_eq!(result.artifact.unwrap().uri, document.output);
}

#[test]
fn a_run_stopped_anywhere_ends_with_the_same_bytes_and_the_same_spend() {
    let sim = JudgeSim::start(Config { latency: Duration::from_millis(2), ..Config::default() });
    let whole = tempfile::tempdir().unwrap();
    let uninterrupted = document(whole.path(), &sim, &json!({}));
    let spent = label(&uninterrupted).unwrap().cost.unwrap();
    let broken = tempfile::tempdir().unwrap();
    let document = document(broken.path(), &sim, &json!({}));
    // A generator that dies in its second chunk; then budgets that end the asking at two points; then a torn journal.
    let mut chunks = 0;
    let died = run_with(&document, &mut |prompts, _| {
        chunks += 1;
        if chunks == 2 { Err(Error::Failed("killed".into())) } else { Ok(responses(prompts)) }
    });
    assert!(matches!(died, Err(Error::Failed(_))));
    for limit in [30, 31, 222] {
        let mut limited = document.clone();
        if let plumbline_crds::Spec::PreferenceDataset(spec) = &mut limited.resource.spec {
            spec.budget.max_requests = Some(limit);
        }
        let error = label(&limited).unwrap_err();
        assert!(matches!(error, Error::BudgetExhausted(_)), "{error}");
        assert!(!Path::new(&document.output).exists(), "an unfinished dataset is nowhere");
        let journal = broken.path().join("work/journal/replies.jsonl");
        let text = fs::read_to_string(&journal).unwrap();
        assert_eq!(text.lines().count() as i64, limit);
        fs::write(&journal, text + "{\"id\": \"torn").unwrap();
    }
    let result = label(&document).unwrap();
    assert_eq!(result.cost.unwrap(), spent);
    let (one, other) = (content(&uninterrupted), content(&document));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (name, bytes) in &one {
        assert!(*bytes == other[name], "{name} differs");
    }
    assert_eq!(report(&uninterrupted), report(&document));
    let digest = |d: &RunDocument| artifact::read_manifest(Path::new(&d.output)).unwrap().digest;
    assert_eq!(digest(&uninterrupted), digest(&document));
    assert!(sim.bought().values().all(|n| *n == 2), "once for each of the two runs");
}

#[test]
fn a_gate_that_fails_says_its_numbers_and_publishes_nothing() {
    let sim = JudgeSim::start(
        Config { position_bias: 3.0, ..Config::default() }
            .faults(|n, _| (n % 10 == 0).then_some(Fault::Text("no idea"))),
    );
    let root = tempfile::tempdir().unwrap();
    let gates = json!({"gates": {"minPairs": 210, "maxConflictRate": 0.4, "maxUnparsedRate": 0.02}});
    let document = document(root.path(), &sim, &gates);
    let error = label(&document).unwrap_err();
    assert!(matches!(&error, Error::Gate(_)), "{error}");
    let text = error.to_string();
    for part in ["minPairs is 210", "maxConflictRate is 0.4", "maxUnparsedRate is 0.02", "unparsed"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    assert!(!Path::new(&document.output).exists());
    assert!(root.path().join("work/staging/report.html").exists(), "the report says why");
    assert_eq!(sim.answered(), 420);
    let mut lenient = document.clone();
    if let plumbline_crds::Spec::PreferenceDataset(spec) = &mut lenient.resource.spec {
        spec.gates = serde_json::from_value(json!({"maxConflictRate": 1})).unwrap();
    }
    let result = label(&lenient).unwrap();
    assert!(result.counts["failedPairs"] >= 30 && result.counts["unparsed"] == 42, "{:?}", result.counts);
    assert_eq!(sim.answered(), 420, "another gate asks nothing again");
}

#[test]
fn what_min_confidence_leaves_out_is_in_the_title_and_in_no_number_of_records() {
    let (root, sim) = (tempfile::tempdir().unwrap(), JudgeSim::start(Config::default()));
    let document = document(root.path(), &sim, &json!({"pairs": {"minConfidence": 0.8}}));
    let result = label(&document).unwrap();
    let (pairs, unsure) = (result.counts["pairs"], result.counts["unsurePairs"]);
    assert!(pairs > 0 && unsure > 50 && pairs + unsure + result.counts["ties"] == 210, "{:?}", result.counts);
    assert_eq!(result.counts["train"] + result.counts["validation"], pairs);
    let title = &result.message;
    assert!(
        title.starts_with(&format!("{pairs} records (")) && title.contains(&format!("{unsure} below minConfidence")),
        "{title}"
    );
}

#[test]
fn a_judge_that_tells_nothing_fails_by_default_with_its_figures_and_may_be_let_through() {
    // Position alone; noise alone is shown on a hundred prompts; answers that it would not give.
    let first = Config { quality_weight: 0.0, position_bias: 2.0, ..Config::default() };
    let elsewhere = Config { label_mass: 0.001, ..Config::default() };
    for (config, figures, gates) in [
        (
            first,
            "the two orders of 210 of 210 pairs (1.000) favour different responses: 100.0 %",
            json!({"maxConflictRate": 1}),
        ),
        (
            elsewhere,
            "spec.gates.minLabelMass is 0.01, but the judge gives its two answers a total probability of only 0.0010",
            json!({"minLabelMass": 0}),
        ),
    ] {
        let (root, sim) = (tempfile::tempdir().unwrap(), JudgeSim::start(config));
        let mut document = document(root.path(), &sim, &json!({}));
        let error = label(&document).unwrap_err();
        assert!(matches!(&error, Error::Gate(why) if why.contains(figures)), "{error}");
        assert!(!Path::new(&document.output).exists());
        if let plumbline_crds::Spec::PreferenceDataset(spec) = &mut document.resource.spec {
            spec.gates = serde_json::from_value(gates).unwrap();
        }
        let _ = label(&document);
        assert_eq!(sim.answered(), 420, "another gate asks nothing again");
    }
}

#[test]
fn a_dataset_without_one_label_says_what_became_of_the_pairs_and_of_the_questions() {
    // Every pair has a question that is refused, and there are others, so that the judge is asked to the end.
    let sim =
        JudgeSim::start(Config::default().faults(|n, _| (n % 2 == 1).then_some(Fault::Text("I'm sorry, I can't."))));
    let root = tempfile::tempdir().unwrap();
    let judge = json!([{"name": "sim", "endpoint": {"url": sim.url(), "model": "planted"}, "labelSource": "Verdict",
        "limits": {"concurrency": 1}}]);
    let document = document(root.path(), &sim, &json!({"judges": judge, "gates": {"maxUnparsedRate": 1}}));
    let error = label(&document).unwrap_err().to_string();
    for words in ["210 with a question that has no verdict", "210 x the judge refuses to answer"] {
        assert!(error.contains(words), "{words} is not in: {error}");
    }
    assert!(!error.contains("ties") && !error.contains("below minConfidence"), "{error}");
}

#[test]
fn a_lexicon_judge_labels_without_a_server_and_always_the_same() {
    let sim = JudgeSim::start(Config::default());
    let bytes = [0, 1].map(|_| {
        let root = tempfile::tempdir().unwrap();
        let lexicon = root.path().join("words.txt");
        fs::write(&lexicon, "good\t3.0\t0.5\t[3]\nbad\t-3.0\t0.5\t[-3]\n").unwrap();
        let judge = json!({"judges": [{"name": "words", "lexicon": {"uri": "words.txt"}}]});
        let mut document = document(root.path(), &sim, &judge);
        document.inputs.push(
            serde_json::from_value(
                json!({"role": "judges[0].lexicon", "name": "words.txt", "path": lexicon, "digest": "sha256:w"}),
            )
            .unwrap(),
        );
        let result = run_with(&document, &mut |prompts, _| {
            let texts = ["a good day for it", "a bad night for that", "an ordinary thing here", "nothing much to say"];
            let of = |_: &Prompt| texts.iter().map(|t| Sampled { text: (*t).into(), cut: false }).collect();
            Ok(prompts.iter().map(of).collect())
        })
        .unwrap();
        assert!(result.counts["pairs"] > 100 && result.counts["ties"] > 0, "{:?}", result.counts);
        for record in read_split(Path::new(&document.output), Split::Train).unwrap() {
            let order = ["a good day for it", "an ordinary thing here", "nothing much to say", "a bad night for that"];
            let place = |c: &plumbline_feedback::data::Content| order.iter().position(|t| *t == c.to_text()).unwrap();
            assert!(place(&record.chosen) < place(&record.rejected), "{record:?}");
        }
        content(&document)
    });
    assert_eq!(bytes[0], bytes[1]);
    assert!(!bytes[0].contains_key("journal/replies.jsonl"));
    assert_eq!(sim.requests().len(), 0);
}
