//! What a reply means. Computes only.
//!
//! First, Second and Tie can become a label; the other kinds are outcomes of their own, each with its counter. A reply is
//! never asked for again until it reads well: that would select which pairs get a label.

use plumbline_crds::judge::{JudgeMode, LabelSource};

use super::form::Form;
use super::verdict_text::read_text;
use super::wire::{Position, Reply};

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

/// Probability at which a server's sentinel for "impossible" (-9999 at OpenAI) begins.
const SENTINEL: f64 = -100.0;
/// Least probability that is taken from what a list of alternatives leaves over: below, rounding decides.
const LEAST_REST: f64 = 1e-6;

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
        return read_log_probs(&reply.positions, &form.answers);
    }
    if matches!(finish, "length" | "max_tokens") {
        return Verdict::Truncated;
    }
    read_text(&reply.text, &form.answers, form.mode == JudgeMode::Pairwise)
}

/// Reads the verdict from the alternatives at the first position that is not white space.
///
/// The probabilities of all spellings of an answer are summed: other case, spaces, brackets, or only its beginning
/// (" pos" for " positive") where the other answer does not begin so. An answer that is not listed has at most the
/// probability of the least likely one listed, and at most what the list leaves over; it is given that much rather than
/// nothing, so that no label is certain because a list was short.
pub fn read_log_probs(positions: &[Position], answers: &[String; 2]) -> Verdict {
    let Some(position) = positions.iter().find(|p| !p.token.trim().is_empty()) else {
        return Verdict::Unparsed(if positions.is_empty() { NO_LOG_PROBS } else { "the reply is white space" });
    };
    let (mut mass, mut listed, mut least) = ([0.0; 2], 0.0, f64::INFINITY);
    for (token, logprob) in position.top.iter().filter(|(_, l)| *l > SENTINEL) {
        let p = logprob.min(0.0).exp();
        listed += p;
        least = least.min(p);
        if let Some(answer) = answer_of_token(token, answers) {
            mass[answer] += p;
        }
    }
    if mass.iter().all(|m| *m <= 0.0) {
        return Verdict::Unparsed("neither answer is among the likely tokens");
    }
    let floor = least.min((1.0 - listed).max(LEAST_REST));
    let [first, second] = mass.map(|p| if p > 0.0 { p } else { floor });
    Verdict::soft(Soft { log_odds: (first / second).ln(), mass: Some((mass[0] + mass[1]).min(1.0)) })
}

/// Why a reply without log-probabilities holds no soft label.
pub const NO_LOG_PROBS: &str = "the reply has no log-probabilities";

/// Which answer a token writes or begins.
fn answer_of_token(token: &str, answers: &[String; 2]) -> Option<usize> {
    let token = plain(token);
    if token.is_empty() {
        return None;
    }
    let answers = [plain(&answers[0]), plain(&answers[1])];
    if let Some(exact) = answers.iter().position(|a| *a == token) {
        return Some(exact);
    }
    match [answers[0].starts_with(&token), answers[1].starts_with(&token)] {
        [true, false] => Some(0),
        [false, true] => Some(1),
        _ => None,
    }
}

/// Lower case without spaces and, where a word is left, without brackets and quotes around it.
fn plain(text: &str) -> String {
    let bare = undecorated(text);
    (if bare.is_empty() { text.trim() } else { bare }).to_lowercase()
}

/// Without spaces, brackets, quotes and emphasis around it.
pub(super) fn undecorated(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || "*_`\"'[](){}<>#.,:;!|".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(first: &str, second: &str) -> [String; 2] {
        [first.into(), second.into()]
    }

    fn position(token: &str, top: &[(&str, f64)]) -> Position {
        Position { token: token.into(), top: top.iter().map(|(t, p)| ((*t).into(), p.ln())).collect() }
    }

    fn soft(verdict: &Verdict) -> Soft {
        match verdict {
            Verdict::First(Some(s)) | Verdict::Second(Some(s)) | Verdict::Tie(Some(s)) => *s,
            other => panic!("no probability: {other:?}"),
        }
    }

    #[test]
    fn every_spelling_of_an_answer_counts() {
        let p = position(
            "A",
            &[("A", 0.3), (" A", 0.2), ("(A", 0.05), ("**A", 0.05), ("B", 0.1), (" b", 0.02), ("The", 0.1)],
        );
        let s = soft(&read_log_probs(&[p], &answers("A", "B")));
        assert!((s.mass.unwrap() - 0.72).abs() < 1e-9 && (s.log_odds - (0.6_f64 / 0.12).ln()).abs() < 1e-9, "{s:?}");
        let p = position(" pos", &[(" pos", 0.5), (" Positive", 0.1), (" neg", 0.1), (" n", 0.05), (" great", 0.1)]);
        let s = soft(&read_log_probs(&[p], &answers(" positive", " negative")));
        assert!((s.log_odds - (0.6_f64 / 0.15).ln()).abs() < 1e-9, "beginnings of a word count: {s:?}");
        let p = position("gr", &[("gr", 0.5), ("great", 0.3), ("grim", 0.1)]);
        let s = soft(&read_log_probs(&[p], &answers("great", "grim")));
        assert!((s.log_odds - 3.0_f64.ln()).abs() < 1e-9, "a beginning that both share says nothing: {s:?}");
    }

    #[test]
    fn a_missing_answer_gets_a_floor_and_the_label_is_never_certain() {
        let p = position("A", &[("A", 0.9), ("The", 0.05), ("I", 0.001)]);
        let s = soft(&read_log_probs(&[p], &answers("A", "B")));
        assert!((s.log_odds - (0.9_f64 / 0.001).ln()).abs() < 1e-9, "the least likely listed token bounds it: {s:?}");
        assert!((s.mass.unwrap() - 0.9).abs() < 1e-12, "the floor is no label mass");
        let one = position("A", &[("A", 0.9)]);
        let s = soft(&read_log_probs(&[one], &answers("A", "B")));
        assert!((s.log_odds - 9.0_f64.ln()).abs() < 1e-9, "with one token listed, the rest bounds it: {s:?}");
        let sure = position("B", &[("B", 1.0)]);
        let p = read_log_probs(&[sure], &answers("A", "B")).probability().unwrap();
        assert!(p > 0.0 && p < 1e-5, "{p}");
        let sentinel = Position { token: "A".into(), top: vec![("A".into(), -0.001), ("B".into(), -9999.0)] };
        let p = read_log_probs(&[sentinel], &answers("A", "B")).probability().unwrap();
        assert!(p > 0.99 && p < 1.0, "a sentinel is no probability: {p}");
    }

    #[test]
    fn white_space_before_the_answer_is_skipped_and_no_answer_is_no_label() {
        let ab = answers("A", "B");
        let s = soft(&read_log_probs(&[position("\n", &[("\n", 1.0)]), position("B", &[("B", 0.8), ("A", 0.2)])], &ab));
        assert!((s.log_odds + 4.0_f64.ln()).abs() < 1e-9);
        assert_eq!(read_log_probs(&[], &ab), Verdict::Unparsed(NO_LOG_PROBS));
        assert!(matches!(read_log_probs(&[position("The", &[("The", 0.9), ("I", 0.1)])], &ab), Verdict::Unparsed(_)));
        let only_sentinels = Position { token: "A".into(), top: vec![("A".into(), -9999.0), ("B".into(), f64::NAN)] };
        assert!(matches!(read_log_probs(&[only_sentinels], &ab), Verdict::Unparsed(_)));
    }

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
