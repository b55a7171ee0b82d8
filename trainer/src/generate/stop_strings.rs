//! Where a response ends: before the first stop string. Computes.

use std::sync::Arc;

/// Passes text through up to the first stop string, and holds back what may be the beginning of one.
#[derive(Clone, Debug)]
pub struct StopStrings {
    stop: Arc<[String]>,
    held: String,
}

impl StopStrings {
    /// A response that ends before the first of `stop`.
    pub fn new(stop: impl Into<Arc<[String]>>) -> Self {
        Self { stop: stop.into(), held: String::new() }
    }

    /// The text that is final after `text` was added, and whether a stop string followed it.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        if let Some(at) = self.stop.iter().filter_map(|stop| self.held.find(stop)).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let safe = self.held.char_indices().map(|(at, _)| at).find(|at| self.may_stop(&self.held[*at..]));
        let rest = self.held.split_off(safe.unwrap_or(self.held.len()));
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The text that was held back if the response ended without a stop string.
    pub fn end(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    fn may_stop(&self, tail: &str) -> bool {
        self.stop.iter().any(|stop| stop.starts_with(tail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text that comes character by character: what was handed on, and whether a stop string ended it.
    fn cut(stop: &[&str], text: &str) -> (String, bool) {
        let mut strings = StopStrings::new(stop.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let mut out = String::new();
        for c in text.chars() {
            let (safe, stopped) = strings.push(&c.to_string());
            out += &safe;
            if stopped {
                return (out, true);
            }
        }
        (out + &strings.end(), false)
    }

    #[test]
    fn a_stop_string_is_found_across_pieces_and_none_of_it_is_handed_out() {
        for stop in ["END", "é😀", "\n\n"] {
            assert_eq!(cut(&[stop], &format!("some text{stop}more")), ("some text".to_owned(), true));
        }
    }

    #[test]
    fn the_stop_string_that_begins_first_ends_the_text() {
        assert_eq!(cut(&["cd", "bcde"], "abcdef").0, "ab");
        assert_eq!(cut(&["def", "bc"], "abcdef").0, "a");
        assert_eq!(cut(&["aab"], "caaab").0, "ca");
    }

    #[test]
    fn what_looked_like_a_stop_string_is_handed_out_when_it_is_none() {
        assert_eq!(cut(&["END"], "an ENcore EN"), ("an ENcore EN".to_owned(), false));
        let mut strings = StopStrings::new(vec!["END".to_owned()]);
        assert_eq!((strings.push("ore EN"), strings.end()), (("ore ".to_owned(), false), "EN".to_owned()));
    }
}
