//! The parts that a report is composed of (computes).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::History;

/// A part of a report.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
pub enum Section {
    /// Something that a reader must not miss: judge and policy share weights, or a guard stopped the run.
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
    /// Numbers, each with its interval if there is one.
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
        /// The quantity on the x axis: `step`.
        x_label: String,
        /// The quantity on the y axis, with its unit.
        y_label: String,
        /// The lines.
        series: Vec<Series>,
    },
    /// Texts side by side.
    Samples {
        /// Headline.
        title: String,
        /// The labels of a sample's texts: `before`, `after`; or `chosen`, `rejected`.
        columns: Vec<String>,
        /// The samples.
        rows: Vec<Sample>,
    },
    /// Durations by part.
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
    /// Its label.
    pub label: String,
    /// The value; one that is not finite was not computable, and is shown as such.
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
    /// How it was measured, and on how many items.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// How a number is shown.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum Unit {
    /// Four significant digits.
    #[default]
    Plain,
    /// A fraction, shown in percent.
    Percent,
    /// An integer, with thousands separators.
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
    /// One text per column.
    pub texts: Vec<String>,
    /// Scores of the texts, one entry per kind of score.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<SampleScore>,
}

/// A score of each text of a sample.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct SampleScore {
    /// Its label: `reward`, `p(better)`.
    pub name: String,
    /// One per column; `None` if there is none.
    pub values: Vec<Option<f64>>,
}

impl Number {
    /// A plain number.
    pub fn new(label: impl Into<String>, value: f64) -> Self {
        Self { label: label.into(), value, unit: Unit::Plain, interval: None, reference: None, note: String::new() }
    }

    /// Shows the value, a fraction, in percent.
    #[must_use]
    pub fn percent(mut self) -> Self {
        self.unit = Unit::Percent;
        self
    }

    /// Shows the value as a count.
    #[must_use]
    pub fn count(mut self) -> Self {
        self.unit = Unit::Count;
        self
    }

    /// Shows the value, in seconds, as a duration.
    #[must_use]
    pub fn seconds(mut self) -> Self {
        self.unit = Unit::Seconds;
        self
    }

    /// Adds a 95 % interval.
    #[must_use]
    pub fn interval(mut self, low: f64, high: f64) -> Self {
        self.interval = Some((low, high));
        self
    }

    /// Adds the value of no effect.
    #[must_use]
    pub fn reference(mut self, value: f64) -> Self {
        self.reference = Some(value);
        self
    }

    /// Adds a note.
    #[must_use]
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

    /// The curves over steps of those metrics in `names` that were logged; `None` if none was.
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

/// JSON has no NaN: values that are not finite are written as null and read as NaN.
mod finite {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
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
