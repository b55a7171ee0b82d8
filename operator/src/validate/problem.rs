//! One thing that is wrong with a manifest, as people read it. Computes only.

use std::fmt;

use crate::printable::line;

/// A problem: `FILE:LINE: Kind/name: spec.path[0].field: expected ..., found ...; do ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// File, as named on the command line.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// `Kind/name`, or the kind; empty when it is not known.
    pub subject: String,
    /// Path of the field; empty when the problem is not in a field.
    pub path: String,
    /// Expected, found, what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", line(&self.file), self.line)?;
        for part in [&self.subject, &self.path] {
            if !part.is_empty() {
                write!(f, "{}: ", line(part))?;
            }
        }
        f.write_str(&line(&self.message))
    }
}

/// A problem before it is known where the resource stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Path of the field (`spec.judges[0].answers`).
    pub path: String,
    /// Expected, found, what to do.
    pub message: String,
}

impl Finding {
    /// A finding at a path.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// The longest text that is compared with known names, in bytes: it takes the product of the lengths.
const LONGEST_NAME: usize = 256;

/// The name among `known` that was probably meant.
pub(super) fn nearest<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if found.len() > LONGEST_NAME {
        return None;
    }
    let lower = found.to_lowercase();
    known
        .map(|name| (strsim::damerau_levenshtein(&lower, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= 1 + name.chars().count() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// `A, B or C`.
pub(crate) fn alternatives(names: &[&str]) -> String {
    match names {
        [] => "nothing".into(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_near_and_nothing_far_is_offered() {
        let known = || ["batchSize", "microBatchSize", "epochs"].into_iter();
        assert_eq!(nearest("batchsize", known()), Some("batchSize"));
        assert_eq!(nearest("epoch", known()), Some("epochs"));
        assert_eq!(nearest("temperature", known()), None);
    }

    #[test]
    fn a_problem_reads_file_line_resource_path_and_message() {
        let mut problem = Problem {
            file: "run.yaml".into(),
            line: 7,
            subject: "RewardModel/r".into(),
            path: "spec.loss".into(),
            message: "expected a, found b; do c".into(),
        };
        assert_eq!(problem.to_string(), "run.yaml:7: RewardModel/r: spec.loss: expected a, found b; do c");
        problem.path = String::new();
        assert_eq!(problem.to_string(), "run.yaml:7: RewardModel/r: expected a, found b; do c");
    }
}
