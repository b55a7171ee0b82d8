//! Diversity, repetition and length of a set of texts (computes): typical first signs of a policy that exploits its
//! reward.

use std::collections::{HashMap, HashSet};

/// A text is repetitive if a sequence of this many words occurs at least this many times.
const REPEATED_WORDS: usize = 4;
const REPEATED_TIMES: usize = 3;

/// Diversity, repetition and length. Words are separated by white space and compared in lower case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Diversity {
    /// Distinct words over all words of all texts (distinct-1; Li et al., NAACL 2016). Decreases with the amount of
    /// text, so only sets of about the same size are comparable. NaN if no text has a word.
    pub distinct_1: f64,
    /// The same for pairs of words. NaN if no text has two.
    pub distinct_2: f64,
    /// Fraction of texts in which some sequence of four words occurs three times or more.
    pub repetition_rate: f64,
    /// Mean number of words per text.
    pub mean_words: f64,
    /// Fraction of texts without a word.
    pub empty_rate: f64,
}

/// Measures a set of texts; `None` if it is empty.
pub fn diversity<S: AsRef<str>>(texts: &[S]) -> Option<Diversity> {
    if texts.is_empty() {
        return None;
    }
    let lower: Vec<String> = texts.iter().map(|t| t.as_ref().to_lowercase()).collect();
    let words: Vec<Vec<&str>> = lower.iter().map(|t| t.split_whitespace().collect()).collect();
    let n = texts.len() as f64;
    let share = |holds: fn(&[&str]) -> bool| words.iter().filter(|w| holds(w)).count() as f64 / n;
    Some(Diversity {
        distinct_1: distinct(&words, 1),
        distinct_2: distinct(&words, 2),
        repetition_rate: share(repeats),
        mean_words: words.iter().map(Vec::len).sum::<usize>() as f64 / n,
        empty_rate: share(|words| words.is_empty()),
    })
}

/// Distinct n-grams over all n-grams; an n-gram does not span texts.
fn distinct(texts: &[Vec<&str>], n: usize) -> f64 {
    let all = || texts.iter().flat_map(|words| words.windows(n));
    all().collect::<HashSet<_>>().len() as f64 / all().count() as f64
}

fn repeats(words: &[&str]) -> bool {
    let mut seen: HashMap<&[&str], usize> = HashMap::new();
    words.windows(REPEATED_WORDS).any(|gram| {
        let times = seen.entry(gram).or_default();
        *times += 1;
        *times >= REPEATED_TIMES
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinct_counts_different_n_grams_over_all_of_them_within_texts() {
        let d = diversity(&["a b a b", "A c"]).unwrap();
        assert!((d.distinct_1 - 3.0 / 6.0).abs() < 1e-12, "a, b, c of six words: {d:?}");
        assert!((d.distinct_2 - 3.0 / 4.0).abs() < 1e-12, "ab, ba, ac of ab ba ab ac; `b A` crosses texts: {d:?}");
        assert!((d.mean_words - 3.0).abs() < 1e-12);
    }

    #[test]
    fn a_loop_counts_as_repetition_and_a_refrain_does_not() {
        let looped = "I am sorry but ".repeat(3);
        let refrain = "I am sorry but you are wrong, I am sorry but no";
        let d = diversity(&[looped.as_str(), refrain]).unwrap();
        assert!((d.repetition_rate - 0.5).abs() < 1e-12, "{d:?}");
        let four_in_a_row = diversity(&["no no no no no no"]).unwrap();
        assert!((four_in_a_row.repetition_rate - 1.0).abs() < 1e-12, "overlapping ones count");
    }

    #[test]
    fn texts_without_words_are_counted_and_give_nan() {
        let d = diversity(&["", "  \n"]).unwrap();
        assert!((d.empty_rate - 1.0).abs() < 1e-12 && d.distinct_1.is_nan() && d.mean_words == 0.0);
        assert_eq!(diversity::<&str>(&[]), None);
    }
}
