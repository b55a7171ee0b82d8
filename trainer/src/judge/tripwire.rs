//! Whether a judge is worth asking on. Computes only.
//!
//! A reply without a verdict is paid for like any other. One now and then is part of judging, and is counted; a judge that gives
//! nothing else is stopped before much is paid: at the beginning after a few questions, later after many in a row.

use std::collections::BTreeMap;

/// So many first replies without a usable one, and the judge is not asked further.
const AT_FIRST: usize = 8;
/// So many in a row after usable ones. Even of a judge half of whose replies are unusable, which no gate passes, this many in a
/// row are not to be expected in the largest dataset.
const LATER: usize = 64;
/// Characters shown of a reply.
const SHOWN: usize = 200;
/// Causes named.
const NAMED: usize = 3;

/// What was replied since the last usable reply.
#[derive(Debug, Default)]
pub(super) struct Tripwire {
    usable: bool,
    in_a_row: usize,
    causes: BTreeMap<String, usize>,
    example: Option<String>,
}

impl Tripwire {
    /// A reply had a verdict.
    pub(super) fn usable(&mut self) {
        *self = Self { usable: true, ..Self::default() };
    }

    /// A reply had none, because of `cause`; `reply` is what it said. Of `total` questions in all. Returns why the judge is not
    /// to be asked further, if so.
    pub(super) fn unusable(&mut self, cause: &str, reply: Option<&str>, total: usize) -> Option<String> {
        self.in_a_row += 1;
        *self.causes.entry(cause.to_owned()).or_default() += 1;
        if let Some(reply) = reply.filter(|reply| self.example.is_none() && !reply.trim().is_empty()) {
            self.example = Some(super::server_error::one_line(reply, SHOWN));
        }
        let most = if self.usable { LATER } else { AT_FIRST.min(total) };
        (self.in_a_row >= most).then(|| self.told())
    }

    fn told(&self) -> String {
        let which = if self.usable { "last" } else { "first" };
        let example = self.example.as_ref().map_or(String::new(), |text| format!("; one of them: \"{text}\""));
        format!("none of its {which} {} replies has a verdict: {}{example}", self.in_a_row, causes(&self.causes))
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
}
