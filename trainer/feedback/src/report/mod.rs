//! The report of a stage, and how it is written and read (IO). Its parts (`section`), its renderings (`html`, `svg`,
//! `card`, `format`, `tensorboard`) and the counts of unused records (`left_out`) compute; `progress` and `metrics`
//! write while a stage runs.
//!
//! Reports contain no timestamps and no local paths, so the same run writes the same bytes anywhere.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::Path;

use plumbline_crds::Kind;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{Error, Result};

pub mod card;
pub mod format;
pub mod html;
pub mod left_out;
pub mod metrics;
pub mod progress;
pub mod section;
pub mod svg;
pub mod tensorboard;

pub use format::{decimal, status_name};
pub use left_out::{LeftOut, Why};
pub use metrics::{History, MetricsWriter};
pub use progress::Progress;
pub use section::{Number, Sample, SampleScore, Section, Series, Unit};

/// Name of the report for programs; [`Report::read`] reads it back.
pub const REPORT_JSON: &str = "report.json";
/// Name of the report for people.
pub const REPORT_HTML: &str = "report.html";
/// Name of the file with the numbers of the whole chain under stable names.
pub const SUMMARY_JSON: &str = "summary.json";
/// Prefix of the names of durations: `seconds.tune`.
const SECONDS: &str = "seconds.";
/// Name of the dataset or model card.
pub const CARD: &str = "README.md";

/// The results of a stage, with the reports of its inputs.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Kind of the resource.
    pub kind: Kind,
    /// Name of the resource.
    pub name: String,
    /// Headline, one line.
    pub title: String,
    /// Base model, adapter, splits and tags, for the card.
    #[serde(default)]
    pub card: Card,
    /// Inputs and judges: shown first, and in the card.
    #[serde(default)]
    pub facts: Vec<Fact>,
    /// The numbers of this stage, for programs, under stable names: snake_case, a dot for numbers that belong together
    /// (`before.vader`, `seconds.tune`), `_low` and `_high` for the bounds of an interval (`win_rate_low`).
    #[serde(default, with = "finite_map")]
    pub summary: BTreeMap<String, f64>,
    /// Sections, in the order of the page.
    #[serde(default)]
    pub sections: Vec<Section>,
    /// Reports of the inputs, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstream: Vec<Report>,
}

/// Fields of a card's front matter for Hugging Face.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Card {
    /// The base model as the manifest names it. Only `hf://org/name` reaches the front matter: a path means nothing on
    /// another machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// Whether the artifact is a PEFT adapter of the base model.
    pub adapter: bool,
    /// Splits of a dataset that have files (`train`, `validation`), read from `data/<split>-*.jsonl`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub splits: Vec<String>,
    /// Tags in addition to those of the kind (`dpo`, `ppo`, `lora` ...).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// A label and a text.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Fact {
    /// The label.
    pub label: String,
    /// The text.
    pub text: String,
}

impl Report {
    /// An empty report.
    pub fn new(kind: Kind, name: impl Into<String>, title: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
            title: title.into(),
            card: Card::default(),
            facts: Vec::new(),
            summary: BTreeMap::new(),
            sections: Vec::new(),
            upstream: Vec::new(),
        }
    }

    /// Adds a fact.
    pub fn fact(&mut self, label: impl Into<String>, text: impl Into<String>) {
        self.facts.push(Fact { label: label.into(), text: text.into() });
    }

    /// Adds the time that the model's chat template was rendered with, if it uses the time.
    pub fn template_date(&mut self, date: Option<jiff::civil::DateTime>) {
        if let Some(date) = date {
            self.fact("Time in the chat template", date.strftime("%Y-%m-%d %H:%M:%S").to_string());
        }
    }

    /// Adds a number for programs.
    pub fn number(&mut self, name: impl Into<String>, value: f64) {
        self.summary.insert(name.into(), value);
    }

    /// Adds durations in seconds by part: a section for people, and numbers for programs.
    pub fn timings(&mut self, seconds: &BTreeMap<String, f64>) {
        self.sections.push(Section::Timings { title: "Time".into(), seconds: seconds.clone() });
        for (part, value) in seconds {
            self.number(format!("{SECONDS}{part}"), *value);
        }
    }

    /// Writes `report.json`, `report.html`, `summary.json` and `README.md` into an existing directory.
    ///
    /// # Errors
    /// `Store` if a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        self.write_without_card(folder)?;
        let path = folder.join(CARD);
        fs::write(&path, card::card(self)?).map_err(|e| Error::disk(&path, e))
    }

    /// Writes `report.json`, `report.html` and `summary.json` into an existing directory, for stages without a model or
    /// dataset.
    ///
    /// # Errors
    /// `Store` if a file cannot be written.
    pub fn write_without_card(&self, folder: &Path) -> Result<()> {
        let json = |value: serde_json::Result<String>| {
            value.map(|text| text + "\n").map_err(|e| Error::Failed(format!("the report is not JSON: {e}")))
        };
        let files = [
            (REPORT_JSON, json(serde_json::to_string(self))?),
            (REPORT_HTML, html::page(self)),
            (SUMMARY_JSON, json(serde_json::to_string_pretty(&self.summaries()))?),
        ];
        for (name, text) in files {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|e| Error::disk(&path, e))?;
        }
        Ok(())
    }

    /// Reads the report in an input's directory, for `upstream`. `None` if the directory has none, as for an imported
    /// model. Call it before any expensive work, as it can fail.
    ///
    /// # Errors
    /// `Data` if there is a report that cannot be parsed.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(REPORT_JSON);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
            Err(e) => return Err(Error::Data(format!("{}: {e}", path.display()))),
        };
        serde_json::from_slice(&text).map(Some).map_err(|e| {
            Error::Data(format!(
                "{}: expected a report of this version of Plumbline, found: {e}; run the resource that made it again",
                path.display()
            ))
        })
    }

    /// The reports of the chain in order, this one last; each resource once.
    pub(crate) fn chain(&self) -> Vec<&Self> {
        let mut chain: Vec<&Self> = Vec::new();
        let mut pending: VecDeque<&Self> = self.upstream.iter().collect();
        while let Some(report) = pending.pop_front() {
            if !chain.iter().any(|r| (r.kind, &r.name) == (report.kind, &report.name)) {
                chain.push(report);
                pending.extend(&report.upstream);
            }
        }
        chain.sort_by_key(|r| r.kind);
        chain.push(self);
        chain
    }

    /// The numbers of the whole chain: those of this stage at the top, those of its inputs under `reward_model` and
    /// `preference_dataset` (the nearest of a kind; further ones under `<kind>/<name>`), and `seconds` of all stages
    /// together.
    fn summaries(&self) -> Map<String, Value> {
        let mut out = Map::new();
        out.insert("schema_version".into(), 1.into());
        out.insert("kind".into(), self.kind.to_string().into());
        out.insert("name".into(), self.name.clone().into());
        out.extend(nested(&self.summary));
        let chain = self.chain();
        for report in chain.iter().filter(|r| !std::ptr::eq(**r, self)) {
            let kind = match report.kind {
                Kind::PreferenceDataset => "preference_dataset",
                Kind::RewardModel => "reward_model",
                Kind::PolicyTuning => "policy_tuning",
            };
            let key = if out.contains_key(kind) { format!("{kind}/{}", report.name) } else { kind.to_owned() };
            let mut numbers = Map::from_iter([("name".to_owned(), Value::from(report.name.as_str()))]);
            numbers.extend(nested(&report.summary));
            out.insert(key, numbers.into());
        }
        let mut seconds: BTreeMap<&str, f64> = BTreeMap::new();
        for (name, value) in chain.iter().flat_map(|r| &r.summary) {
            if let Some(part) = name.strip_prefix(SECONDS) {
                *seconds.entry(part).or_default() += value;
            }
        }
        out.insert("seconds".into(), json!(seconds));
        out
    }

    /// The kind in words, for a title.
    pub(crate) fn kind_in_words(&self) -> &'static str {
        match self.kind {
            Kind::PreferenceDataset => "Preference dataset",
            Kind::RewardModel => "Reward model",
            Kind::PolicyTuning => "Tuned policy",
        }
    }
}

/// Numbers as JSON, without durations: `before.vader` is nested in `before`, the bounds of an interval are a list named
/// `<name>_ci`, and values that are not finite are null.
fn nested(numbers: &BTreeMap<String, f64>) -> Map<String, Value> {
    let mut out = Map::new();
    for (name, value) in numbers.iter().filter(|(name, _)| !name.starts_with(SECONDS)) {
        let end = |of: &str, suffix: &str| numbers.get(&format!("{of}{suffix}"));
        let of = name.strip_suffix("_low").or_else(|| name.strip_suffix("_high")).filter(|n| numbers.contains_key(*n));
        match of.and_then(|of| Some((of, end(of, "_low")?, end(of, "_high")?))) {
            Some((of, low, high)) => put(&mut out, &format!("{of}_ci"), json!([low, high])),
            None => put(&mut out, name, json!(value)),
        }
    }
    out
}

/// Inserts a value at the path given by the dots in a name.
fn put(map: &mut Map<String, Value>, name: &str, value: Value) {
    match name.split_once('.').map(|(first, rest)| (map.entry(first).or_insert_with(|| json!({})), rest)) {
        Some((Value::Object(below), rest)) => put(below, rest, value),
        _ => {
            map.insert(name.to_owned(), value);
        }
    }
}

/// JSON has no NaN: values that are not finite are written as null and read as NaN.
mod finite_map {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(map: &BTreeMap<String, f64>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(map.iter().map(|(k, v)| (k, v.is_finite().then_some(*v))))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
        let map = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
        Ok(map.into_iter().map(|(k, v)| (k, v.unwrap_or(f64::NAN))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tuned policy with its reward model and its dataset, with `text` in every field that users or models write.
    pub(super) fn chain(text: &str) -> Report {
        let mut data = Report::new(Kind::PreferenceDataset, "data", "2,954 pairs");
        data.card.splits = vec!["train".into(), "validation".into()];
        data.fact("Judge", text);
        data.number("pairs", 2954.0);
        data.number("seconds.label", 200.0);
        let rows =
            vec![Number::new("pairs", 2954.0).count(), Number::new("prefers lists", f64::NAN).percent().note(text)];
        data.sections.push(Section::Numbers { title: "Labels".into(), rows });
        let (columns, rows) = (vec!["judge".into(), "cost".into()], vec![vec![text.into(), "1.50".into()]]);
        data.sections.push(Section::Table { title: "Cost".into(), columns, rows });

        let mut reward = Report::new(Kind::RewardModel, "rm", "Accuracy 74.1%");
        reward.number("accuracy", 0.741);
        reward.number("calibration_error", f64::NAN);
        reward.number("seconds.reward", 60.5);
        reward.sections.push(Section::Text { title: text.into(), text: text.into() });
        reward.upstream.push(data);

        let mut policy = Report::new(Kind::PolicyTuning, "policy", "Wins 63.2% of comparisons");
        policy.card.base_model = Some("hf://org/sft".into());
        policy.card.tags = vec!["ppo".into()];
        policy.fact("Judged by", if text == "text" { "primary" } else { text });
        for (name, value) in [
            ("win_rate", 0.632),
            ("win_rate_low", 0.58),
            ("win_rate_high", 0.681),
            ("kl", 8.25),
            ("before.vader", -0.1),
            ("after.vader", 0.4),
            ("seconds.tune", 500.0),
            ("seconds.evaluate", 90.0),
        ] {
            policy.number(name, value);
        }
        let title = "Judge and policy share weights".to_owned();
        policy.sections.push(Section::Notice { title, text: text.into() });
        let rate = Number::new("win rate", 0.632).percent().interval(0.58, 0.681).reference(0.5).note(text);
        policy.sections.push(Section::Numbers { title: "Result".into(), rows: vec![rate] });
        let history = History::from([("objective/kl".into(), (1..=80).map(|s| (s, s as f64 / 9.0)).collect())]);
        policy.sections.extend(Section::curves("KL", "nats per response", &history, &["objective/kl", "kl"]));
        policy.sections.extend(Section::curves("Entropy", "nats", &history, &["entropy"]));
        let scores = vec![SampleScore { name: text.into(), values: vec![Some(-0.5), None] }];
        let sample = Sample { prompt: text.into(), texts: vec![text.into(), text.into()], scores };
        let columns = vec!["before".into(), text.into()];
        policy.sections.push(Section::Samples { title: "Samples".into(), columns, rows: vec![sample] });
        let seconds = BTreeMap::from([(text.to_owned(), 12.5), ("update".into(), 80.0)]);
        policy.sections.push(Section::Timings { title: "Time".into(), seconds });
        policy.upstream.push(reward);
        policy
    }

    #[test]
    fn a_written_report_reads_back_and_writes_the_same_bytes() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        chain("text").write(first.path()).unwrap();
        Report::read(first.path()).unwrap().unwrap().write(second.path()).unwrap();
        for file in [REPORT_JSON, REPORT_HTML, SUMMARY_JSON, CARD] {
            assert!(
                fs::read(first.path().join(file)).unwrap() == fs::read(second.path().join(file)).unwrap(),
                "{file}"
            );
        }
    }

    #[test]
    fn an_input_may_have_no_report_but_not_a_broken_one() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Report::read(folder.path()).unwrap(), None);
        assert_eq!(Report::read(&folder.path().join("not/there")).unwrap(), None);
        fs::write(folder.path().join(REPORT_JSON), "{\"kind\": \"Pod\"}").unwrap();
        let error = Report::read(folder.path()).unwrap_err();
        assert!(matches!(&error, Error::Data(m) if m.contains(REPORT_JSON) && m.contains("Pod")), "{error}");
    }

    #[test]
    fn the_summary_has_the_numbers_of_the_whole_chain() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = chain("text");
        let mut further = Report::new(Kind::PreferenceDataset, "more", "");
        further.number("pairs", 7.0);
        report.upstream[0].upstream[0].upstream.push(further);
        report.write(folder.path()).unwrap();
        let summary: Value = serde_json::from_slice(&fs::read(folder.path().join(SUMMARY_JSON)).unwrap()).unwrap();
        let expected = json!({
            "schema_version": 1,
            "kind": "PolicyTuning",
            "name": "policy",
            "after": {"vader": 0.4},
            "before": {"vader": -0.1},
            "kl": 8.25,
            "win_rate": 0.632,
            "win_rate_ci": [0.58, 0.681],
            "preference_dataset": {"name": "data", "pairs": 2954.0},
            "preference_dataset/more": {"name": "more", "pairs": 7.0},
            "reward_model": {"name": "rm", "accuracy": 0.741, "calibration_error": null},
            "seconds": {"label": 200.0, "reward": 60.5, "tune": 500.0, "evaluate": 90.0},
        });
        assert_eq!(summary, expected);
    }

    #[test]
    fn the_summary_of_a_stage_has_no_numbers_of_later_stages() {
        let reward = chain("text").upstream.remove(0);
        let summary = Value::from(reward.summaries());
        assert_eq!((&summary["accuracy"], &summary["preference_dataset"]["pairs"]), (&json!(0.741), &json!(2954.0)));
        assert_eq!(summary["seconds"], json!({"label": 200.0, "reward": 60.5}));
        assert!(summary.get("win_rate").is_none() && summary.get("reward_model").is_none());
    }

    #[test]
    fn names_in_the_summary_are_never_lost() {
        let numbers = [("x_low", 1.0), ("y", 2.0), ("y_low", 1.0), ("z", 3.0), ("z.a.b", 4.0)];
        let numbers = numbers.map(|(name, value)| (name.to_owned(), value)).into();
        let expected = json!({"x_low": 1.0, "y": 2.0, "y_low": 1.0, "z": 3.0, "z.a.b": 4.0});
        assert_eq!(Value::from(nested(&numbers)), expected);
    }

    #[test]
    fn a_shared_input_is_one_stage_of_the_chain() {
        let mut report = chain("text");
        report.upstream.push(report.upstream[0].upstream[0].clone());
        let names: Vec<_> = report.chain().iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["data", "rm", "policy"]);
    }
}
