//! VADER, a rule-based sentiment score (computes; only [`Vader::load`] reads a file).
//!
//! C. J. Hutto and E. Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text",
//! ICWSM 2014. A text's words get their mean human rating from a lexicon; the words around them amplify, dampen or
//! negate it; the sum is mapped to -1..1. The word lists and constants are those of the authors' package,
//! `vaderSentiment` 3.3.2 (MIT), and the scores agree with it to four decimals on text without emoji: the package first
//! replaces emoji by their names from a second file, which is not supported here, as a lexicon judge is one file with
//! one digest.

use std::collections::HashMap;
use std::path::Path;

use plumbline_crds::regular;

use crate::{Error, Result};

/// Maximum size of a lexicon in bytes: some millions of words.
const LONGEST: u64 = 256 << 20;

/// Rating added by a word such as "very", and subtracted by one such as "hardly".
const BOOST: f64 = 0.293;
/// Rating added by capitals where the text is not all in capitals.
const CAPITALS: f64 = 0.733;
/// Factor of a negation.
const NEGATION: f64 = -0.74;
/// Factor of "never so" and "never this".
const NEVER_SO: f64 = 1.25;
/// Factors of a booster one, two and three words before the rated word.
const DISTANCE: [f64; 3] = [1.0, 0.95, 0.9];
/// Factors of the ratings before and after "but".
const BUT: (f64, f64) = (0.5, 1.5);
/// Added for each exclamation mark, up to four.
const EXCLAMATION: f64 = 0.292;
/// Added for each of two or three question marks; more add [`QUESTIONS_MAX`].
const QUESTION: f64 = 0.18;
const QUESTIONS_MAX: f64 = 0.96;
/// The sum s becomes s / sqrt(s^2 + alpha).
const ALPHA: f64 = 15.0;

#[rustfmt::skip]
const NEGATIONS: &[&str] = &[
    "aint", "arent", "cannot", "cant", "couldnt", "darent", "despite", "didnt", "doesnt", "dont", "hadnt", "hasnt",
    "havent", "isnt", "mightnt", "mustnt", "neednt", "neither", "never", "none", "nope", "nor", "not", "nothing",
    "nowhere", "oughtnt", "rarely", "seldom", "shant", "shouldnt", "uh-uh", "uhuh", "wasnt", "werent", "without",
    "wont", "wouldnt",
];

#[rustfmt::skip]
const BOOSTERS: &[&str] = &[
    "absolutely", "amazingly", "awfully", "completely", "considerable", "considerably", "decidedly", "deeply",
    "effing", "enormous", "enormously", "entirely", "especially", "exceptional", "exceptionally", "extreme",
    "extremely", "fabulously", "flippin", "flipping", "frackin", "fracking", "frickin", "fricking", "friggin",
    "frigging", "fuckin", "fucking", "fuggin", "fugging", "fully", "greatly", "hella", "highly", "hugely",
    "incredible", "incredibly", "intensely", "major", "majorly", "more", "most", "particularly", "purely", "quite",
    "really", "remarkably", "so", "substantially", "thoroughly", "total", "totally", "tremendous", "tremendously",
    "uber", "unbelievably", "unusually", "utter", "utterly", "very",
];

#[rustfmt::skip]
const DAMPENERS: &[&str] = &[
    "almost", "barely", "hardly", "just enough", "kind of", "kind-of", "kinda", "kindof", "less", "little",
    "marginal", "marginally", "occasional", "occasionally", "partly", "scarce", "scarcely", "slight", "slightly",
    "somewhat", "sort of", "sort-of", "sorta", "sortof",
];

/// Phrases with a rating of their own.
const IDIOMS: &[(&str, f64)] = &[
    ("the shit", 3.0),
    ("the bomb", 3.0),
    ("bad ass", 1.5),
    ("badass", 1.5),
    ("bus stop", 0.0),
    ("yeah right", -2.0),
    ("kiss of death", -1.5),
    ("to die for", 3.0),
    ("beating heart", 3.5),
];

/// A lexicon with the rules of VADER.
#[derive(Clone, Debug)]
pub struct Vader {
    lexicon: HashMap<String, f64>,
}

impl Vader {
    /// Reads a lexicon, one word per line: `word<TAB>valence`, further columns ignored (`vader_lexicon.txt`). Valences
    /// are about -4..4; words are matched in lower case.
    pub fn load(path: &Path) -> Result<Self> {
        let wrong = |what: String| Error::Data(format!("{}: {what}", path.display()));
        let text = regular::read(path, LONGEST).map_err(|e| wrong(e.to_string()))?;
        let text = String::from_utf8(text).map_err(|e| wrong(format!("is not UTF-8 ({e})")))?;
        Self::parse(&text).map_err(wrong)
    }

    /// Parses a lexicon. The error says which line is wrong.
    fn parse(text: &str) -> Result<Self, String> {
        let mut lexicon = HashMap::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let expected = || format!("line {}: expected `word<TAB>valence`, found `{}`", number + 1, line.trim());
            let mut columns = line.trim().split('\t');
            let (Some(word), Some(valence)) = (columns.next(), columns.next()) else { return Err(expected()) };
            let valence: f64 = valence.trim().parse().map_err(|_| expected())?;
            if !valence.is_finite() {
                return Err(expected());
            }
            lexicon.insert(word.to_owned(), valence);
        }
        if lexicon.is_empty() {
            return Err("the lexicon has no words; expected one `word<TAB>valence` per line".into());
        }
        Ok(Self { lexicon })
    }

    /// The compound score of a text: -1 (worst) to 1 (best); 0 for a text without a word of the lexicon.
    pub fn compound(&self, text: &str) -> f64 {
        let words = Words::of(text);
        let mut ratings: Vec<f64> = (0..words.len()).map(|i| self.rating(&words, i)).collect();
        weigh_but(&words, &mut ratings);
        let sum: f64 = ratings.iter().sum();
        let emphasis = punctuation(text);
        let score = match sum {
            s if s > 0.0 => s + emphasis,
            s if s < 0.0 => s - emphasis,
            _ => return 0.0,
        };
        (score / (score * score + ALPHA).sqrt()).clamp(-1.0, 1.0)
    }

    fn has(&self, word: &str) -> bool {
        self.lexicon.contains_key(word)
    }

    /// The rating of word `i` in its context.
    fn rating(&self, words: &Words, i: usize) -> f64 {
        let word = words.at(i);
        if boost_of(word).is_some() || (word == "kind" && words.get(i + 1) == Some("of")) {
            return 0.0;
        }
        let Some(&base) = self.lexicon.get(word) else { return 0.0 };
        let mut rating = base;
        // "no" is a word of the lexicon; before another word of the lexicon it is a negation.
        if word == "no" && words.get(i + 1).is_some_and(|next| self.has(next)) {
            rating = 0.0;
        }
        let no = |distance| words.before(i, distance) == Some("no");
        if no(1) || no(2) || (no(3) && matches!(words.at(i - 1), "or" | "nor")) {
            rating = base * NEGATION;
        }
        if words.stands_out(i) {
            rating += if rating > 0.0 { CAPITALS } else { -CAPITALS };
        }
        for distance in 1..=3 {
            let Some(previous) = words.before(i, distance) else { break };
            if self.has(previous) {
                continue;
            }
            rating += DISTANCE[distance - 1] * boost(words, i - distance, rating);
            rating = negate(words, i, distance, rating);
            if distance == 3 {
                rating = idiom(words, i, rating);
            }
        }
        let least = words.before(i, 1) == Some("least") && !self.has("least");
        if least && !matches!(words.before(i, 2), Some("at" | "very")) { rating * NEGATION } else { rating }
    }
}

/// The words of a text, without the punctuation around them.
struct Words {
    lower: Vec<String>,
    capitals: Vec<bool>,
    /// Whether some words, but not all, are in capitals: capitals then mean emphasis.
    mixed: bool,
}

impl Words {
    fn of(text: &str) -> Self {
        // Python's `split` also splits at U+001C to U+001F.
        let space = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
        let words: Vec<&str> = text.split(space).filter(|w| !w.is_empty()).map(strip_punctuation).collect();
        let capitals: Vec<bool> =
            words.iter().map(|w| w.chars().any(char::is_uppercase) && !w.chars().any(char::is_lowercase)).collect();
        let mixed = capitals.contains(&true) && capitals.contains(&false);
        Self { lower: words.iter().map(|w| w.to_lowercase()).collect(), capitals, mixed }
    }

    fn len(&self) -> usize {
        self.lower.len()
    }

    fn at(&self, i: usize) -> &str {
        &self.lower[i]
    }

    fn get(&self, i: usize) -> Option<&str> {
        self.lower.get(i).map(String::as_str)
    }

    fn before(&self, i: usize, distance: usize) -> Option<&str> {
        i.checked_sub(distance).map(|j| self.at(j))
    }

    fn stands_out(&self, i: usize) -> bool {
        self.mixed && self.capitals[i]
    }

    /// Words `from..=to`, separated by spaces.
    fn phrase(&self, from: usize, to: usize) -> String {
        self.lower[from..=to].join(" ")
    }
}

/// A word without leading and trailing ASCII punctuation; whole if at most two characters were left, as in `:)`.
fn strip_punctuation(token: &str) -> &str {
    let word = token.trim_matches(|c: char| c.is_ascii_punctuation());
    if word.chars().count() <= 2 { token } else { word }
}

/// Amount that a booster or dampener adds to a positive rating.
fn boost_of(word: &str) -> Option<f64> {
    if BOOSTERS.contains(&word) {
        Some(BOOST)
    } else if DAMPENERS.contains(&word) {
        Some(-BOOST)
    } else {
        None
    }
}

/// Amount that the word at `j` adds to the rating of a later word: in the direction of the rating, and more in
/// capitals.
fn boost(words: &Words, j: usize, rating: f64) -> f64 {
    let Some(boost) = boost_of(words.at(j)) else { return 0.0 };
    let mut scalar = if rating < 0.0 { -boost } else { boost };
    if words.stands_out(j) {
        scalar += if rating > 0.0 { CAPITALS } else { -CAPITALS };
    }
    scalar
}

fn is_negation(word: &str) -> bool {
    word.contains("n't") || NEGATIONS.contains(&word)
}

/// The rating after a possible negation by word `i - distance`. "never so good" is praise, and "without doubt" is not a
/// negation.
fn negate(words: &Words, i: usize, distance: usize, rating: f64) -> f64 {
    let at = |d| words.at(i - d);
    let so = |d| matches!(at(d), "so" | "this");
    let (praise, doubtless) = match distance {
        1 => (false, false),
        2 => (at(2) == "never" && so(1), at(2) == "without" && at(1) == "doubt"),
        // As in the package, `and` and `or` are combined so that three words ahead, "so" just before the word is
        // enough.
        _ => ((at(3) == "never" && so(2)) || so(1), at(3) == "without" && (at(2) == "doubt" || at(1) == "doubt")),
    };
    if praise {
        rating * NEVER_SO
    } else if !doubtless && is_negation(at(distance)) {
        rating * NEGATION
    } else {
        rating
    }
}

/// The rating after idioms around word `i` (at least the fourth) and two-word dampeners before it.
fn idiom(words: &Words, i: usize, rating: f64) -> f64 {
    let idiom = |from, to| {
        let phrase = words.phrase(from, to);
        IDIOMS.iter().find(|(idiom, _)| *idiom == phrase).map(|(_, rating)| *rating)
    };
    let before = [(i - 1, i), (i - 2, i), (i - 2, i - 1), (i - 3, i - 1), (i - 3, i - 2)];
    let mut rating = before.into_iter().find_map(|(from, to)| idiom(from, to)).unwrap_or(rating);
    for to in [i + 1, i + 2].into_iter().filter(|to| *to < words.len()) {
        rating = idiom(i, to).unwrap_or(rating);
    }
    for (from, to) in [(i - 3, i - 1), (i - 3, i - 2), (i - 2, i - 1)] {
        rating += boost_of(&words.phrase(from, to)).unwrap_or(0.0);
    }
    rating
}

/// Weights ratings before the first "but" less, and those after it more. The package looks up each rating by its value,
/// so that among equal ratings the first one is changed, possibly more than once; this is replicated, as scores would
/// differ otherwise.
fn weigh_but(words: &Words, ratings: &mut [f64]) {
    let Some(but) = words.lower.iter().position(|w| w == "but") else { return };
    for i in 0..ratings.len() {
        let value = ratings[i];
        let first = ratings.iter().position(|r| r.total_cmp(&value).is_eq()).unwrap_or(i);
        match first.cmp(&but) {
            std::cmp::Ordering::Less => ratings[first] = value * BUT.0,
            std::cmp::Ordering::Greater => ratings[first] = value * BUT.1,
            std::cmp::Ordering::Equal => {}
        }
    }
}

/// Amount that exclamation and question marks add in the direction of the sum.
fn punctuation(text: &str) -> f64 {
    let exclamations = text.matches('!').count().min(4) as f64 * EXCLAMATION;
    let questions = match text.matches('?').count() {
        0 | 1 => 0.0,
        n @ (2 | 3) => n as f64 * QUESTION,
        _ => QUESTIONS_MAX,
    };
    exclamations + questions
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of `vader_lexicon.txt` that the sentences below use.
    const LEXICON: &str = "\
        :(\t-1.9\n:)\t2.0\nass\t-2.5\nawful\t-2.0\nbad\t-2.5\nbest\t3.2\nbomb\t-2.2\nbrave\t2.4\ndeath\t-2.9\n\
        despise\t-1.4\ndie\t-2.9\ndoubt\t-1.5\nfun\t2.3\nfunny\t1.9\ngood\t1.9\ngreat\t3.1\nhappy\t2.7\n\
        hate\t-2.7\nhonest\t2.3\nhope\t1.9\njoy\t2.8\nkind\t2.4\nkiss\t1.8\nlies\t-1.8\nlol\t1.8\nlove\t3.2\n\
        loved\t2.9\nlovely\t2.8\nmess\t-1.5\nno\t-1.2\npainful\t-1.9\nproblems\t-1.7\nsad\t-2.1\nsorry\t-0.3\n\
        stop\t-1.2\nstupid\t-2.4\nsure\t1.3\nterrible\t-2.1\nterribly\t-2.6\ntrouble\t-1.7\ntruly\t1.9\n\
        useful\t1.9\nwin\t2.8\nworries\t-1.8\nyeah\t1.2\n";

    /// Own sentences with their compound scores by `vaderSentiment` 3.3.2.
    const GOLDEN: &[(&str, f64)] = &[
        ("The soup was good.", 0.4404),
        ("The soup was good!", 0.4926),
        ("The soup was good!!!!!!", 0.6209),
        ("The soup was GOOD.", 0.5622),
        ("THE SOUP WAS GOOD.", 0.4404),
        ("The soup was very good.", 0.4927),
        ("The soup was VERY good.", 0.6028),
        ("The soup was really very good.", 0.5379),
        ("The soup was hardly good.", 0.3832),
        ("The soup was kind of good.", 0.3832),
        ("The soup was sort of bad.", -0.5849),
        ("It was just enough fun for one evening.", 0.4601),
        ("The soup was not good.", -0.3412),
        ("The soup wasn't good.", -0.3412),
        ("The soup was not very good.", -0.3865),
        ("The soup was not really that good.", -0.3843),
        ("Never so happy in my life.", 0.6948),
        ("I have never been so happy as here.", 0.6948),
        ("I was never happy there.", -0.4585),
        ("Without doubt the best lunch of the year.", 0.7438),
        ("Without a doubt the best lunch of the year.", 0.7438),
        ("The lunch was good, but the service was terrible.", -0.4939),
        ("The service was terrible, but the lunch was good and the view was good.", 0.7684),
        ("Good good good but bad bad.", -0.7684),
        ("No good came of it.", -0.3412),
        ("No problems, no worries, great trip.", 0.2924),
        ("There was no hope or joy.", -0.6681),
        ("It was the least useful tool I own.", -0.3412),
        ("At least the tool is useful.", 0.4404),
        ("Least useful tool of all.", -0.3412),
        ("That concert was the bomb.", 0.6124),
        ("A cake to die for, truly lovely.", 0.5994),
        ("On the whole he is a bad ass.", 0.6124),
        ("Yeah right, as if that helped me win.", 0.7184),
        ("We walked to the old bus stop without trouble.", 0.0),
        ("The kiss of death for any good plan.", 0.4939),
        ("Is this supposed to be funny??", 0.504),
        ("Is this supposed to be funny????", 0.594),
        ("Make sure you :) today, or :( if you must.", 0.34),
        ("LOL, that was awful and I loved it.", 0.6633),
        ("I don't hate it, I just don't love it either.", -0.0951),
        ("She is rarely kind.", -0.4168),
        ("The stone lies on the table.", -0.4215),
        ("A most UTTERLY stupid idea, I despise it!", -0.8124),
        ("He was neither honest nor brave.", -0.0996),
        ("Terribly sorry, this is an incredibly sad and painful mess?!", -0.9224),
    ];

    fn vader() -> Vader {
        Vader::parse(LEXICON).unwrap()
    }

    #[test]
    fn scores_are_those_of_the_reference_implementation_to_four_decimals() {
        let vader = vader();
        for (text, expected) in GOLDEN {
            assert_eq!(format!("{:.4}", vader.compound(text)), format!("{expected:.4}"), "{text}");
        }
        let mut values: Vec<String> = GOLDEN.iter().map(|(_, v)| v.to_string()).collect();
        values.sort();
        values.dedup();
        assert!(values.len() > 30, "the table tells rules apart");
    }

    #[test]
    fn a_text_without_rated_words_scores_zero_whatever_its_punctuation() {
        for text in ["", "   ", "!!!", "the stone sits there?!?!", "\u{1f}but but"] {
            assert!(vader().compound(text).abs() < 1e-15, "{text}");
        }
    }

    #[test]
    fn an_invalid_lexicon_is_rejected_with_its_line() {
        let error = Vader::parse("good\t1.9\nbad -2.5\n").unwrap_err();
        assert!(error.contains("line 2") && error.contains("word<TAB>valence"), "{error}");
        assert!(Vader::parse("good\tfine\n").unwrap_err().contains("line 1"));
        assert!(Vader::parse("good\tNaN\n").is_err());
        assert!(Vader::parse("\n\n").unwrap_err().contains("no words"));
        let missing = Vader::load(Path::new("/nowhere/lexicon.txt")).unwrap_err();
        assert!(matches!(&missing, Error::Data(m) if m.contains("/nowhere/lexicon.txt")), "{missing}");
    }
}
