//! Words of a reply, without surrounding punctuation. Computes only.

/// Removes surrounding spaces, brackets, quotes and emphasis.
///
/// Vocabularies write a space as `\u{2581}` (sentencepiece) or `\u{120}` and a line feed as `\u{10a}` (byte-level BPE),
/// and some servers return them in this notation.
pub(super) fn undecorated(text: &str) -> &str {
    const AROUND: &str = "*_`\"'[](){}<>#.,:;!|\u{201c}\u{201d}\u{2018}\u{2019}\u{2581}\u{120}\u{10a}\u{109}";
    text.trim_matches(|c: char| c.is_whitespace() || AROUND.contains(c))
}

/// In lower case, with straight apostrophes.
pub(super) fn lowered(text: &str) -> String {
    text.to_lowercase().replace('\u{2019}', "'")
}

/// The words of a text, without list and heading markers.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace().map(undecorated).filter(|word| word.contains(char::is_alphanumeric))
}
