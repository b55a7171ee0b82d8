//! Reads a verdict from the log-probabilities of a reply's first tokens. Computes only.

use std::collections::HashSet;

use super::reasoning;
use super::verdict::{SoftVerdict, Verdict};
use super::wire::{Choice, Position, TOKEN_ID};
use super::words::undecorated;

/// Log-probabilities up to this are sentinels for "impossible" (-9999 at OpenAI).
const SENTINEL: f64 = -100.0;
/// Smallest remaining probability of a list of alternatives that is used: below it, rounding dominates.
const LEAST_REST: f64 = 1e-6;
/// How far rounding may raise a log-probability above 0, and the sum of probabilities above 1.
const ROUNDING: f64 = 0.05;

/// Reason: a reply without log-probabilities has no soft label.
pub const NO_LOG_PROBS: &str =
    "the reply has no log-probabilities; set labelSource: Verdict, or use an endpoint that returns them";
const NO_TOKEN: &str = "the reply is white space";
const NO_ANSWER: &str = "neither answer is among the likely tokens (log-probabilities without label mass)";
const IDS: &str = "the server writes tokens as ids (token_id:...), not as text; start vLLM without \
                   --return-tokens-as-token-ids";
const NOT_LOG_PROBS: &str = "the log-probabilities are above 0, sum to more than 1 or are not numbers";
const REASONING: &str = "the log-probabilities are those of reasoning before the answer; turn the model's reasoning \
                         off, or use a model without it";
/// Reason: probabilities of 0 and 1 are not soft labels.
pub const AFTER_SAMPLING: &str = "every log-probability is 0 or -9999: these are probabilities after greedy sampling, \
                                  which say nothing; set labelSource: Verdict, or use an endpoint that returns those before \
                                  sampling";

/// Reads the verdict from the alternatives at the first position that is neither white space nor a bracket.
///
/// The probabilities of all spellings of an answer are summed: other case, spaces, brackets, or a unique prefix (" pos"
/// for " positive"). The probability of an unlisted answer is at most that of the least likely listed one, and at most
/// what the list leaves over; it is set to the smaller of the two instead of zero, so that a short list cannot make a
/// label certain.
pub fn read(choice: &Choice, answers: &[String; 2]) -> Verdict {
    let position = match position(&choice.positions, answers) {
        Ok(position) => position,
        Err(why) => return Verdict::Unparsed(why),
    };
    // Reasoning in a separate field has log-probabilities too, before those of the text.
    let of_text = choice.text.trim_start().starts_with(position.token.trim_start());
    if reasoning::opens(&position.token) || (choice.reasoning.is_some() && !of_text) {
        return Verdict::Unparsed(REASONING);
    }
    let (mut mass, mut listed, mut least) = ([0.0; 2], 0.0, f64::INFINITY);
    let mut seen = HashSet::new();
    for (token, logprob) in &position.top {
        // A token that is listed twice counts once.
        if *logprob <= SENTINEL || !seen.insert((token, logprob.to_bits())) {
            continue;
        }
        let p = logprob.min(0.0).exp();
        listed += p;
        least = least.min(p);
        if let Some(answer) = answer_of_token(token, answers) {
            mass[answer] += p;
        }
    }
    if listed > 1.0 + ROUNDING {
        return Verdict::Unparsed(NOT_LOG_PROBS);
    }
    if mass.iter().all(|m| *m <= 0.0) {
        return Verdict::Unparsed(NO_ANSWER);
    }
    let floor = least.min((1.0 - listed).max(LEAST_REST));
    let [first, second] = mass.map(|p| if p > 0.0 { p } else { floor });
    Verdict::soft(SoftVerdict { log_odds: (first / second).ln(), mass: Some((mass[0] + mass[1]).min(1.0)) })
}

/// Whether the probabilities are 1 and 0, as they are after greedy sampling. For a single reply this can mean that the
/// judge is certain; if it is true of all replies, the judge returns no probabilities.
pub fn is_after_sampling(choice: &Choice, answers: &[String; 2]) -> bool {
    position(&choice.positions, answers).is_ok_and(|p| {
        let sure = p.top.iter().filter(|(_, l)| *l > -1e-9).count();
        sure == 1 && p.top.iter().all(|(_, l)| *l > -1e-9 || *l <= SENTINEL)
    })
}

/// The position of the answer, if its alternatives are log-probabilities of texts.
fn position<'a>(positions: &'a [Position], answers: &[String; 2]) -> Result<&'a Position, &'static str> {
    if positions.is_empty() {
        return Err(NO_LOG_PROBS);
    }
    let position = positions.iter().find(|p| !is_opening(&p.token, answers)).ok_or(NO_TOKEN)?;
    if position.token.starts_with(TOKEN_ID) {
        return Err(IDS);
    }
    if position.top.is_empty() {
        return Err(NO_LOG_PROBS);
    }
    if position.top.iter().any(|(_, l)| l.is_nan() || *l > ROUNDING) {
        return Err(NOT_LOG_PROBS);
    }
    Ok(position)
}

/// Whether a token is white space, a quote or a bracket before the answer, and not an answer itself.
fn is_opening(token: &str, answers: &[String; 2]) -> bool {
    let byte = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>')).and_then(|t| u8::from_str_radix(t, 16).ok());
    let blank = byte.map_or_else(|| undecorated(token).is_empty(), |b| b.is_ascii_whitespace());
    blank && answer_of_token(token, answers).is_none()
}

/// The answer that a token spells or begins.
fn answer_of_token(token: &str, answers: &[String; 2]) -> Option<usize> {
    let token = plain(token);
    if token.is_empty() {
        return None;
    }
    let answers = [plain(&answers[0]), plain(&answers[1])];
    if let Some(exact) = answers.iter().position(|a| *a == token) {
        return Some(exact);
    }
    match [answers[0].starts_with(&token), answers[1].starts_with(&token)] {
        [true, false] => Some(0),
        [false, true] => Some(1),
        _ => None,
    }
}

/// In lower case without spaces and, if a word remains, without surrounding brackets and quotes.
fn plain(text: &str) -> String {
    let bare = undecorated(text);
    (if bare.is_empty() { text.trim() } else { bare }).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(first: &str, second: &str) -> [String; 2] {
        [first.into(), second.into()]
    }

    fn read_log_probs(positions: &[Position], answers: &[String; 2]) -> Verdict {
        read(&Choice { positions: positions.to_vec(), ..Choice::default() }, answers)
    }

    fn position(token: &str, top: &[(&str, f64)]) -> Position {
        Position { token: token.into(), top: top.iter().map(|(t, p)| ((*t).into(), p.ln())).collect() }
    }

    fn soft(verdict: &Verdict) -> SoftVerdict {
        match verdict {
            Verdict::First(Some(s)) | Verdict::Second(Some(s)) | Verdict::Tie(Some(s)) => *s,
            other => panic!("no probability: {other:?}"),
        }
    }

    #[test]
    fn every_spelling_of_an_answer_counts() {
        let p = position(
            "A",
            &[("A", 0.3), (" A", 0.2), ("(A", 0.05), ("**A", 0.05), ("B", 0.1), (" b", 0.02), ("The", 0.1)],
        );
        let s = soft(&read_log_probs(&[p], &answers("A", "B")));
        assert!((s.mass.unwrap() - 0.72).abs() < 1e-9 && (s.log_odds - (0.6_f64 / 0.12).ln()).abs() < 1e-9, "{s:?}");
        let p = position(" pos", &[(" pos", 0.5), (" Positive", 0.1), (" neg", 0.1), (" n", 0.05), (" great", 0.1)]);
        let s = soft(&read_log_probs(&[p], &answers(" positive", " negative")));
        assert!((s.log_odds - (0.6_f64 / 0.15).ln()).abs() < 1e-9, "beginnings of a word count: {s:?}");
        let p = position("gr", &[("gr", 0.5), ("great", 0.3), ("grim", 0.1)]);
        let s = soft(&read_log_probs(&[p], &answers("great", "grim")));
        assert!((s.log_odds - 3.0_f64.ln()).abs() < 1e-9, "a beginning that both share says nothing: {s:?}");
    }

    #[test]
    fn an_unlisted_answer_has_some_probability() {
        let p = position("A", &[("A", 0.9), ("The", 0.05), ("I", 0.001)]);
        let s = soft(&read_log_probs(&[p], &answers("A", "B")));
        assert!((s.log_odds - (0.9_f64 / 0.001).ln()).abs() < 1e-9, "the least likely listed token bounds it: {s:?}");
        assert!((s.mass.unwrap() - 0.9).abs() < 1e-12, "the floor is no label mass");
        let one = position("A", &[("A", 0.9)]);
        let s = soft(&read_log_probs(&[one], &answers("A", "B")));
        assert!((s.log_odds - 9.0_f64.ln()).abs() < 1e-9, "with one token listed, the rest bounds it: {s:?}");
        let sure = position("B", &[("B", 1.0)]);
        let p = read_log_probs(&[sure], &answers("A", "B")).probability().unwrap();
        assert!(p > 0.0 && p < 1e-5, "{p}");
        let sentinel = Position { token: "A".into(), top: vec![("A".into(), -0.001), ("B".into(), -9999.0)] };
        let p = read_log_probs(&[sentinel], &answers("A", "B")).probability().unwrap();
        assert!(p > 0.99 && p < 1.0, "a sentinel is no probability: {p}");
    }

    #[test]
    fn white_space_before_the_answer_is_skipped() {
        let ab = answers("A", "B");
        let s = soft(&read_log_probs(&[position("\n", &[("\n", 1.0)]), position("B", &[("B", 0.8), ("A", 0.2)])], &ab));
        assert!((s.log_odds + 4.0_f64.ln()).abs() < 1e-9);
        assert_eq!(read_log_probs(&[], &ab), Verdict::Unparsed(NO_LOG_PROBS));
        assert!(matches!(read_log_probs(&[position("The", &[("The", 0.9), ("I", 0.1)])], &ab), Verdict::Unparsed(_)));
        let only_sentinels = Position { token: "A".into(), top: vec![("A".into(), -9999.0), ("B".into(), f64::NAN)] };
        assert!(matches!(read_log_probs(&[only_sentinels], &ab), Verdict::Unparsed(_)));
    }

    #[test]
    fn an_answer_is_recognised_in_every_notation() {
        let ab = answers("A", "B");
        for (a, b) in [
            ("\u{2581}A", "\u{2581}B"),
            ("\u{120}A", "\u{120}B"),
            ("\u{10a}A", "\u{10a}B"),
            ("\"A", "\"B"),
            ("\u{201c}A", "\u{201c}B"),
            ("'A'", "'B'"),
            ("A.", "B."),
            ("[[A", "[[B"),
            (" **A", " **B"),
        ] {
            let s = soft(&read_log_probs(&[position(a, &[(a, 0.6), (b, 0.2)])], &ab));
            assert!((s.log_odds - 3.0_f64.ln()).abs() < 1e-9 && (s.mass.unwrap() - 0.8).abs() < 1e-9, "{a}: {s:?}");
        }
        for before in ["\n", "\u{10a}", "<0x0A>", "\u{2581}", "\"", "**", "[[", " ("] {
            let opening = position(before, &[(before, 0.9), ("A", 0.1)]);
            let verdict = read_log_probs(&[opening, position("B", &[("B", 0.8), ("A", 0.2)])], &ab);
            assert!((soft(&verdict).log_odds + 4.0_f64.ln()).abs() < 1e-9, "{before:?}: {verdict:?}");
        }
        let symbols = read_log_probs(&[position("#", &[("#", 0.6), ("*", 0.2)])], &answers("#", "*"));
        assert!((soft(&symbols).log_odds - 3.0_f64.ln()).abs() < 1e-9, "an answer may be a bracket");
    }

    #[test]
    fn other_values_than_log_probabilities_are_rejected_by_cause() {
        let ab = answers("A", "B");
        let raw = |token: &str, top: &[(&str, f64)]| {
            let top = top.iter().map(|(t, l)| ((*t).to_owned(), *l)).collect();
            Choice { positions: vec![Position { token: token.into(), top }], ..Choice::default() }
        };
        for (reply, why) in [
            (raw("A", &[("A", 5.0), ("B", 3.0)]), NOT_LOG_PROBS),
            (raw("A", &[("A", 1e308), ("B", -1e308)]), NOT_LOG_PROBS),
            (raw("A", &[("A", f64::NAN), ("B", -1.0)]), NOT_LOG_PROBS),
            (raw("A", &[("A", -0.1), ("B", -0.1)]), NOT_LOG_PROBS),
            (raw("token_id:362", &[("token_id:362", -0.1), ("token_id:363", -2.0)]), IDS),
            (raw("A", &[]), NO_LOG_PROBS),
            (raw("<think>", &[("<think>", -0.01), ("A", -5.0)]), REASONING),
            (raw("The", &[("The", -0.1)]), NO_ANSWER),
            (
                Choice { reasoning: Some("A seems".into()), text: "B".into(), ..raw("A", &[("A", -0.1), ("B", -3.0)]) },
                REASONING,
            ),
        ] {
            assert_eq!(read(&reply, &ab), Verdict::Unparsed(why), "{reply:?}");
        }
        let beside = Choice { reasoning: Some("B?".into()), text: "A".into(), ..raw("A", &[("A", -0.1), ("B", -3.0)]) };
        assert!(matches!(read(&beside, &ab), Verdict::First(_)), "log-probabilities of the text are read");
        let twice = raw("A", &[("A", -0.3), ("A", -0.3), ("A", -0.3), ("B", -1.5)]);
        assert!((soft(&read(&twice, &ab)).log_odds - 1.2).abs() < 1e-9, "what is listed twice counts once");
    }

    #[test]
    fn a_list_of_maximum_length_is_read_quickly() {
        let others = (0..40_000).map(|i| (format!("t{i}"), -15.0));
        let top = [("A".to_owned(), -0.3), ("B".to_owned(), -1.5)].into_iter().chain(others).collect();
        let reply = Choice { positions: vec![Position { token: "A".into(), top }], ..Choice::default() };
        let begun = std::time::Instant::now();
        assert!((soft(&read(&reply, &answers("A", "B"))).log_odds - 1.2).abs() < 1e-9);
        assert!(begun.elapsed() < std::time::Duration::from_secs(3), "{:?}", begun.elapsed());
    }

    #[test]
    fn probabilities_after_greedy_sampling_are_recognised() {
        let ab = answers("A", "B");
        let reply = |top: &[(&str, f64)]| Choice {
            positions: vec![Position { token: "A".into(), top: top.iter().map(|(t, l)| ((*t).into(), *l)).collect() }],
            ..Choice::default()
        };
        assert!(is_after_sampling(&reply(&[("A", 0.0), ("B", -9999.0), ("C", -9999.0)]), &ab));
        assert!(is_after_sampling(&reply(&[("A", 0.0)]), &ab));
        for sound in [&[("A", -0.1), ("B", -9999.0)][..], &[("A", 0.0), ("B", -17.0)], &[("A", -0.7), ("B", -0.7)], &[]]
        {
            assert!(!is_after_sampling(&reply(sound), &ab), "{sound:?}");
        }
    }
}
