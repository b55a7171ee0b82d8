//! Sampled tokens to text, as they come: whole characters only, cut before a stop string, with the tokens that made
//! each piece. Computes.

use crate::Result;

/// A sampled token and its log-probabilities.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Token id.
    pub token: i64,
    /// Natural log-probability.
    pub logprob: f32,
    /// The most likely tokens, the most likely first.
    pub top: Vec<(i64, f32)>,
    /// Where the token's text begins in the response, in characters. The parts of one character share its place; a
    /// token without text stands at the place of what follows it.
    pub offset: usize,
}

/// Text that will not change any more, and the tokens whose text begins in what is known so far.
#[derive(Debug, Default, PartialEq)]
pub struct Piece {
    /// Text to append.
    pub text: String,
    /// Tokens to append.
    pub tokens: Vec<Scored>,
    /// A stop string was found; nothing follows.
    pub stopped: bool,
}

/// The text of one response as its tokens come.
pub struct TextStream {
    characters: Characters,
    stop: StopStrings,
    waiting: Vec<Scored>,
    /// Characters decoded, and characters handed out.
    decoded: usize,
    emitted: usize,
}

impl TextStream {
    /// A response that ends before the first of `stop`.
    pub fn new(stop: Vec<String>) -> Self {
        let stop = StopStrings { stop, held: String::new() };
        Self { characters: Characters::default(), stop, waiting: Vec::new(), decoded: 0, emitted: 0 }
    }

    /// Adds a token.
    pub fn push(&mut self, decode: impl Fn(&[i64]) -> Result<String>, mut scored: Scored) -> Result<Piece> {
        scored.offset = self.decoded;
        let text = self.characters.push(&decode, scored.token)?;
        self.waiting.push(scored);
        Ok(self.advance(&text))
    }

    /// Ends the response: hands out what was held back. `last` is a token without text of its own (the end token).
    pub fn end(&mut self, decode: impl Fn(&[i64]) -> Result<String>, last: Option<Scored>) -> Result<Piece> {
        let text = self.characters.end(&decode)?;
        let mut piece = self.advance(&text);
        if !piece.stopped {
            piece.text.push_str(&std::mem::take(&mut self.stop.held));
            piece.tokens.append(&mut self.waiting);
            piece.tokens.extend(last.map(|scored| Scored { offset: self.decoded, ..scored }));
        }
        Ok(piece)
    }

    fn advance(&mut self, text: &str) -> Piece {
        self.decoded += text.chars().count();
        let (text, stopped) = self.stop.push(text);
        self.emitted += text.chars().count();
        let ready = self.waiting.partition_point(|scored| scored.offset < self.emitted);
        let tokens = self.waiting.drain(..ready).collect();
        Piece { text, tokens, stopped }
    }
}

/// Decodes tokens a few at a time. A byte-level token may be a part of a character, and a decoder may treat a token
/// differently at the start of a text, so new tokens are decoded together with the piece before them, and what ends in
/// a broken character waits for the next token.
#[derive(Default)]
struct Characters {
    /// The tokens of the last piece, then those that wait.
    tokens: Vec<i64>,
    /// How many of `tokens` have been handed out.
    done: usize,
}

/// A character has at most 4 bytes, so of more waiting tokens the first are not the beginning of one.
const MOST_PARTS: usize = 4;
/// Stands for bytes that are not UTF-8, in every decoder.
const REPLACEMENT: char = '\u{FFFD}';

impl Characters {
    fn push(&mut self, decode: &impl Fn(&[i64]) -> Result<String>, token: i64) -> Result<String> {
        self.tokens.push(token);
        let before = decode(&self.tokens[..self.done])?;
        let all = decode(&self.tokens)?;
        match all.strip_prefix(&before) {
            Some(new) if !new.ends_with(REPLACEMENT) => {
                let new = new.to_owned();
                if new.is_empty() {
                    // The piece before stays the one to decode the next token with.
                    self.tokens.pop();
                } else {
                    self.tokens.drain(..self.done);
                }
                self.done = self.tokens.len();
                Ok(new)
            }
            _ if self.tokens.len() - self.done > MOST_PARTS => {
                let first = self.tokens[self.done];
                self.tokens.drain(..self.done);
                self.done = 1;
                decode(&[first])
            }
            _ => Ok(String::new()),
        }
    }

    /// The rest, without a character that was never finished.
    fn end(&mut self, decode: &impl Fn(&[i64]) -> Result<String>) -> Result<String> {
        let before = decode(&self.tokens[..self.done])?;
        let all = decode(&self.tokens)?;
        self.done = self.tokens.len();
        Ok(all.strip_prefix(&before).unwrap_or_default().trim_end_matches(REPLACEMENT).to_owned())
    }
}

/// Hands text on up to the first stop string, and holds back what may be the beginning of one.
struct StopStrings {
    stop: Vec<String>,
    held: String,
}

impl StopStrings {
    /// The text that is safe, and whether a stop string followed it.
    fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        if let Some(at) = self.stop.iter().filter_map(|stop| self.held.find(stop)).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let safe = self.held.char_indices().map(|(at, _)| at).find(|at| self.may_stop(&self.held[*at..]));
        let rest = self.held.split_off(safe.unwrap_or(self.held.len()));
        (std::mem::replace(&mut self.held, rest), false)
    }

    fn may_stop(&self, tail: &str) -> bool {
        self.stop.iter().any(|stop| stop.starts_with(tail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Decode = fn(&[i64]) -> Result<String>;

    fn known(tokens: &[i64]) -> Vec<u8> {
        tokens.iter().filter_map(|t| u8::try_from(*t).ok()).collect()
    }

    /// Tokens are bytes; token 256 has no text. Broken UTF-8 becomes U+FFFD, as in byte-level tokenizers.
    const DECODE: Decode = |tokens| Ok(String::from_utf8_lossy(&known(tokens)).into_owned());

    /// As decoders with byte fallback do it: one broken byte breaks the whole run.
    const DECODE_RUNS: Decode = |tokens| {
        let text = String::from_utf8(known(tokens));
        Ok(text.unwrap_or_else(|e| REPLACEMENT.to_string().repeat(e.as_bytes().len())))
    };

    fn scored(token: i64) -> Scored {
        Scored { token, logprob: -1.0, top: Vec::new(), offset: 0 }
    }

    /// The pieces of a text that comes byte by byte, and the end's.
    fn pieces(stop: &[&str], tokens: impl IntoIterator<Item = i64>) -> Vec<Piece> {
        let mut stream = TextStream::new(stop.iter().map(|s| (*s).to_owned()).collect());
        let mut pieces = Vec::new();
        for token in tokens {
            pieces.push(stream.push(DECODE, scored(token)).unwrap());
            if pieces.last().unwrap().stopped {
                return pieces;
            }
        }
        pieces.push(stream.end(DECODE, None).unwrap());
        pieces
    }

    fn bytes(text: &str) -> impl Iterator<Item = i64> {
        text.bytes().map(i64::from)
    }

    fn text(pieces: &[Piece]) -> String {
        pieces.iter().map(|p| p.text.as_str()).collect()
    }

    #[test]
    fn a_character_is_handed_out_whole_or_not_at_all() {
        let pieces = pieces(&[], bytes("aé😀b"));
        let texts: Vec<_> = pieces.iter().map(|p| p.text.as_str()).collect();
        assert_eq!(texts, ["a", "", "é", "", "", "", "😀", "b", ""]);
    }

    #[test]
    fn a_character_that_is_never_finished_is_left_out() {
        let tokens = bytes("a").chain([0xF0, 0x9F]);
        assert_eq!(text(&pieces(&[], tokens)), "a");
    }

    #[test]
    fn bytes_that_are_no_character_do_not_hold_the_text_back_for_ever() {
        let tokens: Vec<i64> = std::iter::repeat_n(0xFF, 100).chain(bytes("ok😀")).collect();
        let pieces = pieces(&[], tokens.clone());
        assert_eq!(text(&pieces), DECODE(&tokens).unwrap());
        assert!(!pieces[50].text.is_empty());
    }

    #[test]
    fn tokens_without_text_do_not_pile_up() {
        let mut characters = Characters::default();
        for token in bytes("a").chain(std::iter::repeat_n(256, 1000)) {
            characters.push(&DECODE, token).unwrap();
        }
        assert_eq!(characters.tokens, [0x61]);
    }

    #[test]
    fn text_that_a_decoder_takes_back_while_a_character_is_broken_is_not_repeated() {
        let mut stream = TextStream::new(Vec::new());
        let mut text = String::new();
        for token in bytes("éà😀!") {
            text.push_str(&stream.push(DECODE_RUNS, scored(token)).unwrap().text);
        }
        text.push_str(&stream.end(DECODE_RUNS, None).unwrap().text);
        assert_eq!(text, "éà😀!");
    }

    #[test]
    fn a_stop_string_is_found_across_tokens_and_none_of_it_is_handed_out() {
        for stop in ["END", "é😀", "\n\n"] {
            let all = pieces(&[stop], bytes(&format!("some text{stop}more")));
            assert_eq!(text(&all), "some text");
            assert!(all.last().unwrap().stopped);
        }
    }

    #[test]
    fn the_stop_string_that_begins_first_ends_the_text() {
        assert_eq!(text(&pieces(&["cd", "bcde"], bytes("abcdef"))), "ab");
        assert_eq!(text(&pieces(&["def", "bc"], bytes("abcdef"))), "a");
        assert_eq!(text(&pieces(&["aab"], bytes("caaab"))), "ca");
    }

    #[test]
    fn what_looked_like_a_stop_string_is_handed_out_when_it_is_none() {
        let pieces = pieces(&["END"], bytes("an ENcore EN"));
        assert_eq!(text(&pieces), "an ENcore EN");
        assert!(pieces.iter().all(|p| !p.stopped));
        assert_eq!(pieces.last().unwrap().text, "EN", "held until the end");
    }

    #[test]
    fn tokens_come_with_the_text_they_begin_and_know_their_place() {
        let all = pieces(&["END"], bytes("é bEND"));
        let tokens: Vec<_> = all.iter().flat_map(|p| &p.tokens).map(|t| (t.token, t.offset)).collect();
        assert_eq!(tokens, [(0xC3, 0), (0xA9, 0), (0x20, 1), (0x62, 2)], "none of the stop string's");
    }

    #[test]
    fn the_end_token_has_a_place_but_no_text() {
        let mut stream = TextStream::new(Vec::new());
        let piece = stream.push(DECODE, scored(0x61)).unwrap();
        assert_eq!((piece.text.as_str(), piece.tokens.len()), ("a", 1));
        let end = stream.end(DECODE, Some(scored(256))).unwrap();
        assert_eq!((end.text.as_str(), end.tokens[0].token, end.tokens[0].offset), ("", 256, 1));
    }

    #[test]
    fn a_response_of_the_end_token_alone_keeps_its_distribution() {
        let end = TextStream::new(Vec::new()).end(DECODE, Some(scored(256))).unwrap();
        assert_eq!(end.tokens.len(), 1);
    }
}
