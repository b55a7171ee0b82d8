//! What a stage shows: the types of a report, and the one function that writes all its forms. The types and the
//! renderers (`html`, `svg`, `card`) compute; [`Report::write`] and [`Report::read`] touch files, and so do `progress`
//! and `metrics`.
//!
//! A report carries no time of day and no path of the machine, so the same run writes the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use plumbline_crds::Kind;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

pub mod card;
pub mod html;
pub mod metrics;
pub mod progress;
pub mod svg;
pub mod tensorboard;

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
    /// Three significant digits.
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
    /// The metrics of `names` that were logged, as curves over steps; `None` if none was.
    pub fn curves(title: &str, y_label: &str, history: &History, names: &[&str]) -> Option<Self> {
        let _ = (title, y_label, history, names);
        todo!()
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
    pub fn write(&self, folder: &Path) -> Result<()> {
        let _ = (folder, fs::write::<&str, &str>);
        todo!()
    }

    /// Reads the report of an input's folder, to become a member of `upstream`. `None` if the folder has none, as an
    /// imported model.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let _ = (folder, Error::Data(String::new()));
        todo!()
    }
}

/// A value as the decimal that a status or a label holds: six significant digits, `NaN`, `inf` or `-inf`.
pub fn decimal(value: f64) -> String {
    let _ = value;
    todo!()
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
