//! Converts the tokens of a response to pieces of text as they arrive: whole characters only, ending before a stop
//! string. Computes.

use std::sync::Arc;

use plumbline_feedback::protocol::update::Scored;
use plumbline_feedback::text::incremental::IncrementalDecoder;
use plumbline_feedback::text::tokenizer::Tokenizer;

use crate::Result;
use crate::generate::stop_strings::StopStrings;

/// Text that is final, and the tokens whose text begins in it.
#[derive(Debug, Default, PartialEq)]
pub struct Piece {
    /// Text to append.
    pub text: String,
    /// Tokens to append.
    pub tokens: Vec<Scored>,
    /// Whether a stop string was found; nothing follows then.
    pub stopped: bool,
}

/// The text of one response, token by token.
pub struct TextStream<'a> {
    decoder: IncrementalDecoder<'a>,
    stop: StopStrings,
    waiting: Vec<Scored>,
    /// Number of characters decoded, and number of characters emitted.
    decoded: usize,
    emitted: usize,
}

impl<'a> TextStream<'a> {
    /// A response that ends before the first of `stop`. `after`: the last token of its prompt.
    pub fn new(tokenizer: &'a Tokenizer, after: Option<i64>, stop: impl Into<Arc<[String]>>) -> Self {
        let stop = StopStrings::new(stop);
        Self { decoder: tokenizer.incremental(after), stop, waiting: Vec::new(), decoded: 0, emitted: 0 }
    }

    /// Adds a token.
    pub fn push(&mut self, scored: Scored) -> Result<Piece> {
        let text = self.decoder.push(scored.token)?;
        self.waiting.push(Scored { offset: self.decoded, ..scored });
        self.decoded += text.chars().count();
        let (text, stopped) = self.stop.push(&text);
        self.emitted += text.chars().count();
        let ready = self.waiting.partition_point(|scored| scored.offset < self.emitted);
        Ok(Piece { text, tokens: self.waiting.drain(..ready).collect(), stopped })
    }

    /// Ends a response that no stop string ended, and returns the text that was held back. `last`: an end token, which
    /// has no text of its own.
    pub fn end(&mut self, last: Option<Scored>) -> Piece {
        let mut tokens = std::mem::take(&mut self.waiting);
        tokens.extend(last.map(|scored| Scored { offset: self.decoded, ..scored }));
        Piece { text: self.stop.end(), tokens, stopped: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::fixture::model_folder;

    /// The tokenizer of the fixture: tokens are bytes, 256 has no text.
    fn tokenizer() -> Tokenizer {
        Tokenizer::load(model_folder().path()).unwrap()
    }

    fn scored(token: i64) -> Scored {
        Scored { token, logprob: -1.0, top: Vec::new(), offset: 0 }
    }

    /// The pieces of a text that arrives byte by byte, and the last piece.
    fn pieces(stop: &[&str], text: &str) -> Vec<Piece> {
        let tokenizer = tokenizer();
        let mut stream = TextStream::new(&tokenizer, None, stop.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let mut pieces = Vec::new();
        for byte in text.bytes() {
            pieces.push(stream.push(scored(i64::from(byte))).unwrap());
            if pieces.last().unwrap().stopped {
                return pieces;
            }
        }
        pieces.push(stream.end(None));
        pieces
    }

    #[test]
    fn only_whole_characters_are_emitted() {
        let texts: Vec<String> = pieces(&[], "aé😀b").into_iter().map(|p| p.text).collect();
        assert_eq!(texts, ["a", "", "é", "", "", "", "😀", "b", ""]);
    }

    #[test]
    fn an_incomplete_stop_string_is_emitted_with_its_tokens_at_the_end() {
        let pieces = pieces(&["END"], "an ENcore EN");
        let last = pieces.last().unwrap();
        assert_eq!((last.text.as_str(), last.tokens.len()), ("EN", 2), "held until the end");
        assert_eq!(pieces.iter().map(|p| p.text.as_str()).collect::<String>(), "an ENcore EN");
    }

    #[test]
    fn tokens_are_emitted_with_their_text_and_offset() {
        let all = pieces(&["END"], "é bEND");
        let tokens: Vec<_> = all.iter().flat_map(|p| &p.tokens).map(|t| (t.token, t.offset)).collect();
        assert_eq!(tokens, [(0xC3, 0), (0xA9, 0), (0x20, 1), (0x62, 2)], "none of the stop string's");
        assert!(all.last().unwrap().stopped);
    }

    #[test]
    fn the_end_token_has_an_offset_but_no_text() {
        let tokenizer = tokenizer();
        let mut stream = TextStream::new(&tokenizer, None, []);
        let piece = stream.push(scored(0x61)).unwrap();
        assert_eq!((piece.text.as_str(), piece.tokens.len()), ("a", 1));
        let end = stream.end(Some(scored(256)));
        assert_eq!((end.text.as_str(), end.tokens[0].token, end.tokens[0].offset), ("", 256, 1));
    }

    #[test]
    fn a_response_of_only_the_end_token_has_logprobs() {
        let tokenizer = tokenizer();
        assert_eq!(TextStream::new(&tokenizer, None, []).end(Some(scored(256))).tokens.len(), 1);
    }
}
