//! Separates the reasoning in a reply from the answer. Computes only.
//!
//! Reasoning models enclose their reasoning in special marks before the answer. Servers with a reasoning parser remove
//! it; others pass it through, some of them with only the closing mark, as the opening one was part of the prompt.

/// Opening and closing marks: DeepSeek, Qwen and most others; variants of these; Kimi; Magistral.
const MARKS: [(&str, &str); 6] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("\u{25c1}think\u{25b7}", "\u{25c1}/think\u{25b7}"),
    ("[THINK]", "[/THINK]"),
];
/// Mark of gpt-oss before its answer.
const FINAL: &str = "<|channel|>final<|message|>";
/// Mark of gpt-oss before its reasoning.
const ANALYSIS: &str = "<|channel|>analysis<|message|>";
/// End-of-turn marks that some servers do not remove.
const ENDS: [&str; 8] =
    ["<|im_end|>", "<|eot_id|>", "<|end|>", "<|return|>", "<|endoftext|>", "<end_of_turn>", "</s>", "<|eom_id|>"];

/// Reason: a reply with only reasoning has no verdict.
pub(super) const ONLY_REASONING: &str = "the reply is reasoning without an answer after it; turn the model's \
                                         reasoning off, or use a model without it";

/// The answer of a reply: what follows the last closed reasoning; empty if reasoning was opened and not closed. An
/// end-of-turn mark is removed.
pub fn answer(text: &str) -> &str {
    let mut rest = text;
    if let Some(at) = find(rest, FINAL) {
        rest = &rest[at + FINAL.len()..];
    } else if find(rest, ANALYSIS).is_some() {
        return "";
    }
    for (open, close) in MARKS {
        if let Some(at) = find(rest, close) {
            rest = &rest[at + close.len()..];
        }
        if find(rest, open).is_some() {
            return "";
        }
    }
    loop {
        rest = rest.trim();
        match ENDS.iter().find_map(|end| rest.strip_suffix(end)) {
            Some(shorter) => rest = shorter,
            None => return rest,
        }
    }
}

/// Whether a token opens reasoning.
pub fn opens(token: &str) -> bool {
    let token = token.trim().to_lowercase();
    token == "<|channel|>" || MARKS.iter().any(|(open, _)| open.to_lowercase() == token)
}

/// Position of the last occurrence of a mark, ignoring case.
fn find(text: &str, mark: &str) -> Option<usize> {
    text.to_ascii_lowercase().rfind(&mark.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_follows_the_reasoning() {
        for (text, expected) in [
            ("<think>\nResponse B\nlooks fine.\n</think>\n\nA", "A"),
            ("Let me think: B?\n</think>\nA", "A"),
            ("<THINK>B</THINK> A<|im_end|>\n", "A"),
            ("<think>The better answer is B.", ""),
            ("A <think>or B?", ""),
            ("<think>one</think>B<think>two</think>A</s>", "A"),
            ("[THINK]B[/THINK]A", "A"),
            ("\u{25c1}think\u{25b7}B\u{25c1}/think\u{25b7}A", "A"),
            ("<|channel|>analysis<|message|>B?<|end|><|start|>assistant<|channel|>final<|message|>A<|return|>", "A"),
            ("<|channel|>analysis<|message|>The better answer is B.", ""),
            ("I think A", "I think A"),
        ] {
            assert_eq!(answer(text), expected, "{text}");
        }
        assert!(opens("<think>") && opens(" <Think>\n") && !opens("think") && !opens("A"));
    }
}
