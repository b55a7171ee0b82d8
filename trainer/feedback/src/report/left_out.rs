//! Counts the records that a stage read and those that it did not use, by reason. Computes only.
//!
//! All stages count in this way, and the counts appear alike in the report, in `summary.json` and in the status.

use std::collections::BTreeMap;

use super::{Report, Section};
use crate::data::tokens::Rendering;

/// Why a record is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It does not fit the model's context or `maxLength`.
    TooLong,
    /// It has nothing to learn from: a prompt, a response or a text without tokens.
    Empty,
    /// Both responses of a pair are the same tokens.
    Equal,
    /// It is a duplicate of an earlier record.
    Duplicate,
}

impl Why {
    /// The name in `summary.json`, after `left_out_`; the report replaces underscores by spaces.
    fn name(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Empty => "empty",
            Self::Equal => "equal_as_tokens",
            Self::Duplicate => "duplicate",
        }
    }
}

/// Counts of records that were read and skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The kind of record: `pairs`, `texts`, `prompts`.
    what: &'static str,
    read: usize,
    by: BTreeMap<Why, usize>,
    /// Used records in which the chat template removed white space around a response.
    trimmed: usize,
    /// Used records in which the chat template changed a response in another way.
    changed: usize,
    /// Records of a validation split, which this stage does not use.
    held_out: usize,
}

impl LeftOut {
    /// All counts zero.
    pub fn new(what: &'static str) -> Self {
        Self { what, read: 0, by: BTreeMap::new(), trimmed: 0, changed: 0, held_out: 0 }
    }

    /// Counts records that were read, including skipped ones.
    pub fn read(&mut self, records: usize) {
        self.read += records;
    }

    /// Counts a skipped record.
    pub fn add(&mut self, why: Why) {
        self.add_all(why, 1);
    }

    /// Counts skipped records.
    pub fn add_all(&mut self, why: Why, records: usize) {
        if records > 0 {
            *self.by.entry(why).or_default() += records;
        }
    }

    /// Counts a used record, by the effect of the chat template on its responses.
    pub fn rendered(&mut self, rendering: Rendering) {
        match rendering {
            Rendering::Whole => {}
            Rendering::Trimmed => self.trimmed += 1,
            Rendering::Changed => self.changed += 1,
        }
    }

    /// Counts records of a validation split, which were read and are reserved for later stages.
    pub fn held_out(&mut self, records: usize) {
        self.read += records;
        self.held_out += records;
    }

    /// Adds the counts of another part of the same records.
    pub fn merge(&mut self, other: &Self) {
        self.read += other.read;
        self.trimmed += other.trimmed;
        self.changed += other.changed;
        self.held_out += other.held_out;
        for (why, records) in &other.by {
            self.add_all(*why, *records);
        }
    }

    /// Total number of skipped records.
    pub fn total(&self) -> usize {
        self.by.values().sum()
    }

    /// The most frequent reason.
    pub fn main(&self) -> Option<Why> {
        self.by.iter().max_by_key(|(_, records)| **records).map(|(why, _)| *why)
    }

    /// The numbers by name: `records`, `left_out`, and one per reason such as `left_out_too_long`; also
    /// `trimmed_by_template`, `changed_by_template` and `held_out` if they are not zero.
    pub fn numbers(&self) -> BTreeMap<String, i64> {
        let mut numbers =
            BTreeMap::from([("records".to_owned(), self.read as i64), ("left_out".to_owned(), self.total() as i64)]);
        numbers.extend(self.by.iter().map(|(why, n)| (format!("left_out_{}", why.name()), *n as i64)));
        let more =
            [("trimmed_by_template", self.trimmed), ("changed_by_template", self.changed), ("held_out", self.held_out)];
        numbers.extend(more.iter().filter(|(_, n)| *n > 0).map(|(name, n)| ((*name).to_owned(), *n as i64)));
        numbers
    }

    /// `20 of 24 pairs (18 too long, 2 equal as tokens)`.
    pub fn words(&self) -> String {
        let by: Vec<String> = self.by.iter().map(|(why, n)| format!("{n} {}", why.name().replace('_', " "))).collect();
        let by = if by.is_empty() { String::new() } else { format!(" ({})", by.join(", ")) };
        format!("{} of {} {}{by}", self.total(), self.read, self.what)
    }

    /// Adds the counts to a report: numbers, a fact, and a notice if records were skipped, which comes first if most of
    /// them were. `limit` describes the length limit.
    pub fn show(&self, report: &mut Report, limit: &str) {
        for (name, value) in self.numbers() {
            report.number(name, value as f64);
        }
        let (left_out, what) = (self.total(), self.what);
        let used = self.read - left_out - self.held_out;
        let held_out = match self.held_out {
            0 => String::new(),
            n => format!(", {n} held out for validation"),
        };
        report.fact("Records", format!("{} {what} read, {used} used{held_out}", self.read));
        let mut notices = Vec::new();
        if left_out > 0 {
            let most = 2 * left_out > self.read - self.held_out;
            let all = format!("{}{} left out", what[..1].to_uppercase(), &what[1..]);
            let title = if most { format!("{all}: most of them") } else { all };
            notices.push(Section::Notice { title, text: format!("{} were left out. {limit}", self.words()) });
        }
        if self.changed > 0 {
            notices.push(Section::Notice {
                title: "The chat template changed responses".into(),
                text: format!(
                    "In {} {what} the chat template changed a response or dropped a part of it. The model was trained \
                     on what the template wrote.",
                    self.changed
                ),
            });
        }
        if self.trimmed > 0 {
            let trimmed = format!("the chat template left out the white space around a response in {}", self.trimmed);
            report.fact("Trimmed", trimmed);
        }
        report.sections.splice(0..0, notices);
    }
}

#[cfg(test)]
mod tests {
    use plumbline_crds::Kind;

    use super::*;

    #[test]
    fn skipped_records_are_counted_by_reason_and_reported_first_if_most() {
        let mut counts = LeftOut::new("pairs");
        counts.read(10);
        counts.add(Why::Equal);
        counts.add_all(Why::TooLong, 5);
        counts.add_all(Why::Duplicate, 0);
        let mut other = LeftOut::new("pairs");
        other.read(2);
        other.add(Why::Equal);
        counts.merge(&other);
        assert_eq!(counts.words(), "7 of 12 pairs (5 too long, 2 equal as tokens)");
        let numbers = [("left_out", 7), ("left_out_equal_as_tokens", 2), ("left_out_too_long", 5), ("records", 12)];
        assert_eq!(counts.numbers(), numbers.map(|(name, n)| (name.to_owned(), n)).into());
        let mut report = Report::new(Kind::PolicyTuning, "p", "t");
        report.sections.push(Section::Text { title: "Result".into(), text: String::new() });
        counts.show(&mut report, "Too long means longer than 8 tokens.");
        assert_eq!(report.sections[0].title(), "Pairs left out: most of them");
        assert_eq!((report.summary["records"], report.summary["left_out"]), (12.0, 7.0));
        assert_eq!(report.facts[0].text, "12 pairs read, 5 used");
        assert_eq!(counts.main(), Some(Why::TooLong));
    }

    #[test]
    fn held_out_records_are_neither_used_nor_skipped() {
        let mut counts = LeftOut::new("pairs");
        counts.read(3);
        counts.held_out(5);
        counts.add(Why::Equal);
        for rendering in [Rendering::Trimmed, Rendering::Whole] {
            counts.rendered(rendering);
        }
        let mut report = Report::new(Kind::PolicyTuning, "p", "t");
        counts.show(&mut report, "");
        assert_eq!(report.facts[0].text, "8 pairs read, 2 used, 5 held out for validation");
        assert_eq!(report.sections[0].title(), "Pairs left out", "one of the three that it may use");
        assert_eq!(report.sections.len(), 1, "white space alone is no alarm");
        assert_eq!((report.summary["held_out"], report.summary["trimmed_by_template"]), (5.0, 1.0));
    }

    #[test]
    fn without_skipped_records_there_is_no_notice() {
        let mut counts = LeftOut::new("texts");
        counts.read(3);
        let mut report = Report::new(Kind::PolicyTuning, "p", "t");
        counts.show(&mut report, "");
        assert!(report.sections.is_empty() && report.summary["left_out"] == 0.0);
    }
}
