//! What came of a judge's questions, as far as they are answered. Computes only.
//!
//! Of each question its verdict is kept, not its reply: that is in the journal.

use std::collections::{BTreeMap, BTreeSet};

use super::dialect::Dialect;
use super::tripwire::Tripwire;
use super::verdict::Verdict;
use super::wire::Reply;

/// What came of a question.
#[derive(Debug)]
pub(super) enum Answer {
    /// A reply, with its verdict.
    Verdict(Verdict),
    /// Refused for its content.
    Filtered(String),
    /// No reply.
    Failed(String),
}

/// What came of all questions.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// One for each question, in order.
    pub(super) verdicts: Vec<Option<Verdict>>,
    /// Why questions had no reply or no verdict, with how often.
    pub(super) reasons: BTreeMap<String, i64>,
    /// Models that answered, by their own word.
    pub(super) models: BTreeSet<String>,
    /// How the server was asked.
    pub(super) dialects: BTreeSet<Dialect>,
    /// Ids of the replies to later turns.
    pub(super) later_turns: Vec<String>,
    /// Questions with a reply.
    pub(super) answered: usize,
    /// Whether one of them has a verdict.
    pub(super) usable: bool,
    /// Why the first question without a reply has none.
    pub(super) failed: Option<(usize, String)>,
    /// Whether the judge is asked further.
    pub(super) tripwire: Tripwire,
}

impl Answers {
    /// For so many questions.
    pub(super) fn of(questions: usize) -> Self {
        Self { verdicts: vec![None; questions], ..Self::default() }
    }

    /// Notes what came of a question.
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

    /// Notes who replied, and how it was asked.
    pub(super) fn heard(&mut self, reply: &Reply) {
        self.models.extend(reply.model.clone());
        self.dialects.insert(reply.dialect);
    }
}
