use super::*;

fn answers(first: &str, second: &str) -> [String; 2] {
    [first.into(), second.into()]
}

fn text(reply: &str) -> Verdict {
    read_text(reply, &answers("A", "B"), true)
}

#[test]
fn common_forms_of_a_verdict_are_read() {
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
        "Because Response B does not follow the instructions, I choose [[A]].",
        "Since B isn't correct, I prefer [[A]]",
        "While B is not wrong, [[A]]",
        "B is incorrect, making the winner [[A]]",
        "Response A is better than Response B: [[A]]",
        "Response A is better, as it does not hallucinate: [[A]]",
        "Better response (A or B): [[A]]",
        "Between A and B my verdict is [[A]]",
        "After comparing A and B I choose [[A]]",
        "A careful comparison favours [[A]]",
        "- A is short\n- B is not\nA",
        "Both are fine, B is longer\nA",
        "Response A is more accurate than Response B\n[[A]]",
        "B does not answer the question\n[[A]]",
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
        // Words before a mark that do not contradict it.
        "Since B does not answer the question, [[A]]",
        "B is not correct, so [[A]]",
        "B isn't bad, but my final verdict is: [[A]]",
        "B may be shorter, but I would go with [[A]].",
        "- B is worse than it looks.\n- [[A]]",
        "Not everything in it is right. [[A]]",
        "B does not answer the question\n\n[[A]]",
        "B does not answer the question\nVerdict: [[A]]",
        "My vote goes to [[A]]",
        "- A is short\n- B is not\n\nA",
        "B is not right.\nA",
        "Final verdict\nA",
    ] {
        assert_eq!(text(reply), Verdict::First(None), "{reply:?}");
    }
    assert_eq!(text("The explanation mentions [[A]] and it ends\n[[B]]"), Verdict::Second(None));
    for reply in ["tie", "Tie.", "Verdict: tie", "The better response is: a tie", "[[tie]]"] {
        assert_eq!(text(reply), Verdict::Tie(None), "{reply:?}");
    }
}

#[test]
fn other_texts_are_never_read_as_verdicts() {
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
        "The winner is not [[A]].",
        "The winner isn\u{2019}t [[A]]",
        "I would not choose [[B]].",
        "I would not, in the end, choose [[B]].",
        "It is not, in the end, [[B]].",
        "Verdict: not [[A]]",
        "Neither [[A]] nor [[B]]",
        "[[A]]. [[B]]",
        "Response B is better than [[A]].",
        "The other one is better than Response [[A]].",
        "Response B is better than\n[[A]]",
        "Response B is worse than \\boxed{A}",
        "I prefer B over [[A]].",
        "I prefer the other one to [[A]].",
        "I would choose it rather than [[B]]",
        "I choose B instead of <answer>A</answer>",
        "It loses to [[B]]",
        "The loser is [[A]]",
        "The worse answer: [[A]]",
        "[[A]] > [[B]]",
        "[[A]] is better than [[B]]",
        "[[A]] or [[B]]",
        "[[A]], or [[B]]",
        "[[A]] vs. [[B]]",
        "[[A]], not [[B]]",
        "[[A]] beats [RESULT] B",
        "Response A ends with: [[A]]\nand says: [[A]]",
        "The answer that is better is not\n[[A]]",
        "I would never\nchoose [[A]]",
        // Sentences that continue on the next line.
        "Response A is better than\nResponse B.",
        "Response A is better than\n\nResponse B.",
        "The other one is better than\n**Response B**",
        "I would not say\nthat the better answer is A.",
        "I think A is better\nB",
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
        "If accuracy matters, [[A]]",
        "Perhaps [[A]]",
        "Verdict: A\n\nActually, no.",
        "Verdict: A\nactually, the other one is right",
        "Verdict: A\nNo, the other one is right.",
        "Verdict: A\nCorrection: the other one is.",
        "Verdict: A\nHmm, wait, it has an error.",
        "Verdict: A\nBut on second thought the other one is right.",
        "Verdict: A\nLet me reconsider.",
        "Verdict: A\nI was wrong about that.",
        "[[A]]\nWait, it has an error in its second line.",
        "<answer>A</answer>\nOn reflection, the other one is right.",
    ] {
        assert_eq!(text(reply), Verdict::Ambiguous, "{reply:?}");
    }
    for reply in [
        "The better answer is A. It actually answers the question.",
        "The better answer is A. B mentions waiting lists.",
        "The better answer is A. No errors are in it.",
        "Verdict: A\nIt needs no correction, and B does.",
        "Verdict: A\nCorrection of spelling is what was asked for.",
        "Verdict: A\nB asks the reader to reconsider the plan.",
        "Verdict: A\nThe user can wait, and is told so.",
        "Verdict: A\nB was wrong, as I was wrongly told.",
        "[[A]]\nIt actually answers the question.",
        "The better answer is A.\nB is longer because it\nactually answers two questions.",
    ] {
        assert_eq!(text(reply), Verdict::First(None), "{reply:?}");
    }
    assert_eq!(text("Verdict: B\nAgain, the verdict: B"), Verdict::Second(None));
}

#[test]
fn refusals_are_a_kind_of_their_own() {
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
