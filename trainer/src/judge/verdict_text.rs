//! The verdict in a text, for judges whose probabilities are not to be had. Computes only.
//!
//! Strict: a verdict is the whole text, a field of a JSON object, a line of its own, or the end of the text.

use serde_json::Value;

use super::verdict::{Verdict, undecorated};

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
}
