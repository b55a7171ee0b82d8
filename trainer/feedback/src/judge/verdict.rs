//! The meaning of a reply. Computes only.
//!
//! First, Second and Tie can become a label; the other kinds are failures, each with its own counter. Unreadable
//! replies are not requested again: that would select which pairs get a label.

use crate::measure::sigmoid;

/// A judge's verdict on one question. First and second refer to the judge's `answers`: in a pairwise question the
/// response shown first and second, in a pointwise one good and bad.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The first answer, with its probability if there is one.
    First(Option<SoftVerdict>),
    /// The second answer.
    Second(Option<SoftVerdict>),
    /// No preference.
    Tie(Option<SoftVerdict>),
    /// The reply contains no verdict, for this reason.
    Unparsed(&'static str),
    /// The reply contains two different verdicts.
    Ambiguous,
    /// The judge refused to answer.
    Refused,
    /// The reply was truncated before its verdict.
    Truncated,
    /// The server withheld the reply, or rejected the question, because of a content filter.
    Filtered,
    /// There is no reply.
    TransportFailed,
}

/// A verdict's probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoftVerdict {
    /// Log-odds of the first answer against the second, in nats.
    pub log_odds: f64,
    /// Total probability of both answers; the rest is on other tokens. None for a judge that cannot answer anything
    /// else.
    pub mass: Option<f64>,
}

impl Verdict {
    /// Every kind's name, for counters.
    pub const KINDS: [&'static str; 9] =
        ["first", "second", "tie", "unparsed", "ambiguous", "refused", "truncated", "filtered", "transport_failed"];

    /// A verdict with a probability.
    pub fn soft(soft: SoftVerdict) -> Self {
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

    /// Probability of the first answer: 1, 0 or 1/2 for a verdict without one; `None` for a failure.
    pub fn probability(&self) -> Option<f64> {
        match self {
            Self::First(Some(s)) | Self::Second(Some(s)) | Self::Tie(Some(s)) => Some(sigmoid(s.log_odds)),
            Self::First(None) => Some(1.0),
            Self::Second(None) => Some(0.0),
            Self::Tie(None) => Some(0.5),
            _ => None,
        }
    }

    /// Log-odds of the first answer, in nats; `None` without a probability.
    pub fn log_odds(&self) -> Option<f64> {
        self.soft_part().map(|s| s.log_odds)
    }

    /// Total probability of both answers; `None` if there is none.
    pub fn mass(&self) -> Option<f64> {
        self.soft_part().and_then(|s| s.mass)
    }

    /// The reason for a failure; `None` for First, Second and Tie. `Filtered` and `TransportFailed` are described in
    /// more detail elsewhere.
    pub fn cause(&self) -> Option<&'static str> {
        match self {
            Self::First(_) | Self::Second(_) | Self::Tie(_) => None,
            Self::Unparsed(why) => Some(why),
            Self::Ambiguous => Some("the reply gives more than one answer"),
            Self::Refused => Some("the judge refuses to answer"),
            Self::Truncated => Some(
                "the reply is truncated before its verdict; a judge that reasons or explains first does not reach it: \
                 turn its reasoning off, or use a judge that answers at once",
            ),
            Self::Filtered => Some("withheld by a content filter"),
            Self::TransportFailed => Some("no reply was received"),
        }
    }

    fn soft_part(&self) -> Option<SoftVerdict> {
        match self {
            Self::First(s) | Self::Second(s) | Self::Tie(s) => *s,
            _ => None,
        }
    }
}
