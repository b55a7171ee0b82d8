//! What a reply means. Computes only.
//!
//! First, Second and Tie can become a label; the other kinds are outcomes of their own, each with its counter. A reply is
//! never asked for again until it reads well: that would select which pairs get a label.

use plumbline_crds::judge::{JudgeMode, LabelSource};
use serde_json::Value;

use super::question::Form;
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
    /// Probability that the judge gave to both answers together: how much of its mind was on the question.
    pub mass: f64,
}

/// Probability at which a server's sentinel for "impossible" (-9999 at OpenAI) begins.
const SENTINEL: f64 = -100.0;
/// Least probability that is taken from what a list of alternatives leaves over: below, rounding decides.
const LEAST_REST: f64 = 1e-6;

impl Verdict {
    /// Every kind's name, for counters.
    pub const KINDS: [&'static str; 9] =
        ["first", "second", "tie", "unparsed", "ambiguous", "refused", "truncated", "filtered", "transportFailed"];

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

    /// The name of the kind, as in the report and in status.
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

    /// Probability of both answers together; `None` without a probability.
    pub fn mass(&self) -> Option<f64> {
        self.soft_part().map(|s| s.mass)
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
    if mass == [0.0; 2] {
        return Verdict::Unparsed("neither answer is among the likely tokens");
    }
    let floor = least.min((1.0 - listed).max(LEAST_REST));
    let [first, second] = mass.map(|p| if p > 0.0 { p } else { floor });
    Verdict::soft(Soft { log_odds: (first / second).ln(), mass: (mass[0] + mass[1]).min(1.0) })
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

fn undecorated(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || "*_`\"'[](){}<>#.,:;!|".contains(c))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    First,
    Second,
    Tie,
}

/// Reads the verdict from a text: the whole text, a JSON object, a line that is a verdict and nothing else, or the end of
/// the text. Verdicts that differ make it ambiguous; a marker mentioned inside a sentence is no verdict.
pub fn read_text(text: &str, answers: &[String; 2], pairwise: bool) -> Verdict {
    let text = text.trim();
    if text.is_empty() {
        return Verdict::Unparsed("the reply is empty");
    }
    let reader = TextReader { answers: answers.each_ref().map(|a| a.trim()), pairwise };
    let mut found: Vec<Choice> = reader.json(text).into_iter().collect();
    if found.is_empty() {
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        for (i, line) in lines.iter().enumerate() {
            if let Some((choice, alone)) = reader.line(line)
                && (alone || i + 1 == lines.len())
            {
                found.push(choice);
            }
        }
    }
    match found.as_slice() {
        [first, rest @ ..] if rest.iter().all(|c| c == first) => match first {
            Choice::First => Verdict::First(None),
            Choice::Second => Verdict::Second(None),
            Choice::Tie => Verdict::Tie(None),
        },
        [_, ..] => Verdict::Ambiguous,
        [] if refuses(text) => Verdict::Refused,
        [] => Verdict::Unparsed("the reply names no answer where a verdict stands"),
    }
}

struct TextReader<'a> {
    answers: [&'a str; 2],
    pairwise: bool,
}

impl TextReader<'_> {
    /// The answer that a piece of text is, and nothing else.
    fn answer(&self, text: &str) -> Option<Choice> {
        let mut text = undecorated(text);
        if self.pairwise {
            for word in ["response", "answer", "option", "assistant"] {
                if let Some(head) = text.get(..word.len())
                    && head.eq_ignore_ascii_case(word)
                {
                    let rest = text[word.len()..].trim_start_matches(['_', ' ']);
                    text = if rest.len() < text.len() - word.len() { undecorated(rest) } else { text };
                }
            }
            if ["tie", "a tie"].iter().any(|t| text.eq_ignore_ascii_case(t)) {
                return Some(Choice::Tie);
            }
        }
        // "a" is an article: a single letter counts in its own case only.
        let is = |answer: &str| if answer.len() == 1 { text == answer } else { text.eq_ignore_ascii_case(answer) };
        match self.answers.map(is) {
            [true, _] => Some(Choice::First),
            [_, true] => Some(Choice::Second),
            _ => None,
        }
    }

    /// The verdict at the end of a line, and whether the line is nothing else.
    fn line(&self, line: &str) -> Option<(Choice, bool)> {
        if let Some(choice) = self.answer(line) {
            return Some((choice, true));
        }
        let lower = line.to_ascii_lowercase();
        let after = |mark: &str| lower.rfind(mark).map(|at| (&line[..at], &line[at + mark.len()..]));
        for mark in ["[result]", "[["] {
            if let Some((before, rest)) = after(mark)
                && let Some(choice) = self.answer(rest)
            {
                return Some((choice, undecorated(before).is_empty() || introduces(before) == Some(true)));
            }
        }
        let (before, rest) = after(":")?;
        Some((self.answer(rest)?, introduces(before)?))
    }

    /// The verdict in a JSON object: the whole text, or the last fenced block.
    fn json(&self, text: &str) -> Option<Choice> {
        let block = match text
            .rfind("```")
            .map(|end| &text[..end])
            .and_then(|head| head.rfind("```").map(|at| &head[at + 3..]))
        {
            Some(block) => block.trim_start_matches("json"),
            None => text,
        };
        let object: Value = serde_json::from_str(block.trim()).ok()?;
        let named = ["winner", "verdict", "answer", "better", "choice"].iter().find_map(|k| object[*k].as_str())?;
        self.answer(named)
    }
}

/// Whether words before a colon introduce a verdict: `Some(true)` if they are nothing else, `Some(false)` if they end a
/// longer sentence, `None` if they do not.
fn introduces(before: &str) -> Option<bool> {
    let before = undecorated(before).to_lowercase();
    let words: Vec<&str> = before.split_whitespace().map(undecorated).skip_while(|w| FILLERS.contains(w)).collect();
    let phrase = words.join(" ");
    let mark = MARKS.iter().find(|m| phrase == **m || phrase.ends_with(&format!(" {m}")))?;
    Some(phrase == *mark)
}

const FILLERS: [&str; 9] = ["so", "thus", "therefore", "hence", "the", "my", "final", "overall", "and"];
const MARKS: [&str; 14] = [
    "better response is",
    "better answer is",
    "better response",
    "better answer",
    "winner is",
    "verdict is",
    "answer is",
    "choice is",
    "winner",
    "verdict",
    "answer",
    "choice",
    "result",
    "preference",
];

fn refuses(text: &str) -> bool {
    let text = text.replace('\u{2019}', "'").to_lowercase();
    ["i'm sorry", "i am sorry", "sorry, ", "i can't", "i cannot", "i won't", "i am unable", "i'm unable", "as an ai"]
        .iter()
        .any(|start| text.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(first: &str, second: &str) -> [String; 2] {
        [first.into(), second.into()]
    }

    fn text(reply: &str) -> Verdict {
        read_text(reply, &answers("A", "B"), true)
    }

    #[test]
    fn the_shapes_in_which_judges_write_a_verdict_are_read() {
        for reply in [
            "A",
            " A\n",
            "A.",
            "**A**",
            "(A)",
            "[A]",
            "[[A]]",
            "\"A\"",
            "`A`",
            "Response A",
            "response_A",
            "**Response A**",
            "Answer: A",
            "Verdict: A",
            "**Verdict:** A",
            "Final verdict: [[A]]",
            "The better response is: A",
            "The better response is: **A**",
            "So the better response is: Response A.",
            "Better response: [A]",
            "[RESULT] A",
            "[RESULT] A.",
            "[RESULT] **A**",
            "[RESULT] **A**.",
            "Feedback: both are fine. [RESULT] A",
            "Result: A\nSince B is worse.",
            "A\n\nResponse A answers the question; response B does not.",
            "B has a mistake in the second line.\n\nVerdict: A",
            "I first leaned to [[B]], but on a second look [[A]]",
            "One might think the better response is: B. But the better response is: A",
            "{\"analysis\": \"B is long\", \"winner\": \"A\"}",
            "Here it is:\n```json\n{\"winner\": \"A\"}\n```",
            "```\n{\"verdict\": \"Response A\"}\n```\nDone.",
        ] {
            assert_eq!(text(reply), Verdict::First(None), "{reply:?}");
        }
        assert_eq!(text("The explanation mentions [[A]] and it ends\n[[B]]"), Verdict::Second(None));
        for reply in ["tie", "Tie.", "Verdict: tie", "The better response is: a tie", "[[tie]]"] {
            assert_eq!(text(reply), Verdict::Tie(None), "{reply:?}");
        }
    }

    #[test]
    fn what_is_no_verdict_is_never_read_as_one() {
        for reply in [
            "Response A is better.",
            "The better response is: both",
            "The better response is: ambiguous",
            "The better response is: [A/B]",
            "better response is: A because it is kinder",
            "a",
            "A good question deserves a good answer.",
            "Both are about equal.",
            "[[C]]",
            "A or B",
            "AB",
            "{\"winner\": \"both\"}",
            "{\"winner\": 1}",
            "<html><body>502 Bad Gateway</body></html>",
            "\u{0}\u{1}\u{2}",
            "B is to A as C is to D",
        ] {
            assert!(matches!(text(reply), Verdict::Unparsed(_)), "{reply:?}: {:?}", text(reply));
        }
        assert!(matches!(text("  \n "), Verdict::Unparsed("the reply is empty")));
    }

    #[test]
    fn two_different_verdicts_are_ambiguous_and_two_equal_ones_are_not() {
        for reply in ["[RESULT] A\nBut on reflection [RESULT] B", "A\nB", "Verdict: A\nVerdict: B", "[[A]]\n\n[[B]]"] {
            assert_eq!(text(reply), Verdict::Ambiguous, "{reply:?}");
        }
        assert_eq!(text("Verdict: B\nAgain, the verdict: B"), Verdict::Second(None));
    }

    #[test]
    fn refusals_have_their_own_name() {
        for reply in
            ["I'm sorry, but I can't compare these.", "I can\u{2019}t help with that.", "As an AI, I have no view."]
        {
            assert_eq!(text(reply), Verdict::Refused, "{reply:?}");
        }
    }

    #[test]
    fn pointwise_answers_are_words_in_any_case_and_there_is_no_tie() {
        let read = |reply| read_text(reply, &answers("yes", "no"), false);
        assert_eq!(read("Yes."), Verdict::First(None));
        assert_eq!(read("Answer: NO"), Verdict::Second(None));
        assert!(matches!(read("tie"), Verdict::Unparsed(_)));
        assert!(matches!(read("yesterday"), Verdict::Unparsed(_)));
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
        assert!((s.mass - 0.72).abs() < 1e-9 && (s.log_odds - (0.6_f64 / 0.12).ln()).abs() < 1e-9, "{s:?}");
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
        assert!((s.mass - 0.9).abs() < 1e-12, "the floor is no label mass");
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
