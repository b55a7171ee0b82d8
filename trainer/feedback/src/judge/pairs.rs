//! Chooses the responses of a prompt that are compared. Computes only.

use std::collections::HashSet;

use plumbline_crds::preference_dataset::{PairStrategy, Pairs};

use crate::data::id;

/// The id of a response: equal texts for the same prompt have equal ids.
pub fn response_id(prompt_id: &str, text: &str) -> String {
    id::of(&["response", prompt_id, text])
}

/// The id of a pair, independent of the order of its responses.
pub fn pair_id(prompt_id: &str, response_a: &str, response_b: &str) -> String {
    let (low, high) = if response_a < response_b { (response_a, response_b) } else { (response_b, response_a) };
    id::of(&["pair", prompt_id, low, high])
}

/// The pairs chosen for one prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Indices of two responses each; their order is determined by a hash.
    pub pairs: Vec<(usize, usize)>,
    /// Pairs that were skipped because the responses are equal or too similar.
    pub too_similar: usize,
    /// Responses without any words, which are not compared.
    pub empty: usize,
}

/// Draws pairs without repetition from all pairs of different responses. The draw depends on the seed and the
/// responses, not on other prompts.
pub fn choose(prompt_id: &str, responses: &[String], pairs: &Pairs, seed: i64) -> Chosen {
    let PairStrategy::Random = pairs.strategy;
    let mut chosen = Chosen { empty: responses.iter().filter(|r| r.trim().is_empty()).count(), ..Chosen::default() };
    let bigrams: Vec<HashSet<[&str; 2]>> = responses.iter().map(|r| word_bigrams(r)).collect();
    let seed = seed.to_string();
    let mut drawn: Vec<(u64, usize, usize)> = Vec::new();
    for i in 0..responses.len() {
        for j in i + 1..responses.len() {
            if responses[i].trim().is_empty() || responses[j].trim().is_empty() {
                continue;
            }
            let pair =
                pair_id(prompt_id, &response_id(prompt_id, &responses[i]), &response_id(prompt_id, &responses[j]));
            let draw = id::key(&["draw", &seed, &pair]);
            let (a, b) = if (draw & 1 == 0) == (responses[i] < responses[j]) { (i, j) } else { (j, i) };
            drawn.push((draw, a, b));
        }
    }
    drawn.sort_unstable();
    drawn.dedup_by_key(|(draw, ..)| *draw);
    for (_, a, b) in drawn {
        if chosen.pairs.len() as i64 >= pairs.per_prompt {
            break;
        }
        if responses[a].trim() == responses[b].trim() || jaccard(&bigrams[a], &bigrams[b]) > pairs.max_similarity {
            chosen.too_similar += 1;
        } else {
            chosen.pairs.push((a, b));
        }
    }
    chosen
}

/// Pairs of adjacent words; a text of one word has the pair of that word and an empty one.
fn word_bigrams(text: &str) -> HashSet<[&str; 2]> {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        [word] => HashSet::from([[*word, ""]]),
        _ => words.windows(2).map(|w| [w[0], w[1]]).collect(),
    }
}

/// Size of the intersection divided by size of the union; 1 for two empty sets.
fn jaccard(a: &HashSet<[&str; 2]>, b: &HashSet<[&str; 2]>) -> f64 {
    let common = a.intersection(b).count();
    let all = a.len() + b.len() - common;
    if all == 0 { 1.0 } else { common as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    fn at_most(per_prompt: i64) -> Pairs {
        Pairs { per_prompt, ..Pairs::default() }
    }

    #[test]
    fn pairs_do_not_repeat_and_are_limited_by_the_responses() {
        let responses = texts(&["one two", "three four", "five six", "seven eight"]);
        let chosen = choose("p", &responses, &at_most(100), 1);
        let different: HashSet<_> = chosen.pairs.iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
        assert_eq!((chosen.pairs.len(), different.len()), (6, 6));
        assert_eq!(choose("p", &responses[..1], &at_most(3), 1), Chosen::default());
        assert_eq!(choose("p", &responses, &at_most(2), 1).pairs, chosen.pairs[..2], "a smaller number is a prefix");
    }

    #[test]
    fn the_choice_depends_on_the_seed() {
        let responses = texts(&["a b", "c d", "e f", "g h", "i j"]);
        assert_eq!(choose("p", &responses, &at_most(4), 7), choose("p", &responses, &at_most(4), 7));
        assert_ne!(choose("p", &responses, &at_most(4), 7), choose("p", &responses, &at_most(4), 8));
    }

    #[test]
    fn which_response_comes_first_is_balanced() {
        let firsts = (0..1000)
            .filter(|i| choose(&format!("p{i}"), &texts(&["a b", "c d"]), &at_most(1), 1).pairs == [(0, 1)])
            .count();
        assert!((440..560).contains(&firsts), "{firsts} of 1000 pairs began with the first response");
    }

    #[test]
    fn equal_and_similar_responses_are_not_compared_and_are_counted() {
        let responses = texts(&["the cat sat down", "the cat sat down ", "a dog ran far", "  "]);
        let chosen = choose("p", &responses, &at_most(10), 1);
        assert_eq!((chosen.pairs.len(), chosen.too_similar, chosen.empty), (2, 1, 1));
        let close = texts(&["a b c d e", "a b c d f"]);
        let alike = Pairs { max_similarity: 0.5, ..at_most(10) };
        assert_eq!(choose("p", &close, &alike, 1).too_similar, 1, "3 of 5 bigrams are common");
        let allowed = Pairs { max_similarity: 0.6, ..at_most(10) };
        assert_eq!(choose("p", &close, &allowed, 1).pairs.len(), 1, "the limit itself is allowed");
    }
}
