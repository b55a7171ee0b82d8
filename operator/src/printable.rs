//! Text of somebody else as it may be shown on a terminal. Computes only.
//!
//! A manifest, a judge or a trainer may say what a terminal takes for a command: clear the screen, set the title, answer as if
//! somebody had typed, or show letters in another order than they stand in.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;

/// The text in one line, with what is not shown as itself written out, as in `\u{1b}`.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_hidden(c) || c == '\n' || c == '\t')
}

/// The same, with its line breaks and tabs.
pub fn text(text: &str) -> Cow<'_, str> {
    escaped(text, is_hidden)
}

/// Why something failed, in the words of the operating system and without the number of its error.
pub fn cause(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let first = text.chars().next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(text.chars().skip(1)).collect()
}

fn escaped(text: &str, hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if hidden(c) {
            let _ = write!(shown, "{}", c.escape_default());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// Control characters but line breaks and tabs, line and paragraph separators, and marks of direction (Unicode Bidirectional
/// Algorithm, UAX #9, section 2).
fn is_hidden(c: char) -> bool {
    let direction =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() && c != '\n' && c != '\t' || matches!(c, '\u{2028}' | '\u{2029}') || direction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_of_an_error_is_said_without_its_number() {
        assert_eq!(cause(&io::Error::from_raw_os_error(2)), "no such file or directory");
        assert_eq!(cause(&io::Error::other("too long")), "too long");
    }

    #[test]
    fn what_a_terminal_obeys_is_written_out_and_all_else_stays() {
        let hostile = "a\u{1b}]0;title\u{7}b\u{1b}[2J\u{9b}31m\u{202e}c\u{2066}\u{7f}\rd";
        let shown = line(hostile);
        assert_eq!(shown, r"a\u{1b}]0;title\u{7}b\u{1b}[2J\u{9b}31m\u{202e}c\u{2066}\u{7f}\rd");
        for c in (0..=0x9f_u32).chain(0x2000..=0x206f).filter_map(char::from_u32).filter(|c| is_hidden(*c)) {
            assert!(!line(&c.to_string()).contains(c) && !text(&c.to_string()).contains(c), "{c:?}");
        }
        assert_eq!(line("a\n\tb"), r"a\n\tb");
        assert_eq!(text("a\n\tb"), "a\n\tb");
        for plain in ["", "ä → 日本 🦀 <b>", "C:\\path \"quoted\""] {
            assert!(matches!(line(plain), Cow::Borrowed(same) if same == plain));
        }
    }
}
