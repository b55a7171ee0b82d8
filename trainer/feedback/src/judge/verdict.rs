//! What a reply means. Computes only.
//!
//! First, Second and Tie can become a label; the other kinds are outcomes of their own, each with its counter. A reply is
//! never asked for again until it reads well: that would select which pairs get a label.

use crate::measure::sigmoid;

/// What a judge said about one question. First and second are the answers of the judge's `answers`: for a pairwise
/// question the response shown first and second, for a pointwise one good and bad.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The first answer, with its probability when there is one.
    First(Option<SoftVerdict>),
    /// The second answer.
    Second(Option<SoftVerdict>),
    /// Neither.
    Tie(Option<SoftVerdict>),
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
pub struct SoftVerdict {
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

    /// Probability of the first answer: 1, 0 or 1/2 for a verdict without one; `None` for what is no verdict.
    pub fn probability(&self) -> Option<f64> {
        match self {
            Self::First(Some(s)) | Self::Second(Some(s)) | Self::Tie(Some(s)) => Some(sigmoid(s.log_odds)),
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
