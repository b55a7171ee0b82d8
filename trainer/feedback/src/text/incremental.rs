//! Converts token ids to text one by one. Pure.

use super::tokenizer::Tokenizer;
use crate::Result;

/// Decodes a response token by token. No piece ends inside a character, and an incomplete last character is dropped.
///
/// Together the pieces are the text that the tokens add to the text before them, including a leading space: the
/// difference between decoding both together and decoding the text before. Invalid bytes are the exception: decoders
/// with byte fallback give up a whole run of byte tokens for one invalid byte, but here the characters around it
/// survive.
pub struct IncrementalDecoder<'a> {
    tokenizer: &'a Tokenizer,
    /// The last token of the text so far, initially the prompt's.
    last: Option<i64>,
    /// The bytes of an incomplete character.
    unfinished: Vec<u8>,
}

impl<'a> IncrementalDecoder<'a> {
    /// Starts a response to a prompt whose last token is `after`; without one a text begins.
    pub fn new(tokenizer: &'a Tokenizer, after: Option<i64>) -> Self {
        Self { tokenizer, last: after, unfinished: Vec::new() }
    }

    /// The text that another token completes; empty while a character is incomplete.
    pub fn push(&mut self, id: i64) -> Result<String> {
        if self.tokenizer.is_special(id) {
            return Ok(String::new());
        }
        self.unfinished.extend(self.tokenizer.added_bytes(self.last, id)?);
        self.last = Some(id);
        let decided = self.unfinished.len() - unfinished(&self.unfinished);
        let text = String::from_utf8_lossy(&self.unfinished[..decided]).into_owned();
        self.unfinished.drain(..decided);
        Ok(text)
    }
}

/// The number of bytes at the end that may be the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    let is_beginning =
        |tail: &[u8]| std::str::from_utf8(tail).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none());
    (1..=bytes.len().min(3)).find(|n| is_beginning(&bytes[bytes.len() - n..])).unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::fixture::byte_level;
    use super::super::tokenizer::tests::sentencepiece;
    use super::*;

    pub(crate) fn pieces(tokenizer: &Tokenizer, ids: &[i64]) -> Vec<String> {
        let mut decoder = tokenizer.incremental(None);
        ids.iter().map(|id| decoder.push(*id).unwrap()).collect()
    }

    #[test]
    fn no_piece_of_a_stream_ends_inside_a_character() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = byte_level(folder.path());
        let ids = tokenizer.encode("é👍🏽 t").unwrap();
        assert_eq!(ids.len(), 2 + 4 + 4 + 1);
        assert_eq!(pieces(&tokenizer, &ids), ["", "é", "", "", "", "👍", "", "", "", "🏽", " t"]);
    }

    #[test]
    fn a_stream_of_bytes_gives_what_decoding_at_once_gives() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = byte_level(folder.path());
        for ids in [
            // Broken and literal U+FFFD characters, and special tokens between the parts of a character.
            vec![0xc3, 0x28, 257, 0xf0, 0x9f, 97, 0x80, 0x80, 98],
            vec![0xf0, 257, 0x9f, 257, 0x98, 257, 0x80],
            vec![0xff; 100],
            bytes.encode("x\u{fffd}\u{fffd}y\u{fffd}").unwrap(),
            vec![257, 97, 257, 257, 256, 9999],
            vec![],
        ] {
            assert_eq!(pieces(&bytes, &ids).concat(), bytes.decode(&ids).unwrap(), "{ids:?}");
        }
    }

    #[test]
    fn a_character_that_is_never_finished_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(pieces(&byte_level(folder.path()), &[97, 0xe2, 0x82]).concat(), "a");
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(pieces(&sentencepiece(folder.path()), &[1, BYTE + 0xe2, BYTE + 0x82]).concat(), "a");
    }

    /// The first of the byte tokens of [`sentencepiece`].
    const BYTE: i64 = 4;

    fn fallback(text: &str) -> Vec<i64> {
        text.bytes().map(|b| BYTE + i64::from(b)).collect()
    }

    #[test]
    fn a_stream_of_pieces_and_fallback_bytes_gives_what_decoding_at_once_gives() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = sentencepiece(folder.path());
        let whole = [&[1, 2], fallback("é").as_slice(), &[3, 2, 1]].concat();
        assert_eq!(tokenizer.decode(&whole).unwrap(), "a béc b a");
        for ids in [whole, [fallback("€").as_slice(), &[1, 3]].concat(), vec![3, 1], vec![0, 0]] {
            assert_eq!(pieces(&tokenizer, &ids).concat(), tokenizer.decode(&ids).unwrap(), "{ids:?}");
        }
    }

    #[test]
    fn a_character_in_fallback_bytes_is_not_taken_back_when_another_begins_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = sentencepiece(folder.path());
        let ids = fallback("€😀€");
        assert_eq!(tokenizer.decode(&ids[..4]).unwrap(), "\u{fffd}".repeat(4), "the decoder breaks off the whole run");
        assert_eq!(pieces(&tokenizer, &ids), ["", "", "€", "", "", "", "😀", "", "", "€"]);
        // And a byte that is never a character costs itself alone.
        let ids = [fallback("€").as_slice(), &[BYTE + 0xff, 3, 1]].concat();
        assert_eq!(pieces(&tokenizer, &ids).concat(), "€\u{fffd}c a");
    }
}
