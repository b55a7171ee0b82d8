//! Untrusted text without characters that control a terminal, a log or a page. Computes only.

/// Replacement for a character that is not printed.
const REPLACEMENT: char = '\u{fffd}';

/// Whether a character has an effect on the display instead of being shown: a control character of C0 or C1 (escape
/// sequences begin with one) other than line feed and tab, or one that overrides or isolates the direction of text
/// (Unicode Standard Annex 9, section 2), which can make a line read differently than it is written.
pub fn is_unprintable(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t')) || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with U+FFFD for each character that [`is_unprintable`]. A carriage return before a line feed is dropped.
pub fn printable(text: &str) -> String {
    text.replace("\r\n", "\n").chars().map(|c| if is_unprintable(c) { REPLACEMENT } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_or_turns_text_around_is_replaced_and_the_rest_stays() {
        let hostile = "\u{1b}]0;title\u{7}\u{1b}[2J\u{9b}31m\u{0}\u{7f}\r\u{202a}\u{202e}\u{2066}\u{2069}";
        let shown = printable(hostile);
        assert!(!shown.chars().any(is_unprintable), "{shown:?}");
        assert_eq!(shown.chars().count(), hostile.chars().count(), "each is one character still");
        for text in ["line\nand\ttab", "\u{5e9}\u{5dc}\u{5d5}\u{5dd} \u{200f}", "\u{2581}A \u{120}B é 漢"] {
            assert_eq!(printable(text), text);
        }
        assert_eq!(printable("one\r\ntwo"), "one\ntwo");
    }
}
