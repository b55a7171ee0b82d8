//! Sentences that state a verdict: "The better answer is A." Computes only.

use super::verdict::undecorated;

/// Words between a statement and its answer.
pub(super) const VERBS: [&str; 8] =
    [" is ", " choose ", " pick ", " select ", " prefer ", " goes to ", " go with ", " vote for "];
/// Words before a statement that change nothing of it.
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
/// What states a verdict wherever it stands.
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
/// What states one at the end of a text, and may be about something else before it.
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
/// Words that leave a statement open.
const OPEN: [&str; 19] = [
    "if", "whether", "unless", "might", "may", "could", "would", "should", "when", "assuming", "suppose", "cannot",
    "not", "never", "perhaps", "maybe", "some", "others", "neither",
];

/// Whether the words of a sentence before its answer state that it is the verdict. All of them do, or, in the last sentence of
/// a text, those of its last clause: "B is short, so the better answer is A.".
pub(super) fn states(before: &str, last: bool) -> bool {
    let words = before.to_lowercase().replace('\u{2019}', "'");
    let clause = if last { words.rsplit([',', ';', '\u{2014}']).next().unwrap_or_default() } else { &words };
    let mut each = words.split(|c: char| !c.is_alphanumeric() && c != '\'');
    let open = each.any(|word| OPEN.contains(&word) || word.ends_with("n't"));
    // "The answer is B." may be about the question that was asked; at the end of a text it is not.
    !open && (is_statement(clause, &STRONG) || (last && is_statement(clause, &WEAK)))
}

/// Whether words are a statement and fillers before it.
fn is_statement(words: &str, statements: &[&str]) -> bool {
    let words = words.split_whitespace().map(undecorated);
    // Marks of a list or a heading are no words.
    let words: Vec<&str> = words.filter(|w| w.contains(char::is_alphanumeric)).collect();
    let words = words.strip_suffix(&["is"]).unwrap_or(&words);
    statements.iter().any(|statement| {
        let statement: Vec<&str> = statement.split(' ').collect();
        words.strip_suffix(statement.as_slice()).is_some_and(|before| before.iter().all(|w| FILLERS.contains(w)))
    })
}

/// Whether a sentence takes back what was said before it.
pub(super) fn retracts(sentence: &str) -> bool {
    let sentence = format!(" {} ", sentence.to_lowercase().replace('\u{2019}', "'"));
    [
        " wait",
        " actually",
        " on reflection",
        " on second thought",
        "reconsider",
        " correction",
        "scratch that",
        "i was wrong",
    ]
    .iter()
    .any(|words| sentence.contains(words))
}

/// The sentences of a line.
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
