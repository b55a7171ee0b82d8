//! Reads the verdict from a text, for judges without log-probabilities. Computes only.
//!
//! A verdict counts only in one of these forms:
//!
//! - a text that is an answer and nothing else, or whose last line is;
//! - a field of a JSON object that is named for it (`verdict_json`);
//! - a mark made for it: `[[A]]`, `[RESULT] A`, `\boxed{A}`, `<answer>A</answer>`;
//! - a sentence that states it: "Verdict: A", "The better answer is A.".
//!
//! A heading ("Response A:"), an answer that is mentioned within a sentence, and text inside reasoning are not
//! verdicts. Different verdicts make a reply ambiguous.

use super::reasoning::{self, ONLY_REASONING};
use super::verdict::Verdict;
use super::words::{lowered, undecorated};
use super::{mark, statement, verdict_json};

/// A possible verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    First,
    Second,
    Tie,
}

/// Reads the verdict from a text.
pub fn read_text(text: &str, answers: &[String; 2], pairwise: bool) -> Verdict {
    if text.trim().is_empty() {
        return Verdict::Unparsed("the reply is empty");
    }
    let answer = reasoning::answer(text);
    if answer.is_empty() {
        return Verdict::Unparsed(ONLY_REASONING);
    }
    let reader = Reader { answers: answers.each_ref().map(|a| a.trim()), pairwise };
    let found = reader.verdicts(answer);
    match found.as_slice() {
        [first, rest @ ..] if rest.iter().all(|c| c == first) => match first {
            Choice::First => Verdict::First(None),
            Choice::Second => Verdict::Second(None),
            Choice::Tie => Verdict::Tie(None),
        },
        [_, ..] => Verdict::Ambiguous,
        [] if refuses(answer) => Verdict::Refused,
        [] => Verdict::Unparsed("the reply states no verdict"),
    }
}

/// Maximum characters of a sentence's beginning that are examined.
const MOST_BEGUN: usize = 400;

/// A line, with the beginning of its first sentence if that is on earlier lines.
struct Line<'t> {
    text: &'t str,
    begun: String,
}

pub(super) struct Reader<'a> {
    answers: [&'a str; 2],
    pairwise: bool,
}

impl Reader<'_> {
    /// Every verdict in a text.
    fn verdicts(&self, text: &str) -> Vec<Choice> {
        let (mut found, text) = verdict_json::read(text, self);
        let lines = self.lines(&text);
        let Some((last, before)) = lines.split_last() else { return found };
        if let Some(choice) = self.alone(last.text)
            && last.begun.is_empty()
        {
            // Two headings, one of them at the end, are not a verdict.
            found.push(choice);
            found.extend(before.iter().filter_map(|line| self.alone(line.text)));
        }
        let sentences: Vec<(usize, &str)> = lines
            .iter()
            .enumerate()
            .flat_map(|(at, line)| statement::sentences(line.text).map(move |sentence| (at, sentence)))
            .collect();
        // A verdict that is retracted without a replacement counts as both answers.
        let both = [Choice::First, Choice::Second];
        let begun = |i: usize| {
            let at = sentences[i].0;
            if i == 0 || sentences[i - 1].0 < at { lines[at].begun.as_str() } else { "" }
        };
        let retracted = (0..sentences.len()).rposition(|i| statement::retracts(sentences[i].1, !begun(i).is_empty()));
        for (at, line) in lines.iter().enumerate() {
            let choices = self.marked(line);
            if !choices.is_empty() && retracted.is_some_and(|retraction| sentences[retraction].0 > at) {
                found.extend(both);
            }
            found.extend(choices);
        }
        for (i, (_, sentence)) in sentences.iter().enumerate() {
            let Some(choice) = self.stated(sentence, begun(i), i + 1 == sentences.len()) else { continue };
            found.push(choice);
            if retracted.is_some_and(|at| at > i) {
                found.extend(both);
            }
        }
        found
    }

    /// The non-blank lines of a text, without quoted ones, which begin with `>`.
    fn lines<'t>(&self, text: &'t str) -> Vec<Line<'t>> {
        let (mut lines, mut apart): (Vec<Line<'t>>, bool) = (Vec::new(), false);
        for text in text.lines().map(str::trim) {
            if text.is_empty() {
                apart = true;
            } else if !text.starts_with('>') {
                let begun = lines.last().filter(|above| self.goes_on(above.text, text, apart));
                let begun = begun.map_or_else(String::new, |above| {
                    let sentence = statement::sentences(above.text).last().unwrap_or_default();
                    let begun = above.begun.clone() + " " + sentence;
                    // Of a very long sentence, only its end.
                    begun.chars().skip(begun.chars().count().saturating_sub(MOST_BEGUN)).collect()
                });
                lines.push(Line { text, begun });
                apart = false;
            }
        }
        lines
    }

    fn goes_on(&self, line: &str, next: &str, apart: bool) -> bool {
        let mark = mark::at_end(next).any(|(before, _)| !before.contains(char::is_alphanumeric));
        let bare = mark || self.answer(next, false).is_some();
        self.answer(line, false).is_none() && statement::goes_on(line, next, apart, bare)
    }

    /// The answer that a piece of text consists of. `any_case`: whether case is ignored for a single letter too.
    pub(super) fn answer(&self, text: &str, any_case: bool) -> Option<Choice> {
        let text = undecorated(text);
        let mut bare = text;
        if self.pairwise {
            for word in ["response", "answer", "option", "assistant", "model", "candidate", "output"] {
                if let Some(head) = bare.get(..word.len())
                    && head.eq_ignore_ascii_case(word)
                {
                    let rest = bare[word.len()..].trim_start_matches(['_', '-', ' ']);
                    bare = if rest.len() < bare.len() - word.len() { undecorated(rest) } else { bare };
                    break;
                }
            }
            if ["tie", "a tie"].iter().any(|t| text.eq_ignore_ascii_case(t)) {
                return Some(Choice::Tie);
            }
        }
        // "a" is an article: a single letter must have its own case, unless it cannot be an article here.
        let any_case = any_case || bare.len() < text.len();
        // If the answers differ only in case, case is significant.
        let cased = self.answers[0].eq_ignore_ascii_case(self.answers[1]);
        let is = |answer: &str| {
            let exact = cased || (answer.chars().count() == 1 && !any_case);
            [text, bare].iter().any(|t| if exact { *t == answer } else { t.eq_ignore_ascii_case(answer) })
        };
        match self.answers.map(is) {
            [true, _] => Some(Choice::First),
            [_, true] => Some(Choice::Second),
            _ => None,
        }
    }

    /// The answer that a line consists of. A line that ends with a colon or begins like a heading is a heading.
    fn alone(&self, line: &str) -> Option<Choice> {
        let heading = line.starts_with('#') || line.trim_end_matches(['*', '_', '`', ' ']).ends_with(':');
        if heading { None } else { self.answer(line, false) }
    }

    /// The answer in a mark that ends a line; both answers if it is conditional.
    fn marked(&self, line: &Line<'_>) -> Vec<Choice> {
        let found = mark::at_end(line.text).find_map(|(before, inside)| Some((before, self.answer(inside, false)?)));
        let Some((before, choice)) = found else { return Vec::new() };
        if !before.contains(char::is_alphanumeric) {
            return if mark::is_denied(&line.begun) { Vec::new() } else { vec![choice] };
        }
        let is_rival = |word: &str| self.answer(word, false).is_some_and(|other| other != choice);
        match mark::meaning(&format!("{} {before}", line.begun), is_rival) {
            mark::Meaning::Given => vec![choice],
            mark::Meaning::Open => vec![Choice::First, Choice::Second],
            mark::Meaning::Mentioned => Vec::new(),
        }
    }

    /// The answer that a sentence consists of stating: "Verdict: A". The last sentence of a text may state it in its
    /// last clause: "B is short, so the better answer is A.".
    fn stated(&self, sentence: &str, begun: &str, last: bool) -> Option<Choice> {
        let (before, choice) = self.named(sentence)?;
        statement::states(before, begun, last).then_some(choice)
    }

    /// Splits a sentence that ends with an answer into the words before it and the answer.
    fn named<'s>(&self, sentence: &'s str) -> Option<(&'s str, Choice)> {
        let colon = sentence.rfind(':').map(|at| (&sentence[..at], &sentence[at + 1..]));
        let verb = statement::VERBS.iter().filter_map(|verb| {
            let at = sentence.to_ascii_lowercase().rfind(verb)? + verb.len();
            Some((&sentence[..at], &sentence[at..]))
        });
        colon.into_iter().chain(verb).find_map(|(before, rest)| Some((before, self.answer(rest, false)?)))
    }
}

fn refuses(text: &str) -> bool {
    let text = lowered(text);
    ["i'm sorry", "i am sorry", "sorry, ", "i can't", "i cannot", "i won't", "i am unable", "i'm unable", "as an ai"]
        .iter()
        .any(|start| text.starts_with(start))
}

#[cfg(test)]
mod tests;
