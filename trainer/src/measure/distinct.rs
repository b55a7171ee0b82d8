//! Diversity, repetition and length of a set of texts.

/// Diversity, repetition and length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Diversity {
    /// Different words / words.
    pub distinct_1: f64,
    /// Different word pairs / word pairs.
    pub distinct_2: f64,
    /// Share of texts in which some four words in a row occur three times or more.
    pub repetition_rate: f64,
    /// Mean words a text.
    pub mean_words: f64,
    /// Share of texts without a word.
    pub empty_rate: f64,
}

/// Measures a set of texts; `None` if there is none.
pub fn diversity<S: AsRef<str>>(texts: &[S]) -> Option<Diversity> {
    let _ = texts;
    todo!()
}
