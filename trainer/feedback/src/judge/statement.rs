//! Sentences that state a verdict: "The better answer is A." Computes only.

use super::words::{lowered, words};

/// Words between a statement and its answer.
pub(super) const VERBS: [&str; 8] =
    [" is ", " choose ", " pick ", " select ", " prefer ", " goes to ", " go with ", " vote for "];
/// Words before a statement that do not change its meaning.
const FILLERS: [&str; 22] = [
    "so",
    "thus",
    "therefore",
    "hence",
    "then",
    "the",
    "my",
    "a",
    "and",
    "but",
    "final",
    "overall",
    "in",
    "conclusion",
    "summary",
    "i",
    "think",
    "believe",
    "conclude",
    "that",
    "finally",
    "clearly",
];
/// Phrases that state a verdict anywhere in a text.
const STRONG: [&str; 26] = [
    "better response",
    "better answer",
    "better one",
    "better option",
    "better",
    "best response",
    "best answer",
    "preferred",
    "preferred response",
    "preferred answer",
    "preferred option",
    "stronger response",
    "stronger answer",
    "superior response",
    "winner",
    "winning response",
    "verdict",
    "judgment",
    "judgement",
    "decision",
    "preference",
    "final answer",
    "final choice",
    "result",
    "choose",
    "prefer",
];
/// Phrases that state a verdict at the end of a text; earlier they may be about something else.
const WEAK: [&str; 10] = [
    "answer",
    "choice",
    "pick",
    "select",
    "vote for",
    "go with",
    "vote goes to",
    "verdict goes to",
    "preference goes to",
    "point goes to",
];
/// Words that make a statement conditional or open.
const OPEN: [&str; 15] = [
    "if", "whether", "unless", "might", "may", "could", "would", "should", "when", "assuming", "suppose", "perhaps",
    "maybe", "some", "others",
];
/// Words that deny a statement.
const DENY: [&str; 5] = ["not", "never", "cannot", "neither", "nor"];
/// Interjections that retract what was said if they form a clause of their own: "Actually, no".
const HALTS: [&str; 4] = ["wait", "actually", "no", "correction"];
/// Words that may precede such an interjection.
const SIGHS: [&str; 8] = ["but", "and", "hmm", "oh", "well", "or", "ah", "sorry"];
/// Words that cannot end a sentence.
const DANGLING: [&str; 14] =
    ["than", "over", "is", "the", "to", "and", "or", "of", "versus", "with", "by", "that", "choose", "prefer"];
/// Words of a line that itself states which answer is better.
const COMPARISONS: [&str; 9] =
    ["better", "best", "worse", "worst", "winner", "wins", "prefer", "preferred", "superior"];
/// Beginnings of a clause that retracts what was said.
const RETRACTIONS: [&str; 17] = [
    "on reflection",
    "on further reflection",
    "on second thought",
    "on second thoughts",
    "scratch that",
    "strike that",
    "hold on",
    "i was wrong",
    "i am wrong",
    "i made a mistake",
    "i take that back",
    "i take it back",
    "i reconsider",
    "i must reconsider",
    "i need to reconsider",
    "i have to reconsider",
    "let me reconsider",
];

/// Whether the words of a sentence before its answer state that it is the verdict: all of them together or, in the last
/// sentence of a text, those of its last clause: "B is short, so the better answer is A.". `begun`: the beginning of
/// the sentence on earlier lines, which may deny it or make it conditional.
pub(super) fn states(before: &str, begun: &str, last: bool) -> bool {
    let words = lowered(before);
    let clause = if last { words.rsplit([',', ';', '\u{2014}']).next().unwrap_or_default() } else { &words };
    let all = lowered(begun) + " " + &words;
    let each = all.split(|c: char| !c.is_alphanumeric() && c != '\'');
    let open = denies_in(each.clone()) || each.into_iter().any(|word| OPEN.contains(&word));
    // "The answer is B." may be about the question that was judged; at the end of a text it is the verdict.
    !open && (is_statement(clause, &STRONG) || (last && is_statement(clause, &WEAK)))
}

/// Whether words consist of a statement, optionally with fillers before it.
fn is_statement(words: &str, statements: &[&str]) -> bool {
    let words: Vec<&str> = self::words(words).collect();
    let words = words.strip_suffix(&["is"]).unwrap_or(&words);
    statements.iter().any(|statement| {
        let statement: Vec<&str> = statement.split(' ').collect();
        words.strip_suffix(statement.as_slice()).is_some_and(|before| before.iter().all(|w| FILLERS.contains(w)))
    })
}

/// Whether one of the words, in lower case, is a denial.
pub(super) fn denies_in<'w>(mut words: impl Iterator<Item = &'w str>) -> bool {
    words.any(|word| DENY.contains(&word) || word.ends_with("n't"))
}

/// Whether a sentence retracts what was said before it: at its start, or in a clause of its own. Within a sentence the
/// same words are about something else: "It actually answers the question.". `begun`: whether the sentence began on an
/// earlier line.
pub(super) fn retracts(sentence: &str, begun: bool) -> bool {
    let sentence = lowered(sentence);
    let clauses = sentence.split([',', ';', ':', '\u{2014}', '\u{2013}', '\u{2026}']);
    clauses.enumerate().any(|(at, clause)| {
        let words: Vec<&str> = words(clause).skip_while(|word| SIGHS.contains(word)).collect();
        let only_halts = !words.is_empty() && words.iter().all(|word| HALTS.contains(word));
        // They may also be items of a list: "grammar, correction, no errors".
        let halts = only_halts && (at == 0 || words.iter().any(|word| ["wait", "actually"].contains(word)));
        let begins = at == 0 && !begun && words.first().is_some_and(|word| ["wait", "actually"].contains(word));
        let has_begin = |start: &str| start.split(' ').eq(words.iter().copied().take(start.split(' ').count()));
        halts || begins || RETRACTIONS.iter().any(|start| has_begin(start))
    })
}

/// Whether a sentence continues on the next line. `apart`: whether a blank line follows. `bare`: whether the next line
/// is only an answer, which may also be the end of a wrapped sentence.
pub(super) fn goes_on(line: &str, next: &str, apart: bool, bare: bool) -> bool {
    let item = next.starts_with(['-', '*', '+', '#', '|']) && !next.starts_with("**");
    let heading = line.starts_with(['#', '|']) || (line.starts_with("**") && line.ends_with("**"));
    let end = line.trim_end_matches(|c: char| c.is_whitespace() || "*_`\"')\u{201d}".contains(c));
    let ended = !end.ends_with(|c: char| c.is_alphanumeric() || ",;-\u{2014}\u{2013}".contains(c));
    // "Final verdict" is a heading without its colon.
    if item || heading || ended || states(line, "", true) {
        return false;
    }
    let last = end.rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_lowercase();
    if bare {
        // An answer on a line of its own is separate, unless the line before has no full stop and cannot end there, or
        // says which is better.
        let listed = line.starts_with(['-', '*', '+']);
        let of_verdicts = line.split(|c: char| !c.is_alphanumeric()).any(|word| COMPARISONS.contains(&word));
        return DANGLING.contains(&last.as_str())
            || (!listed && DENY.contains(&last.as_str()))
            || (of_verdicts && !apart);
    }
    DANGLING.contains(&last.as_str()) || (next.starts_with(char::is_lowercase) && !apart)
}

/// Splits a line into sentences.
pub(super) fn sentences(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let end = line.char_indices().find(|(at, c)| {
            let after = line[at + c.len_utf8()..].trim_start_matches(['*', '_', '"', '\'', ')', '\u{201d}']);
            matches!(c, '.' | '!' | '?') && (after.is_empty() || after.starts_with(char::is_whitespace))
        });
        let (sentence, left) = match end {
            Some((at, _)) => {
                let after = &line[at + 1..];
                let closing = after.len() - after.trim_start_matches(['*', '_', '"', '\'', ')', '\u{201d}']).len();
                line.split_at(at + 1 + closing)
            }
            None => (line, ""),
        };
        rest = (!left.trim().is_empty()).then(|| left.trim());
        Some(sentence.trim())
    })
}
