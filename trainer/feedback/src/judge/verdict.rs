//! What a reply means. Computes only.
//!
//! First, Second and Tie can become a label; the other kinds are outcomes of their own, each with its counter. A reply is
//! never asked for again until it reads well: that would select which pairs get a label.

use plumbline_crds::judge::{JudgeMode, LabelSource};

use super::form::Form;
use super::log_probs;
use super::verdict_text::read_text;
use super::wire::Reply;

/// What a judge said about one question. First and second are the answers of the judge's `answers`: for a pairwise
/// question the response shown first and second, for a pointwise one good and bad.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The first answer, with its probability when there is one.
    First(Option<Soft>),
    /// The second answer.
    Second(Option<Soft>),
    /// Neither.
    Tie(Option<Soft>),
    /// The reply holds no verdict; why.
    Unparsed(&'static str),
    /// The reply holds two different verdicts.
    Ambiguous,
    /// The judge refused to answer.
    Refused,
    /// The reply was cut off before its verdict.
    Truncated,
    /// The server withheld the reply, or refused the question, for its content.
    Filtered,
    /// No reply came.
    TransportFailed,
}

/// A verdict's probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Soft {
    /// Log-odds of the first answer against the second, in nats.
    pub log_odds: f64,
    /// Probability that the judge gave to both answers together: how much of its mind was on the question. None for a
    /// judge that can say nothing else.
    pub mass: Option<f64>,
}

impl Verdict {
    /// Every kind's name, for counters.
    pub const KINDS: [&'static str; 9] =
        ["first", "second", "tie", "unparsed", "ambiguous", "refused", "truncated", "filtered", "transport_failed"];

    /// A verdict with a probability.
    pub fn soft(soft: Soft) -> Self {
        if soft.log_odds > 0.0 {
            Self::First(Some(soft))
        } else if soft.log_odds < 0.0 {
            Self::Second(Some(soft))
        } else {
            Self::Tie(Some(soft))
        }
    }

    /// The name of the kind, as in the report.
    pub fn kind(&self) -> &'static str {
        Self::KINDS[match self {
            Self::First(_) => 0,
            Self::Second(_) => 1,
            Self::Tie(_) => 2,
            Self::Unparsed(_) => 3,
            Self::Ambiguous => 4,
            Self::Refused => 5,
            Self::Truncated => 6,
            Self::Filtered => 7,
            Self::TransportFailed => 8,
        }]
    }

    /// Probability of the first answer: 1, 0 or 1/2 for a verdict without one; `None` for what is no verdict.
    pub fn probability(&self) -> Option<f64> {
        match self {
            Self::First(Some(s)) | Self::Second(Some(s)) | Self::Tie(Some(s)) => {
                Some(super::stats::sigmoid(s.log_odds))
            }
            Self::First(None) => Some(1.0),
            Self::Second(None) => Some(0.0),
            Self::Tie(None) => Some(0.5),
            _ => None,
        }
    }

    /// Log-odds of the first answer; `None` without a probability.
    pub fn log_odds(&self) -> Option<f64> {
        self.soft_part().map(|s| s.log_odds)
    }

    /// Probability of both answers together; `None` if there is none.
    pub fn mass(&self) -> Option<f64> {
        self.soft_part().and_then(|s| s.mass)
    }

    /// Why it is no label: for each kind that is not First, Second or Tie. `Filtered` and `TransportFailed` say more elsewhere.
    pub fn cause(&self) -> Option<&'static str> {
        match self {
            Self::First(_) | Self::Second(_) | Self::Tie(_) => None,
            Self::Unparsed(why) => Some(why),
            Self::Ambiguous => Some("the reply gives more than one answer"),
            Self::Refused => Some("the judge refuses to answer"),
            Self::Truncated => Some(
                "the reply is truncated before its verdict; a judge that reasons or explains first does not get to it: switch its \
                 reasoning off, or use one that answers at once",
            ),
            Self::Filtered => Some("withheld for its content"),
            Self::TransportFailed => Some("no reply came"),
        }
    }

    fn soft_part(&self) -> Option<Soft> {
        match self {
            Self::First(s) | Self::Second(s) | Self::Tie(s) => *s,
            _ => None,
        }
    }
}

/// Reads a reply.
pub fn read(form: &Form, reply: &Reply) -> Verdict {
    let finish = reply.finish.as_deref().unwrap_or_default();
    match finish {
        "content_filter" => return Verdict::Filtered,
        "refusal" => return Verdict::Refused,
        _ if reply.refusal.is_some() => return Verdict::Refused,
        _ => {}
    }
    if form.label == LabelSource::LogProbs {
        // A reply of one token always ends for its length: the probabilities are complete all the same.
        return log_probs::read(reply, &form.answers);
    }
    if matches!(finish, "length" | "max_tokens") {
        return Verdict::Truncated;
    }
    if reply.text.trim().is_empty() && reply.reasoning.is_some() {
        return Verdict::Unparsed(ONLY_REASONING);
    }
    read_text(&reply.text, &form.answers, form.mode == JudgeMode::Pairwise)
}

/// Why a reply that has reasoning and nothing after it holds no verdict.
pub(super) const ONLY_REASONING: &str = "the reply is reasoning without an answer after it; switch the model's reasoning off, or \
                                         use one without it";

/// Without spaces, brackets, quotes and emphasis around it.
///
/// Vocabularies write a space as `\u{2581}` (sentencepiece) or `\u{120}` and a line feed as `\u{10a}` (byte-level BPE),
/// and some servers repeat them so.
pub(super) fn undecorated(text: &str) -> &str {
    const AROUND: &str = "*_`\"'[](){}<>#.,:;!|\u{201c}\u{201d}\u{2018}\u{2019}\u{2581}\u{120}\u{10a}\u{109}";
    text.trim_matches(|c: char| c.is_whitespace() || AROUND.contains(c))
}

/// In lower case, with straight apostrophes.
pub(super) fn lowered(text: &str) -> String {
    text.to_lowercase().replace('\u{2019}', "'")
}

/// The words of a text. Marks of a list or a heading are none.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace().map(undecorated).filter(|word| word.contains(char::is_alphanumeric))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_reply_ended_comes_before_what_it_says() {
        let judge = serde_json::json!({"name": "j", "endpoint": {"url": "http://x", "model": "m"}, "label": "Verdict"});
        let form = Form::new(&serde_json::from_value(judge).unwrap(), "spec.judges[0]").unwrap();
        let ended = |finish: &str| Reply { text: "A".into(), finish: Some(finish.into()), ..Reply::default() };
        assert_eq!(read(&form, &ended("stop")), Verdict::First(None));
        assert_eq!(read(&form, &ended("length")), Verdict::Truncated);
        assert_eq!(read(&form, &ended("content_filter")), Verdict::Filtered);
        assert_eq!(read(&form, &Reply { refusal: Some("no".into()), ..ended("stop") }), Verdict::Refused);
    }
}
