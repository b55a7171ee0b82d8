//! Decides whether a judge is worth asking further. Computes only.
//!
//! A reply without a verdict costs as much as any other. Occasional ones are normal, and are counted; a judge with
//! hardly any verdicts is stopped early: at the beginning after a few questions, later after many consecutive failures,
//! or when nine of ten replies have failed.

use std::collections::BTreeMap;

/// The judge is stopped after this many first replies without a usable one.
const AT_FIRST: usize = 8;
/// The judge is stopped after this many consecutive unusable replies later on. Even if half of its replies are
/// unusable, which fails every gate, a run of this length is not expected in the largest dataset.
const LATER: usize = 64;
/// From this number of replies on, the rate of unusable ones is checked.
const SHARE_FROM: usize = 200;
/// The judge is stopped if this many of ten replies are unusable.
const MOST_OF_TEN: usize = 9;
/// Maximum characters shown of a reply.
const SHOWN: usize = 200;
/// Maximum number of causes shown.
const NAMED: usize = 3;

/// Counts of replies so far.
#[derive(Debug, Default)]
pub(super) struct Tripwire {
    usable: usize,
    unusable: usize,
    /// Unusable replies since the last usable one.
    in_a_row: usize,
    causes: BTreeMap<String, usize>,
    example: Option<String>,
}

impl Tripwire {
    /// Counts a reply with a verdict.
    pub(super) fn usable(&mut self) {
        self.usable += 1;
        self.in_a_row = 0;
    }

    /// Counts a reply of an earlier start, which is paid for and stops no judge.
    pub(super) fn replayed(&mut self, usable: bool) {
        if usable {
            self.usable();
        } else {
            self.unusable += 1;
        }
    }

    /// Counts a reply without a verdict, because of `cause`; `reply` is its text. `total`: number of all questions.
    /// Returns the reason to stop the judge, if there is one.
    pub(super) fn unusable(&mut self, cause: &str, reply: Option<&str>, total: usize) -> Option<String> {
        self.unusable += 1;
        self.in_a_row += 1;
        *self.causes.entry(cause.to_owned()).or_default() += 1;
        if let Some(reply) = reply.filter(|reply| self.example.is_none() && !reply.trim().is_empty()) {
            self.example = Some(super::server_error::one_line(reply, SHOWN));
        }
        let all = self.usable + self.unusable;
        let which = if self.usable == 0 && self.unusable >= AT_FIRST.min(total) {
            format!("none of its first {all}")
        } else if self.usable > 0 && self.in_a_row >= LATER {
            format!("none of its last {}", self.in_a_row)
        } else if all >= SHARE_FROM && self.unusable * 10 >= all * MOST_OF_TEN {
            format!("only {} of its {all}", self.usable)
        } else {
            return None;
        };
        let verb = if which.starts_with("none") || self.usable == 1 { "has" } else { "have" };
        let example = self.example.as_ref().map_or(String::new(), |text| format!("; one of them: \"{text}\""));
        Some(format!("{which} replies {verb} a verdict: {}{example}", causes(&self.causes)))
    }
}

/// Causes with their counts, the most frequent first: `5 x the reply is empty; 3 x ...`.
pub(super) fn causes<N: Copy + Ord + std::fmt::Display>(causes: &BTreeMap<String, N>) -> String {
    let mut sorted: Vec<(&String, N)> = causes.iter().map(|(cause, n)| (cause, *n)).collect();
    sorted.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let more = sorted.len().saturating_sub(NAMED);
    let named: Vec<String> = sorted.iter().take(NAMED).map(|(cause, n)| format!("{n} x {cause}")).collect();
    named.join("; ") + &if more > 0 { format!("; and {more} more causes") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judge_without_any_verdict_is_stopped_after_eight_whatever_the_causes() {
        let mut wire = Tripwire::default();
        let causes = ["empty", "truncated", "empty", "refused", "ambiguous", "empty", "HTTP 400"];
        for cause in causes {
            assert_eq!(wire.unusable(cause, Some(&format!("words of\n{cause}")), 100), None);
        }
        let why = wire.unusable("empty", None, 100).unwrap();
        assert_eq!(
            why,
            "none of its first 8 replies has a verdict: 4 x empty; 1 x HTTP 400; 1 x ambiguous; and 2 more causes; one of them: \
             \"words of empty\""
        );
        assert!(Tripwire::default().unusable("empty", None, 1).is_some(), "a dataset of one question has no more");
    }

    #[test]
    fn unusable_replies_among_usable_ones_never_stop_a_judge() {
        let mut wire = Tripwire::default();
        wire.usable();
        for i in 0..10_000_usize {
            let unusable = crate::data::id::unit(&["tripwire", &i.to_string()]) < 0.6;
            if unusable {
                assert_eq!(wire.unusable("empty", None, 10_000), None, "question {i}");
            } else {
                wire.usable();
            }
        }
    }

    #[test]
    fn a_judge_that_breaks_in_the_middle_is_stopped_after_many_in_a_row() {
        let mut wire = Tripwire::default();
        wire.usable();
        let stopped = (1..1000).find(|_| wire.unusable("empty", None, 1000).is_some());
        assert_eq!(stopped, Some(64));
        wire.usable();
        assert_eq!(wire.unusable("empty", None, 1000), None);
    }

    #[test]
    fn a_judge_with_one_verdict_in_ten_replies_is_stopped() {
        let mut wire = Tripwire::default();
        let mut stopped = None;
        for n in 1..1000 {
            if n % 20 == 1 {
                wire.usable();
            } else if let Some(why) = wire.unusable("empty", None, 1000) {
                stopped = Some((n, why));
                break;
            }
        }
        assert_eq!(stopped, Some((200, "only 10 of its 200 replies have a verdict: 190 x empty".into())));
    }
}
