//! Verdict marks such as `[[A]]`, and the effect of the words before them. Computes only.
//!
//! A mark is a verdict if it is a whole line or ends one, unless the words before it deny it ("The winner is not
//! [[A]]."), compare another answer with it ("better than [[A]]") or report it ("it ends with [[A]]").

use super::statement::{denies_in, sentences};
use super::words::{self, lowered};

const MARKS: [(&str, &str); 6] = [
    ("[[", "]]"),
    ("[result]", ""),
    ("\\boxed{", "}"),
    ("<answer>", "</answer>"),
    ("<verdict>", "</verdict>"),
    ("<winner>", "</winner>"),
];
/// Words that make a different answer the better one, or leave the choice open.
const COMPARE: [&str; 14] = [
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
    "unlike",
    "compared",
];
/// Words that name the rejected answer.
const LOSER: [&str; 8] = ["lost", "loser", "losing", "worse", "worst", "weaker", "weakest", "inferior"];
/// Words that exclude an answer.
const EXCLUDE: [&str; 10] =
    ["instead", "except", "without", "reject", "rejects", "rejected", "exclude", "wrong", "incorrect", "hardly"];
/// Words that report what a response contains.
const REPORT: [&str; 9] = ["says", "said", "claims", "claimed", "writes", "mentions", "mentioned", "quotes", "ends"];
/// Words that make a sentence conditional, wherever they are in it.
const CONDITIONS: [&str; 5] = ["if", "whether", "unless", "assuming", "suppose"];
/// Words that make the clause of a mark a guess.
const GUESSES: [&str; 8] = ["might", "may", "could", "should", "would", "perhaps", "maybe", "others"];
/// Words that begin an affirmative clause after a denial.
const TURNS: [&str; 9] = ["so", "but", "thus", "therefore", "hence", "then", "my", "the", "final"];
/// Subjects of a clause that states the choice itself.
const SUBJECTS: [&str; 10] =
    ["i", "we", "it", "winner", "verdict", "choice", "preference", "decision", "conclusion", "result"];
/// Words that begin a reason, which the verdict follows.
const REASONS: [&str; 8] = ["since", "because", "given", "although", "though", "while", "as", "despite"];

/// The meaning of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Its answer is the verdict.
    Given,
    /// Its answer is conditional or a guess.
    Open,
    /// Its answer is only mentioned.
    Mentioned,
}

/// The marks that end a line: the text before each, and its content. If a line contains several opening marks of a
/// kind, the last one is used.
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

/// Interprets the words before a mark. `is_rival`: whether a word is an answer other than the one in the mark.
///
/// The words of the mark's own clause decide. Earlier clauses only decide if the last one has no subject ("I would not,
/// in the end, choose [[B]]"); if it has one, an earlier denial refers to something else ("B does not answer, so I
/// choose [[A]]").
pub(super) fn meaning(before: &str, is_rival: impl Fn(&str) -> bool) -> Meaning {
    let text = before.trim_end_matches(|c: char| c.is_whitespace() || "*_`\"'$([{#-".contains(c));
    // Earlier sentences refer to something else.
    let sentence = if text.ends_with(['.', '!', '?']) { "" } else { sentences(text).last().unwrap_or_default() };
    let parts: Vec<&str> = sentence.split([',', ';', '\u{2014}', '\u{2013}']).collect();
    let clauses: Vec<Vec<String>> = parts.iter().map(|part| words(part)).collect();
    let (last, earlier) = clauses.split_last().map_or((&[][..], &[][..]), |(last, earlier)| (last.as_slice(), earlier));
    let conditional = clauses.iter().any(|clause| has(clause, &CONDITIONS));
    let personal = last.windows(2).any(|pair| pair == ["i", "would"]);
    if conditional || (!personal && has(last, &GUESSES)) {
        return Meaning::Open;
    }
    let rival_mark = |text: &str| text.split_whitespace().any(|word| word.contains("[[") && is_rival(word));
    let is_listed = text.ends_with('>')
        || (last.last().is_some_and(|word| word == "and") && sentence.split_whitespace().any(&is_rival))
        || parts.last().is_some_and(|part| rival_mark(part));
    if is_listed || parts.last().is_some_and(|part| is_against(part)) || has(last, &REPORT) {
        return Meaning::Mentioned;
    }
    let has_subject = last.first().is_some_and(|word| TURNS.contains(&word.as_str())) || has(last, &SUBJECTS);
    let reason = earlier.first().and_then(|clause| clause.first()).is_some_and(|word| REASONS.contains(&word.as_str()));
    let denied = rival_mark(before) || earlier.iter().any(|clause| against(clause));
    if denied && !has_subject && !reason { Meaning::Mentioned } else { Meaning::Given }
}

/// Whether the clause that a mark ends contradicts the mark's answer. Only the words just before a colon count: those
/// further ahead describe the choice, as in "It does not rhyme: [[A]]" and "Better response (A or B): [[A]]".
fn is_against(clause: &str) -> bool {
    const NEAR: usize = 2;
    match clause.rsplit_once(':') {
        None => against(&words(clause)),
        Some((before, behind)) if words(behind).is_empty() => {
            let before: Vec<String> = words::words(&lowered(before)).map(str::to_owned).collect();
            let near = &before[before.len().saturating_sub(NEAR)..];
            has(near, &LOSER) || has(near, &EXCLUDE)
        }
        Some((_, behind)) => against(&words(behind)),
    }
}

/// Whether the lines before a mark on a line of its own end with a word that denies it or compares something with it.
pub(super) fn is_denied(begun: &str) -> bool {
    let words = words(begun);
    against(&words[words.len().saturating_sub(1)..])
}

/// Whether words deny or devalue what follows them.
fn against(words: &[String]) -> bool {
    let preferred_to = words.last().is_some_and(|word| word == "to")
        && words.iter().any(|word| word.starts_with("prefer") || word == "superior");
    let named = [&COMPARE[..], &LOSER, &EXCLUDE].iter().any(|of| has(words, of));
    denies_in(words.iter().map(String::as_str)) || named || preferred_to
}

fn has(words: &[String], of: &[&str]) -> bool {
    words.iter().any(|word| of.contains(&word.as_str()))
}

/// The words of a text in lower case, without a trailing name of the answer to come ("the response").
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = words::words(&lowered(text)).map(str::to_owned).collect();
    while words.last().is_some_and(|word| ["the", "response", "assistant", "model", "one"].contains(&word.as_str())) {
        words.pop();
    }
    words
}
