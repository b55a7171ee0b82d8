//! What a stage shows: the types of a report, and the one function that writes all its forms. The types and the
//! renderers (`html`, `svg`, `card`, `format`) compute; [`Report::write`] and [`Report::read`] touch files, and so do `progress`
//! and `metrics`.
//!
//! A report carries no time of day and no path of the machine, so the same run writes the same bytes.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::Path;

use plumbline_crds::Kind;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Result};

pub mod card;
pub mod format;
pub mod html;
pub mod metrics;
pub mod progress;
pub mod svg;
pub mod tensorboard;

pub use format::decimal;
pub use metrics::{History, MetricsWriter};
pub use progress::Progress;

/// Name of the report for programs; [`Report::read`] reads it back.
pub const REPORT_JSON: &str = "report.json";
/// Name of the report for people.
pub const REPORT_HTML: &str = "report.html";
/// Name of the file with the numbers of the whole chain under stable names.
pub const SUMMARY_JSON: &str = "summary.json";
/// Name of the dataset or model card.
pub const CARD: &str = "README.md";

/// What a stage found and made, with the reports of what it was made from.
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
    /// What it was made from, by which judge, on what: shown first, and in the card.
    #[serde(default)]
    pub facts: Vec<Fact>,
    /// The numbers of this stage under stable names (`accuracy`, `winRate`, `winRateLow` ...), for programs.
    #[serde(default, with = "finite_map")]
    pub summary: BTreeMap<String, f64>,
    /// Shown in this order.
    #[serde(default)]
    pub sections: Vec<Section>,
    /// Reports of the inputs, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstream: Vec<Report>,
}

/// What Hugging Face reads from the front matter of a card.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Card {
    /// The base model as the manifest names it. Only `hf://org/name` reaches the front matter: a path means nothing
    /// on another machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// Whether the artifact is a PEFT adapter of the base model.
    pub adapter: bool,
    /// Splits of a dataset that have files (`train`, `validation`), read from `data/<split>-*.jsonl`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub splits: Vec<String>,
    /// Tags beside the ones that the kind gives (`dpo`, `ppo`, `lora` ...).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// A label and a text.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Fact {
    /// What it says.
    pub label: String,
    /// The fact.
    pub text: String,
}

/// A part of a report.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
pub enum Section {
    /// Something that a reader must not miss: judge and policy share weights, a guard stopped the run.
    Notice {
        /// Headline.
        title: String,
        /// Paragraphs, separated by empty lines.
        text: String,
    },
    /// Paragraphs.
    Text {
        /// Headline.
        title: String,
        /// Paragraphs, separated by empty lines.
        text: String,
    },
    /// Numbers, each with its interval where there is one.
    Numbers {
        /// Headline.
        title: String,
        /// In order.
        rows: Vec<Number>,
    },
    /// A table of texts.
    Table {
        /// Headline.
        title: String,
        /// Column headings.
        columns: Vec<String>,
        /// Rows of as many cells. A column of numbers is aligned right.
        rows: Vec<Vec<String>>,
    },
    /// Lines over a common x axis in one plot.
    Curves {
        /// Headline.
        title: String,
        /// What x is: `step`.
        x_label: String,
        /// What y is, with its unit.
        y_label: String,
        /// The lines.
        series: Vec<Series>,
    },
    /// Texts side by side.
    Samples {
        /// Headline.
        title: String,
        /// What the texts of a sample are: `before`, `after`; or `chosen`, `rejected`.
        columns: Vec<String>,
        /// The samples.
        rows: Vec<Sample>,
    },
    /// Where the time went.
    Timings {
        /// Headline.
        title: String,
        /// Seconds by part, summed over restarts.
        seconds: BTreeMap<String, f64>,
    },
}

/// A number to show.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Number {
    /// What it is.
    pub label: String,
    /// The value; not finite means that it could not be computed, and is shown so.
    #[serde(with = "finite")]
    pub value: f64,
    /// How it is shown.
    #[serde(default)]
    pub unit: Unit,
    /// 95 % interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<(f64, f64)>,
    /// The value of no effect, marked in the interval plot: 0.5 for a win rate, 0 for a bias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<f64>,
    /// How it was measured, on how many.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// How a number is shown.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum Unit {
    /// Four significant digits.
    #[default]
    Plain,
    /// A share of 1, in percent.
    Percent,
    /// A whole number, with thousands apart.
    Count,
    /// Seconds, as hours, minutes and seconds.
    Seconds,
}

/// A line of a plot.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// (x, y), x ascending. A point whose y is not finite breaks the line.
    #[serde(with = "finite_points")]
    pub points: Vec<(f64, f64)>,
}

/// A prompt and the texts that answer it.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct Sample {
    /// The prompt.
    pub prompt: String,
    /// One text a column.
    pub texts: Vec<String>,
    /// Scores of the texts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<SampleScore>,
}

/// A score of each text of a sample.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct SampleScore {
    /// What it is: `reward`, `p(better)`.
    pub name: String,
    /// One a column; `None` where there is none.
    pub values: Vec<Option<f64>>,
}

impl Number {
    /// A plain number.
    pub fn new(label: impl Into<String>, value: f64) -> Self {
        Self { label: label.into(), value, unit: Unit::Plain, interval: None, reference: None, note: String::new() }
    }

    /// Shown in percent; the value is a share of 1.
    pub fn percent(mut self) -> Self {
        self.unit = Unit::Percent;
        self
    }

    /// Shown as a count.
    pub fn count(mut self) -> Self {
        self.unit = Unit::Count;
        self
    }

    /// Shown as a duration.
    pub fn seconds(mut self) -> Self {
        self.unit = Unit::Seconds;
        self
    }

    /// With a 95 % interval.
    pub fn interval(mut self, low: f64, high: f64) -> Self {
        self.interval = Some((low, high));
        self
    }

    /// With the value of no effect.
    pub fn reference(mut self, value: f64) -> Self {
        self.reference = Some(value);
        self
    }

    /// With a note.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}

impl Section {
    /// The headline.
    pub fn title(&self) -> &str {
        match self {
            Self::Notice { title, .. }
            | Self::Text { title, .. }
            | Self::Numbers { title, .. }
            | Self::Table { title, .. }
            | Self::Curves { title, .. }
            | Self::Samples { title, .. }
            | Self::Timings { title, .. } => title,
        }
    }

    /// The metrics of `names` that were logged, as curves over steps; `None` if none was.
    pub fn curves(title: &str, y_label: &str, history: &History, names: &[&str]) -> Option<Self> {
        let line = |name: &&str| {
            let points = history.get(*name)?.iter().map(|&(step, value)| (step as f64, value)).collect();
            Some(Series { name: (*name).to_owned(), points })
        };
        let series: Vec<Series> = names.iter().filter_map(line).collect();
        let (title, y_label) = (title.to_owned(), y_label.to_owned());
        (!series.is_empty()).then_some(Self::Curves { title, x_label: "step".into(), y_label, series })
    }
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

    /// Adds a number for programs.
    pub fn number(&mut self, name: impl Into<String>, value: f64) {
        self.summary.insert(name.into(), value);
    }

    /// Writes `report.json`, `report.html`, `summary.json` and `README.md` into a folder that exists.
    ///
    /// # Errors
    /// `Store` if a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let json = |value: serde_json::Result<String>| {
            value.map(|text| text + "\n").map_err(|e| Error::Failed(format!("the report is not JSON: {e}")))
        };
        let files = [
            (REPORT_JSON, json(serde_json::to_string_pretty(self))?),
            (REPORT_HTML, html::page(self)),
            (SUMMARY_JSON, json(serde_json::to_string_pretty(&self.summaries()))?),
            (CARD, card::card(self)?),
        ];
        for (name, text) in files {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|e| Error::store(&path, &e))?;
        }
        Ok(())
    }

    /// Reads the report of an input's folder, to become a member of `upstream`. `None` if the folder has none, as an
    /// imported model. Read inputs before work is spent.
    ///
    /// # Errors
    /// `Data` if there is a report that cannot be read.
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

    /// This report and those of its inputs in the order of the chain, this one last; each resource once.
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

    /// The numbers of the whole chain: `preferenceDataset`, `rewardModel`, `policyTuning`, each with the numbers of the
    /// nearest report of that kind; further ones under `<kind>/<name>`.
    fn summaries(&self) -> serde_json::Map<String, Value> {
        let mut out = serde_json::Map::new();
        out.insert("schemaVersion".into(), 1.into());
        out.insert("kind".into(), self.kind.to_string().into());
        out.insert("name".into(), self.name.clone().into());
        let mut chain = self.chain();
        // This report first, then the inputs, the nearest of a kind before others.
        chain.rotate_right(1);
        for report in chain {
            let kind = match report.kind {
                Kind::PreferenceDataset => "preferenceDataset",
                Kind::RewardModel => "rewardModel",
                Kind::PolicyTuning => "policyTuning",
            };
            let taken = out.contains_key(kind);
            let key = if taken { format!("{kind}/{}", report.name) } else { kind.to_owned() };
            // From f64: a number that is not finite becomes null.
            let numbers = report.summary.iter().map(|(name, value)| (name.clone(), Value::from(*value)));
            out.insert(key, Value::Object(numbers.collect()));
        }
        out
    }

    /// The kind as people say it.
    pub(crate) fn kind_in_words(&self) -> &'static str {
        match self.kind {
            Kind::PreferenceDataset => "Preference dataset",
            Kind::RewardModel => "Reward model",
            Kind::PolicyTuning => "Tuned policy",
        }
    }
}

/// JSON has no NaN: what is not finite is written as null and read back as NaN.
mod finite {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}

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

mod finite_points {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(points: &[(f64, f64)], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(points.iter().map(|(x, y)| (x, y.is_finite().then_some(*y))))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(f64, f64)>, D::Error> {
        let points = Vec::<(f64, Option<f64>)>::deserialize(deserializer)?;
        Ok(points.into_iter().map(|(x, y)| (x, y.unwrap_or(f64::NAN))).collect())
    }
}
