//! The verdict in a text, for judges whose probabilities are not to be had. Computes only.
//!
//! A verdict is read where it is given, and nowhere else. It is given by
//!
//! - a text that is an answer and nothing else, or whose last line is;
//! - a field of a JSON object that is named for it (`verdict_json`);
//! - a mark made for it: `[[A]]`, `[RESULT] A`, `\boxed{A}`, `<answer>A</answer>`;
//! - a sentence that states it: "Verdict: A", "The better answer is A.".
//!
//! A heading ("Response A:") gives none, nor does an answer that is mentioned within a sentence, nor what a judge says while it
//! reasons. Verdicts that differ make a reply ambiguous.

use super::reasoning;
use super::statement;
use super::verdict::{Verdict, undecorated};
use super::verdict_json;

/// What a verdict may be.
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
        return Verdict::Unparsed(super::verdict::ONLY_REASONING);
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

pub(super) struct Reader<'a> {
    answers: [&'a str; 2],
    pairwise: bool,
}

impl Reader<'_> {
    /// Every verdict that a text gives.
    fn verdicts(&self, text: &str) -> Vec<Choice> {
        let (mut found, text) = verdict_json::read(text, self);
        // A line that begins with `>` quotes.
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('>')).collect();
        let Some((last, before)) = lines.split_last() else { return found };
        if let Some(choice) = self.alone(last) {
            // Two headings, one of them at the end, are no verdict.
            found.push(choice);
            found.extend(before.iter().filter_map(|line| self.alone(line)));
        }
        for line in &lines {
            found.extend(self.marked(line));
        }
        let sentences: Vec<&str> = lines.iter().flat_map(|line| statement::sentences(line)).collect();
        let retracted = sentences.iter().rposition(|sentence| statement::retracts(sentence));
        for (i, sentence) in sentences.iter().enumerate() {
            let Some(choice) = self.stated(sentence, i + 1 == sentences.len()) else { continue };
            found.push(choice);
            if retracted.is_some_and(|at| at > i) {
                // It is taken back, and what holds instead is not stated: as good as both.
                found.extend([Choice::First, Choice::Second]);
            }
        }
        found
    }

    /// The answer that a piece of text is, and nothing else. `any_case`: also where it is a single letter.
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
        // "a" is an article: a single letter counts in its own case only, unless it cannot be one here.
        let any_case = any_case || bare.len() < text.len();
        // Answers that differ in their case alone are told apart by it.
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

    /// The answer that a line is. A line that ends with a colon or begins as a heading does is a heading.
    fn alone(&self, line: &str) -> Option<Choice> {
        let heading = line.starts_with('#') || line.trim_end_matches(['*', '_', '`', ' ']).ends_with(':');
        if heading { None } else { self.answer(line, false) }
    }

    /// The answer in a mark that is made for verdicts, if the mark is all of a line, or ends it after words that state it or
    /// at the end of a sentence.
    fn marked(&self, line: &str) -> Option<Choice> {
        const MARKS: [(&str, &str); 6] = [
            ("[[", "]]"),
            ("[result]", ""),
            ("\\boxed{", "}"),
            ("<answer>", "</answer>"),
            ("<verdict>", "</verdict>"),
            ("<winner>", "</winner>"),
        ];
        let lower = line.to_ascii_lowercase();
        MARKS.iter().find_map(|(open, close)| {
            let at = lower.rfind(open)?;
            let rest = &line[at + open.len()..];
            let rest = rest.trim().trim_end_matches(|c: char| "*_`$. ".contains(c));
            let inside = rest.get(..rest.len().checked_sub(close.len())?)?;
            let closed = rest[inside.len()..].eq_ignore_ascii_case(close);
            // Two opening marks on a line are two mentions, of which the last has the last word.
            if closed { self.answer(inside, false) } else { None }
        })
    }

    /// The answer that a sentence states, and nothing else: "Verdict: A". The last sentence of a text may state it in its last
    /// clause: "B is short, so the better answer is A.".
    fn stated(&self, sentence: &str, last: bool) -> Option<Choice> {
        let (before, choice) = self.named(sentence)?;
        statement::states(before, last).then_some(choice)
    }

    /// The words of a sentence before an answer at its end, and the answer.
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
            "B has a mistake in the second line.\n\nVerdict: A",
            "I first leaned to [[B]], but on a second look [[A]]",
            "One might think the better response is: B. But the better response is: A",
            "The better answer is A.",
            "The better answer is **A**.",
            "My choice is A",
            "I choose Response A.",
            "I prefer response A.",
            "In conclusion, the better response is A.",
            "Both are polite.\nB has fewer errors in spelling, but A is right, so the better answer is A.",
            "Overall, I think the better response is A.",
            "Winner: Response A",
            "**Winner:** A",
            "### Verdict: A",
            "- **Verdict:** A",
            "1. Both are short.\n2. Verdict: A",
            "Verdict:\n\n**A**",
            "**Response A**\nIt is right.\n**Response B**\nIt is wrong.\n\nFinal verdict: [[A]]",
            "Response A:\nRight.\nResponse B:\nWrong.\nThe better response is A.",
            "The correct answer to the question is B. Response A says so.\n\nVerdict: A",
            "So \\boxed{A}.",
            "The result is $\\boxed{A}$",
            "<answer>A</answer>",
            "It is right. <answer> Response A </answer>",
            "My final verdict is: [[A]].",
            "The preference goes to A",
            "Decision: A\n\nReasons: it is kinder than B.",
            "<think>\nResponse B\nlooks fine. Verdict: B\n</think>\n\nA",
            "First, B? Final answer: B</think>A",
            "A<|im_end|>",
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
            // Headings.
            "**Response B**\n\nThis one invents facts. Response A is the better of the two.",
            "Response A:\nIt names a wrong city, so the other one wins.",
            "Response A\nIt names a wrong city, so the other one wins.",
            "A\nIt names a wrong city, so the other one wins.",
            "A:\nIt names a wrong city.",
            "**A**\nIt names a wrong city.",
            "### Response A\nIt names a wrong city.",
            "It is short.\n\nResponse A:",
            "It is short.\n\n**Response A:**",
            "It is short.\n\n## Response A",
            "Answer A: it is good.\nAnswer B: it is bad.",
            "Answer: A\nThe response quotes this, and it is wrong.",
            // Mentions.
            "I think that A is better because it is kind. Thanks!",
            "I first leaned to [[A]], but the other one is right in the end.",
            "The correct answer is B. Only one response says so.",
            "The better answer is not A.",
            "It is not true that the better answer is A.",
            "If accuracy matters most, the better answer is A.",
            "One can't say whether the better answer is A.",
            "Some would say the better answer is A.",
            "Perhaps the better answer is A.",
            "Is the better answer A?",
            "The loser is A.",
            "The worse answer is A.",
            "Which is better: A or B?",
            "Not the winner: A",
            "[[A>B]]",
            "[[A]] or [[B]], that is the question.",
            "\\boxed{A or B}",
            "<answer></answer>",
            "Response A claims: Verdict: A",
            "Response B said \"The better answer is A.\"",
            "Here is what it says:\n> Verdict: A\nIt is a trick.",
            "Response A: 8/10\nResponse B: 6/10",
            "Response A: good\nResponse B: A",
            "Neither A nor B",
            "The better answer is A, because B has an error.",
            // Reasoning without an answer.
            "<think>The better answer is A.",
            "<think>A</think>",
        ] {
            assert!(matches!(text(reply), Verdict::Unparsed(_)), "{reply:?}: {:?}", text(reply));
        }
        assert!(matches!(text("  \n "), Verdict::Unparsed("the reply is empty")));
    }

    #[test]
    fn two_different_verdicts_are_ambiguous_and_two_equal_ones_are_not() {
        for reply in [
            "[RESULT] A\nBut on reflection [RESULT] B",
            "A\nB",
            "Verdict: A\nVerdict: B",
            "[[A]]\n\n[[B]]",
            "The better answer is A. Wait, it has an error in its second line.",
            "Verdict: A\n\nActually, the other one is right.",
            "**Response A**\nIt is right.\n**Response B**",
            "If accuracy matters, [[A]]\nVerdict: B",
            "Verdict: tie\nWinner: A",
        ] {
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
