//! Reads the verdict from a JSON object, including malformed ones. Computes only.
//!
//! Judges that are asked for JSON leave trailing commas, add text around it, or a code fence. What counts is a field
//! with one of the names for a verdict whose value is an answer, wherever it is; all such fields of a reply must agree.

use super::verdict_text::{Choice, Reader};

/// Field names without spaces, `_` and `-`.
const NAMES: [&str; 17] = [
    "winner",
    "verdict",
    "finalverdict",
    "answer",
    "finalanswer",
    "better",
    "betterresponse",
    "betteranswer",
    "best",
    "bestresponse",
    "choice",
    "decision",
    "preference",
    "preferred",
    "preferredresponse",
    "judgment",
    "judgement",
];

/// The verdicts of a text's objects, and the text without these objects, as their strings are not statements.
pub(super) fn read(text: &str, reader: &Reader<'_>) -> (Vec<Choice>, String) {
    let (mut found, mut rest, mut from) = (Vec::new(), String::new(), 0);
    while let Some(open) = text[from..].find('{').map(|at| from + at) {
        let end = end_of_object(&text[open..]).map_or(text.len(), |length| open + length);
        let verdicts = fields(&text[open..end], reader);
        rest.push_str(&text[from..open]);
        if verdicts.is_empty() {
            rest.push_str(&text[open..end]);
        }
        found.extend(verdicts);
        from = end;
    }
    rest.push_str(&text[from..]);
    (found, rest)
}

/// The length of the object at the start of a text.
fn end_of_object(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for token in (Tokens { rest: text, offset: 0 }) {
        match token.text {
            "{" => depth += 1,
            "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return Some(token.end);
        }
    }
    None
}

/// The answers in fields named for a verdict.
fn fields(object: &str, reader: &Reader<'_>) -> Vec<Choice> {
    let tokens: Vec<Token<'_>> = Tokens { rest: object, offset: 0 }.collect();
    let verdict = |window: &[Token<'_>]| {
        let [name, colon, value] = window else { return None };
        let plain: String = name.text.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
        let named = name.quoted && colon.text == ":" && NAMES.contains(&plain.as_str());
        if named && value.quoted { reader.answer(value.text, true) } else { None }
    };
    tokens.windows(3).filter_map(verdict).collect()
}

/// A quoted string, or a punctuation mark.
struct Token<'a> {
    text: &'a str,
    quoted: bool,
    end: usize,
}

/// The quoted strings and punctuation marks of JSON; any other content counts as a mark.
struct Tokens<'a> {
    rest: &'a str,
    offset: usize,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let blank = self.rest.len() - self.rest.trim_start().len();
        let rest = &self.rest[blank..];
        let first = rest.chars().next()?;
        let (text, length) = if first == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            match end {
                Some(end) => (&rest[1..=end], end + 2),
                None => (&rest[1..], rest.len()),
            }
        } else {
            (&rest[..first.len_utf8()], first.len_utf8())
        };
        self.rest = &rest[length..];
        self.offset += blank + length;
        Some(Token { text, quoted: first == '"', end: self.offset })
    }
}

#[cfg(test)]
mod tests {
    use super::super::verdict::Verdict;
    use super::super::verdict_text::read_text;

    fn text(reply: &str) -> Verdict {
        read_text(reply, &["A".into(), "B".into()], true)
    }

    #[test]
    fn only_a_field_named_for_a_verdict_counts() {
        for reply in [
            r#"{"winner": "A"}"#,
            r#"{"winner": "A", "loser answer": "B",}"#,
            r#"{"loser": "B", "winner": "A"}"#,
            r#"{"analysis": "Verdict: B is what I thought first.", "winner": "A"}"#,
            r#"{"a": {"b": [1, {"winner": "model_a"}]}}"#,
            r#"{"scores": {"A": 9, "B": 3}, "final_verdict": "Response A",}"#,
            "{\n  \"Winner\": \"a\"\n}",
            "```json\n{\"reason\": \"it is better than the other\", \"winner\": \"A\",\n}\n```\nLet me know.",
            "Here it is: {\"verdict\": \"A\"} - as you asked.",
            r#"{"winner": "A"} {"winner": "A"}"#,
            r#"{"reason": "she said \"B}\" {", "winner": "A"}"#,
            r#"{"winner": "A", "cut": "of"#,
            r#"{"answer": "42", "better_response": "[[A]]"}"#,
        ] {
            assert_eq!(text(reply), Verdict::First(None), "{reply}");
        }
        assert_eq!(text(r#"{"winner": "tie"}"#), Verdict::Tie(None));
        assert_eq!(text(r#"{"winner": "A", "winner": "B"}"#), Verdict::Ambiguous);
        assert_eq!(text("{\"winner\": \"A\"}\nVerdict: B"), Verdict::Ambiguous);
    }

    #[test]
    fn other_values_and_fields_are_not_verdicts() {
        for reply in [
            r#"{"winner": "both"}"#,
            r#"{"winner": 1}"#,
            r#"{"winner": "A or B"}"#,
            r#"{"loser": "B"}"#,
            r#"{"loser answer": "B",}"#,
            r#"{"winner": {"A": 1}}"#,
            r#"{"not the winner": "A"}"#,
            r#"["winner", "A"]"#,
            r#"{"winner" "A"}"#,
            r#"{"reason": "winner: A or B"}"#,
        ] {
            assert!(matches!(text(reply), Verdict::Unparsed(_)), "{reply}: {:?}", text(reply));
        }
    }
}
