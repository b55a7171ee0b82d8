//! Streaming: token ids become text one by one. Pure.

use super::tokenizer::Tokenizer;
use crate::Result;

/// Decodes a response token by token: the pieces together are what [`Tokenizer::decode`] gives for all tokens, and no piece
/// ends inside a character.
pub struct IncrementalDecoder<'a> {
    tokenizer: &'a Tokenizer,
    /// The last tokens that were given out in full, and those after them. Decoders look at a token's neighbours (a
    /// leading space is dropped only at the start), so new tokens are decoded behind old ones.
    window: Vec<i64>,
    /// How many tokens of the window were given out in full.
    context: usize,
    /// Bytes of the window's text that were given out.
    emitted: usize,
}

impl<'a> IncrementalDecoder<'a> {
    /// Starts a response.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, window: Vec::new(), context: 0, emitted: 0 }
    }

    /// The text that a further token completes; empty while a character is unfinished.
    pub fn push(&mut self, id: i64) -> Result<String> {
        self.window.push(id);
        let text = self.tokenizer.decode(&self.window)?;
        // U+FFFD at the end may be a character whose other bytes are still to come; before the end it is final.
        let complete = text.strip_suffix(char::REPLACEMENT_CHARACTER);
        let piece = complete.unwrap_or(&text).get(self.emitted..).unwrap_or_default().to_owned();
        self.emitted += piece.len();
        if complete.is_none() && !piece.is_empty() {
            self.window.drain(..self.context);
            self.context = self.window.len();
            self.emitted = self.tokenizer.decode(&self.window)?.len();
        }
        Ok(piece)
    }

    /// What is left at the end: U+FFFD for a character that was never finished.
    pub fn finish(self) -> Result<String> {
        let text = self.tokenizer.decode(&self.window)?;
        Ok(text.get(self.emitted..).unwrap_or_default().to_owned())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::tokenizer::tests::{byte_level, sentencepiece};
    use super::*;

    pub(crate) fn pieces(tokenizer: &Tokenizer, ids: &[i64]) -> Vec<String> {
        let mut decoder = tokenizer.incremental();
        let mut pieces: Vec<String> = ids.iter().map(|id| decoder.push(*id).unwrap()).collect();
        pieces.push(decoder.finish().unwrap());
        pieces
    }

    #[test]
    fn no_piece_of_a_stream_ends_inside_a_character() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = byte_level(folder.path());
        let ids = tokenizer.encode("é👍🏽 t").unwrap();
        assert_eq!(ids.len(), 2 + 4 + 4 + 1);
        let pieces = pieces(&tokenizer, &ids);
        assert_eq!(pieces, ["", "é", "", "", "", "👍", "", "", "", "🏽", " t", ""]);
    }

    #[test]
    fn a_stream_gives_what_decoding_at_once_gives() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = byte_level(folder.path());
        // Broken, unfinished and literal U+FFFD characters, with special tokens between.
        for ids in [
            vec![0xc3, 0x28, 257, 0xf0, 0x9f, 97, 0x80, 0x80, 98],
            vec![97, 0xe2, 0x82],
            bytes.encode("x\u{fffd}\u{fffd}y\u{fffd}").unwrap(),
            vec![257, 97, 257, 257, 256],
            vec![],
        ] {
            assert_eq!(pieces(&bytes, &ids).concat(), bytes.decode(&ids).unwrap(), "{ids:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        let sentencepiece = sentencepiece(folder.path());
        let ids = [1, 2, 3, 4, 5, 2, 1];
        assert_eq!(sentencepiece.decode(&ids).unwrap(), "a béc b a");
        assert_eq!(pieces(&sentencepiece, &ids).concat(), "a béc b a", "only the first space is dropped");
    }
}
