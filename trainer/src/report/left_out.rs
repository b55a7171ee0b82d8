//! How many records a stage read, and how many of them it did not use, by reason. Computes only.
//!
//! Every stage counts by this, and shows it in the same way: in its report, in `summary.json`, in the status, and from there
//! on the screen.

use std::collections::BTreeMap;

use super::{Report, Section};

/// Why a record is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It does not fit the model's context or `maxLength`.
    TooLong,
    /// Nothing of it can be learnt: a prompt, a response or a text without tokens.
    Empty,
    /// Both responses of a pair are the same tokens.
    Equal,
    /// An equal record came before.
    Duplicate,
}

impl Why {
    /// The name in `summary.json`, after `left_out_`; the words of the report have spaces.
    fn name(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Empty => "empty",
            Self::Equal => "equal_as_tokens",
            Self::Duplicate => "duplicate",
        }
    }
}

/// What was read and what was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// What a record is: `pairs`, `texts`, `prompts`.
    what: &'static str,
    read: usize,
    by: BTreeMap<Why, usize>,
    /// Records that are used, of which the chat template changed a response.
    changed: usize,
}

impl LeftOut {
    /// Nothing read yet.
    pub fn new(what: &'static str) -> Self {
        Self { what, read: 0, by: BTreeMap::new(), changed: 0 }
    }

    /// Counts records that were read, those that are left out among them.
    pub fn read(&mut self, records: usize) {
        self.read += records;
    }

    /// Counts a record that is left out.
    pub fn add(&mut self, why: Why) {
        self.add_all(why, 1);
    }

    /// Counts records that are left out.
    pub fn add_all(&mut self, why: Why, records: usize) {
        if records > 0 {
            *self.by.entry(why).or_default() += records;
        }
    }

    /// Counts a record that is used, of which the chat template changed a response.
    pub fn changed(&mut self) {
        self.changed += 1;
    }

    /// Adds the counts of another part of the same records.
    pub fn merge(&mut self, other: &Self) {
        self.read += other.read;
        self.changed += other.changed;
        for (why, records) in &other.by {
            self.add_all(*why, *records);
        }
    }

    /// How many are left out.
    pub fn total(&self) -> usize {
        self.by.values().sum()
    }

    /// The numbers by name: `records`, `left_out`, and for each reason `left_out_too_long` and the like.
    pub fn numbers(&self) -> BTreeMap<String, i64> {
        let mut numbers =
            BTreeMap::from([("records".to_owned(), self.read as i64), ("left_out".to_owned(), self.total() as i64)]);
        numbers.extend(self.by.iter().map(|(why, n)| (format!("left_out_{}", why.name()), *n as i64)));
        if self.changed > 0 {
            numbers.insert("changed_by_template".to_owned(), self.changed as i64);
        }
        numbers
    }

    /// `20 of 24 pairs (18 too long, 2 equal as tokens)`.
    pub fn words(&self) -> String {
        let by: Vec<String> = self.by.iter().map(|(why, n)| format!("{n} {}", why.name().replace('_', " "))).collect();
        let by = if by.is_empty() { String::new() } else { format!(" ({})", by.join(", ")) };
        format!("{} of {} {}{by}", self.total(), self.read, self.what)
    }

    /// Puts the counts into a report: numbers and a fact; a notice where something is left out, before all others where it
    /// is most of the records. `limit` says what is too long.
    pub fn show(&self, report: &mut Report, limit: &str) {
        for (name, value) in self.numbers() {
            report.number(name, value as f64);
        }
        let (left_out, what) = (self.total(), self.what);
        report.fact("Records", format!("{} {what} read, {} used", self.read, self.read - left_out));
        let mut notices = Vec::new();
        if left_out > 0 {
            let most = 2 * left_out > self.read;
            let all = format!("{}{} left out", what[..1].to_uppercase(), &what[1..]);
            let title = if most { format!("{all}: most of them") } else { all };
            notices.push(Section::Notice { title, text: format!("{} were left out. {limit}", self.words()) });
        }
        if self.changed > 0 {
            notices.push(Section::Notice {
                title: "The chat template changed responses".into(),
                text: format!(
                    "Of {} {what} the chat template wrote a response otherwise than it is in the data: parts were dropped or trimmed. What was learnt is what the template wrote.",
                    self.changed
                ),
            });
        }
        report.sections.splice(0..0, notices);
    }
}

#[cfg(test)]
mod tests {
    use plumbline_crds::Kind;

    use super::*;

    #[test]
    fn what_is_left_out_is_counted_by_reason_and_most_of_it_is_said_first() {
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
        counts.show(&mut report, "Too long is more than 8 tokens.");
        assert_eq!(report.sections[0].title(), "Pairs left out: most of them");
        assert_eq!((report.summary["records"], report.summary["left_out"]), (12.0, 7.0));
        assert_eq!(report.facts[0].text, "12 pairs read, 5 used");
    }

    #[test]
    fn nothing_left_out_is_a_count_of_zero_and_no_notice() {
        let mut counts = LeftOut::new("texts");
        counts.read(3);
        let mut report = Report::new(Kind::PolicyTuning, "p", "t");
        counts.show(&mut report, "");
        assert!(report.sections.is_empty() && report.summary["left_out"] == 0.0);
    }
}
