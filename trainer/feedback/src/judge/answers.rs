//! The answers to a judge's questions, as far as they have been received. Computes only.
//!
//! Only the verdict of each question is kept in memory; the reply is in the journal.

use std::collections::{BTreeMap, BTreeSet};

use super::dialect::Dialect;
use super::tripwire::Tripwire;
use super::verdict::Verdict;
use super::wire::Reply;

/// The result of a question.
#[derive(Debug)]
pub(super) enum Answer {
    /// A reply, with its verdict.
    Verdict(Verdict),
    /// The question was rejected by a content filter, for this reason.
    Filtered(String),
    /// There is no reply, for this reason.
    Failed(String),
}

/// The results of all questions.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// One verdict per question, in order; none while it has no result.
    pub(super) verdicts: Vec<Option<Verdict>>,
    /// Why questions had no reply or no verdict, with counts.
    pub(super) reasons: BTreeMap<String, i64>,
    /// Models that answered, as named in replies.
    pub(super) models: BTreeSet<String>,
    /// The dialects of the requests.
    pub(super) dialects: BTreeSet<Dialect>,
    /// Ids of the replies to later turns.
    pub(super) later_turns: Vec<String>,
    /// Number of questions with a reply.
    pub(super) answered: usize,
    /// Whether any reply has a verdict.
    pub(super) usable: bool,
    /// The first question without a reply, and the reason.
    pub(super) failed: Option<(usize, String)>,
    /// Decides whether to stop asking the judge.
    pub(super) tripwire: Tripwire,
}

impl Answers {
    /// For this number of questions.
    pub(super) fn of(questions: usize) -> Self {
        Self { verdicts: vec![None; questions], ..Self::default() }
    }

    /// Records the result of a question.
    pub(super) fn note(&mut self, question: usize, answer: Answer) {
        let (verdict, why) = match answer {
            Answer::Verdict(verdict) => {
                let why = verdict.cause().map(str::to_owned);
                (verdict, why)
            }
            Answer::Filtered(why) => (Verdict::Filtered, Some(why)),
            Answer::Failed(why) => {
                if self.failed.as_ref().is_none_or(|(first, _)| *first > question) {
                    self.failed = Some((question, why.clone()));
                }
                (Verdict::TransportFailed, Some(why))
            }
        };
        if let Some(why) = why {
            *self.reasons.entry(why).or_default() += 1;
        }
        self.verdicts[question] = Some(verdict);
    }

    /// Records the model and the dialect of a reply.
    pub(super) fn heard(&mut self, reply: &Reply) {
        self.models.extend(reply.model.clone());
        self.dialects.insert(reply.dialect);
    }
}
