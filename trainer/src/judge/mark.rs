//! Marks that are made for verdicts, `[[A]]`, and what the words before one say about it. Computes only.
//!
//! A mark is a verdict where it is all of a line, or ends one. It is none where the words before it deny it ("The winner is
//! not [[A]]."), compare another answer with it ("better than [[A]]") or report it ("it ends with [[A]]").

use super::statement::{denies_in, sentences};
use super::verdict::{self, lowered};

const MARKS: [(&str, &str); 6] = [
    ("[[", "]]"),
    ("[result]", ""),
    ("\\boxed{", "}"),
    ("<answer>", "</answer>"),
    ("<verdict>", "</verdict>"),
    ("<winner>", "</winner>"),
];
/// Words that make another answer than the marked one the better of two, or leave the choice open between them.
const COMPARE: [&str; 22] = [
    "than",
    "over",
    "against",
    "versus",
    "vs",
    "or",
    "beats",
    "beat",
    "outperforms",
    "surpasses",
    "loses",
    "lose",
    "lost",
    "loser",
    "losing",
    "worse",
    "worst",
    "weaker",
    "weakest",
    "inferior",
    "unlike",
    "compared",
];
/// Words that exclude an answer.
const EXCLUDE: [&str; 10] =
    ["instead", "except", "without", "reject", "rejects", "rejected", "exclude", "wrong", "incorrect", "hardly"];
/// Words that report what a response says.
const REPORT: [&str; 9] = ["says", "said", "claims", "claimed", "writes", "mentions", "mentioned", "quotes", "ends"];
/// Words of a condition, wherever in a sentence.
const CONDITIONS: [&str; 5] = ["if", "whether", "unless", "assuming", "suppose"];
/// Words of a guess, in the clause of a mark.
const GUESSES: [&str; 8] = ["might", "may", "could", "should", "would", "perhaps", "maybe", "others"];
/// Words that a clause begins with which holds whatever was denied before it.
const TURNS: [&str; 10] = ["so", "but", "thus", "therefore", "hence", "and", "then", "my", "the", "final"];
/// Words that begin a reason, after which the verdict follows.
const REASONS: [&str; 4] = ["since", "because", "given", "although"];

/// What a mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The answer in it is the verdict.
    Given,
    /// It is one only under a condition, or perhaps.
    Open,
    /// It is only mentioned.
    Mentioned,
}

/// The marks that end a line: the text before each, and what is in it. Two opening marks of a kind are two mentions, of which
/// the last is read.
pub(super) fn at_end(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let lower = line.to_ascii_lowercase();
    MARKS.iter().filter_map(move |(open, close)| {
        let at = lower.rfind(open)?;
        let rest = line[at + open.len()..].trim().trim_end_matches(|c: char| "*_`$. ".contains(c));
        let inside = rest.get(..rest.len().checked_sub(close.len())?)?;
        let closed = rest[inside.len()..].eq_ignore_ascii_case(close);
        closed.then(|| (&line[..at], inside))
    })
}

/// What the words before a mark say about it. `is_rival`: whether a word is an answer other than the one in the mark.
pub(super) fn meaning(before: &str, is_rival: impl Fn(&str) -> bool) -> Meaning {
    let text = before.trim_end_matches(|c: char| c.is_whitespace() || "*_`\"'$([{#>-".contains(c));
    // What an earlier sentence says is said of something else.
    let sentence = if text.ends_with(['.', '!', '?']) { "" } else { sentences(text).last().unwrap_or_default() };
    let clauses: Vec<&str> = sentence.split([',', ';', '\u{2014}', '\u{2013}']).collect();
    let (last, earlier) = clauses.split_last().map_or(("", &[][..]), |(last, earlier)| (*last, earlier));
    let words = words(last);
    let earlier: Vec<Vec<String>> = earlier.iter().map(|clause| self::words(clause)).collect();
    let conditional = has(&words, &CONDITIONS) || earlier.iter().any(|clause| has(clause, &CONDITIONS));
    let personal = words.windows(2).any(|pair| pair == ["i", "would"]);
    if conditional || (!personal && has(&words, &GUESSES)) {
        return Meaning::Open;
    }
    if against(&words) || has(&words, &REPORT) || last.split_whitespace().any(&is_rival) {
        return Meaning::Mentioned;
    }
    let rival_mark = before.split_whitespace().any(|word| word.contains("[[") && is_rival(word));
    let denied = rival_mark || earlier.iter().any(|clause| against(clause));
    let turns = words.first().is_some_and(|word| TURNS.contains(&word.as_str())) && words != ["and"];
    let reason = words.is_empty()
        && matches!(&earlier[..], [only] if only.first().is_some_and(|w| REASONS.contains(&w.as_str())));
    if denied && !turns && !reason { Meaning::Mentioned } else { Meaning::Given }
}

/// Whether the lines before a mark that is all of its line begin a sentence that denies it. That they mention something is
/// no matter: the mark is a line of its own.
pub(super) fn is_denied(begun: &str) -> bool {
    against(&words(begun))
}

/// Whether words are against what they are said of.
fn against(words: &[String]) -> bool {
    let preferred_to = words.last().is_some_and(|word| word == "to")
        && words.iter().any(|word| word.starts_with("prefer") || word == "superior");
    denies_in(words.iter().map(String::as_str)) || has(words, &COMPARE) || has(words, &EXCLUDE) || preferred_to
}

fn has(words: &[String], of: &[&str]) -> bool {
    words.iter().any(|word| of.contains(&word.as_str()))
}

/// The words of a text in lower case. What only names an answer to come ("the response") is left out at the end.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = verdict::words(&lowered(text)).map(str::to_owned).collect();
    while words.last().is_some_and(|word| ["the", "response", "assistant", "model", "one"].contains(&word.as_str())) {
        words.pop();
    }
    words
}
