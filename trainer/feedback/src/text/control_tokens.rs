//! Control tokens in user text. A chat template writes control tokens (`<|im_end|>`) between the turns; the same
//! characters inside a turn are text, otherwise any user could end a turn and forge the next. Pure.
//!
//! Each position where a control token would begin is marked before the template sees the turn, by a character of the
//! private use area that does not occur in the conversation. Whatever a template does with a turn (cutting it, trimming
//! it) keeps the marks; they are removed before the text is tokenised.

use std::collections::HashMap;

use crate::data::Message;

/// The control tokens of a vocabulary.
pub(super) struct ControlTokens(HashMap<char, Vec<String>>);

impl ControlTokens {
    /// The tokens with these texts.
    pub(super) fn new(texts: impl IntoIterator<Item = String>) -> Self {
        let mut by_first: HashMap<char, Vec<String>> = HashMap::new();
        for text in texts {
            if let Some(first) = text.chars().next() {
                by_first.entry(first).or_default().push(text);
            }
        }
        Self(by_first)
    }

    /// A character to mark control tokens in these turns with; none if no turn contains one.
    pub(super) fn mark_for(&self, turns: &[Message]) -> Option<char> {
        let texts = || turns.iter().flat_map(|m| [m.role.as_str(), m.content.as_str()]);
        if !texts().any(|text| self.is_in(text)) {
            return None;
        }
        ('\u{f0000}'..='\u{ffffd}').find(|mark| !texts().any(|text| text.contains(*mark)))
    }

    /// The turns with `mark` after the first character of each control token in them.
    pub(super) fn marked(&self, turns: &[Message], mark: char) -> Vec<Message> {
        let marked = |m: &Message| Message { role: self.mark(&m.role, mark), content: self.mark(&m.content, mark) };
        turns.iter().map(marked).collect()
    }

    /// A text with `mark` after the first character of each control token in it.
    pub(super) fn mark(&self, text: &str, mark: char) -> String {
        let mut marked = String::with_capacity(text.len());
        for (at, first) in text.char_indices() {
            marked.push(first);
            if self.begins(&text[at..], first) {
                marked.push(mark);
            }
        }
        marked
    }

    fn is_in(&self, text: &str) -> bool {
        text.char_indices().any(|(at, first)| self.begins(&text[at..], first))
    }

    fn begins(&self, text: &str, first: char) -> bool {
        self.0.get(&first).is_some_and(|tokens| tokens.iter().any(|token| text.starts_with(token.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(content: &str) -> Message {
        Message { role: "user".into(), content: content.into() }
    }

    #[test]
    fn no_control_token_is_left_whole_even_where_two_overlap() {
        let tokens = ControlTokens::new(["<|a|>", "|><|", "<|a|><|b|>"].map(String::from));
        let marked = tokens.mark("x<|a|><|b|>y", '#');
        assert_eq!(marked, "x<#|a|#><|b|>y");
        assert!(!tokens.is_in(&marked));
        assert_eq!(tokens.mark("<|c|> a", '#'), "<|c|> a");
    }

    #[test]
    fn a_mark_is_a_character_that_no_turn_has_and_there_is_none_where_none_is_needed() {
        let tokens = ControlTokens::new(["<|a|>".to_owned()]);
        assert_eq!(tokens.mark_for(&[turn("plain"), turn("<|a")]), None);
        assert_eq!(tokens.mark_for(&[turn("<|a|>")]), Some('\u{f0000}'));
        assert_eq!(tokens.mark_for(&[turn("<|a|>"), turn("\u{f0000}")]), Some('\u{f0001}'));
    }
}
