//! Sentences out of books, for the tiny model to learn from. Pure.

/// Words of a sentence that is kept.
const WORDS: std::ops::RangeInclusive<usize> = 6..=60;

/// The plain sentences of a text, in order: typographic quotes and dashes made ASCII, line breaks within a paragraph made
/// spaces; headings, fragments, and sentences with anything but letters, digits and common punctuation left out.
pub(crate) fn sentences(text: &str) -> Vec<String> {
    let text = plain(text);
    let paragraphs = text.split("\n\n").map(|p| p.split_whitespace().collect::<Vec<_>>());
    paragraphs.flat_map(|words| of_paragraph(&words)).filter(|s| is_sentence(s)).collect()
}

/// The first `count` words of a sentence, and the rest with its leading space.
pub(crate) fn opening(sentence: &str, count: usize) -> Option<(&str, &str)> {
    let (at, _) = sentence.match_indices(' ').nth(count.checked_sub(1)?)?;
    Some(sentence.split_at(at))
}

fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{2018}' | '\u{2019}' => out.push('\''),
            '\u{201c}' | '\u{201d}' => out.push('"'),
            '\u{2013}' | '\u{2014}' => out.push_str(" - "),
            '\r' => {}
            _ => out.push(c),
        }
    }
    out
}

/// Cuts after a word that ends with `.`, `!` or `?`, quoted or not, if the next one starts with a capital.
fn of_paragraph(words: &[&str]) -> Vec<String> {
    let (mut found, mut start) = (Vec::new(), 0);
    for end in 1..=words.len() {
        let closes = words[end - 1].trim_end_matches('"').ends_with(['.', '!', '?']);
        let opens = words.get(end).is_none_or(|w| w.trim_start_matches('"').starts_with(|c: char| c.is_uppercase()));
        if closes && opens {
            found.push(words[start..end].join(" "));
            start = end;
        }
    }
    found
}

fn is_sentence(text: &str) -> bool {
    // Quotes that open and close in different sentences teach nothing.
    let allowed = |c: char| c.is_ascii_alphanumeric() || " ,.;:!?'-".contains(c);
    let shouted = text.split(' ').filter(|w| w.len() > 2 && w.chars().all(|c| !c.is_ascii_lowercase())).count();
    WORDS.contains(&text.split(' ').count())
        && text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.chars().all(allowed)
        && shouted < 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_whole_plain_and_in_order() {
        let text = "CHAPTER 1. Loomings.\n\nCall me Ishmael. It is a way I have of driving off\r\nthe spleen \u{2014} and \
            there\u{2019}s more! \u{201c}Quoted words do not count as a sentence.\u{201d} Then Mr. jones went on in one \
            long line.\n\nToo short. \u{20ac}5 is no plain text at all, is it?";
        assert_eq!(
            sentences(text),
            [
                "It is a way I have of driving off the spleen - and there's more!",
                "Then Mr. jones went on in one long line."
            ]
        );
    }

    #[test]
    fn an_opening_and_its_rest_are_the_sentence() {
        assert_eq!(opening("I say no more.", 2), Some(("I say", " no more.")));
        assert_eq!(opening("Two words", 2), None, "nothing would be left to write");
    }
}
