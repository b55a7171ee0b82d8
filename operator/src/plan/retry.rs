//! How a run ended, what that counts for, and when it is tried again. Computes only.

use std::time::Duration;

use plumbline_crds::conditions::Reason;
use plumbline_crds::exit_code::ExitCode;
use plumbline_crds::status::JobRef;

use super::observed::{End, Exit};

/// The first delay before a failed run is tried again; it doubles from failure to failure.
pub const FIRST_DELAY: Duration = Duration::from_secs(5);
/// The longest delay.
pub const LONGEST_DELAY: Duration = Duration::from_mins(5);

/// What keeps a pod from being there for those that it trains with. It is nobody's failure.
pub const PEER_MISSING: [Reason; 5] = [
    Reason::NodeDisruption,
    Reason::Unschedulable,
    Reason::ImagePullFailed,
    Reason::ConfigInvalid,
    Reason::ChildCreationFailed,
];

impl From<ExitCode> for Exit {
    fn from(code: ExitCode) -> Self {
        Self::Code(i32::from(code.number()))
    }
}

impl End {
    /// Stopped from outside: not a failure.
    pub fn is_interruption(&self) -> bool {
        let taken = self.result.as_ref().is_some_and(|r| r.reason == Reason::NodeDisruption);
        self.exit == ExitCode::Interrupted.into() || taken
    }

    /// The end of a run that was asked to stop. One that a signal ended, ours most likely, has not failed.
    #[must_use]
    pub fn when_stopped(&self) -> Self {
        match self.exit {
            Exit::Signal(_) => Self { exit: ExitCode::Interrupted.into(), result: None, last: false },
            Exit::Code(_) => self.clone(),
        }
    }

    /// Whether the same run can end differently. A signal, or a code without a name, may be the machine's fault.
    pub fn is_retryable(&self) -> bool {
        match self.exit {
            Exit::Signal(_) | Exit::Code(0) => true,
            Exit::Code(code) => ExitCode::from_number(code).is_none_or(ExitCode::retryable),
        }
    }

    /// Why, by what the run says itself or, where it says nothing, by its exit.
    pub fn explain(&self) -> (Reason, String) {
        let code = match self.exit {
            Exit::Signal(signal) => {
                let hint = if signal == 9 { " (often because the machine ran out of memory)" } else { "" };
                return (Reason::TrainerFailed, format!("the trainer was ended by signal {signal}{hint}"));
            }
            Exit::Code(0) => {
                let message = "the trainer exited with code 0 but left no complete artifact".to_owned();
                return (Reason::TrainerFailed, message);
            }
            Exit::Code(code) => code,
        };
        let named = ExitCode::from_number(code).unwrap_or(ExitCode::Failed).reason();
        match self.result.as_ref().filter(|r| r.reason != Reason::Completed) {
            // The exit code is the contract; only where it has no name of its own does the result give one.
            Some(result) if named == Reason::TrainerFailed => (result.reason, result.message.clone()),
            Some(result) => (named, result.message.clone()),
            None => (named, format!("the trainer ended with exit code {code} and without a result; its log says more")),
        }
    }
}

/// The job with one more end counted.
pub fn count_end(job: &JobRef, end: &End) -> JobRef {
    let mut job = job.clone();
    let said = end.result.as_ref().map(|r| r.reason).filter(|r| *r == Reason::NodeDisruption);
    let reason = if end.is_interruption() { said.unwrap_or(Reason::Suspended) } else { end.explain().0 };
    let times = job.retries.entry(reason.as_str()).or_insert(0);
    *times = times.saturating_add(1);
    job
}

/// Ends that count against `compute.maxRetries`: those that were somebody's fault.
pub fn failures(job: &JobRef) -> i64 {
    job.retries.iter().filter(|(reason, _)| !is_innocent(reason)).fold(0, |sum, (_, n)| sum.saturating_add(*n))
}

/// Whether an end for this reason was nobody's fault.
pub fn is_innocent(reason: &str) -> bool {
    let interrupted = [Reason::Suspended, Reason::Preempted, Reason::JobDeleted];
    interrupted.into_iter().chain(PEER_MISSING).any(|innocent| innocent.as_str() == reason)
}

/// Interruptions, which do not.
pub fn interruptions(job: &JobRef) -> i64 {
    let of = |reason: Reason| job.retries.get(&reason.as_str()).copied().unwrap_or(0);
    of(Reason::Suspended).saturating_add(of(Reason::NodeDisruption))
}

/// The delay before the n-th repetition, n from 1.
pub fn delay(n: i64) -> Duration {
    match u32::try_from(n).unwrap_or(0) {
        0 => Duration::ZERO,
        n => FIRST_DELAY.saturating_mul(2u32.saturating_pow(n - 1)).min(LONGEST_DELAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plumbline_crds::run::StageResult;

    fn result(reason: Reason) -> StageResult {
        serde_json::from_value(serde_json::json!({"reason": reason, "message": "said"})).unwrap()
    }

    #[test]
    fn delays_double_up_to_the_longest() {
        let seconds: Vec<u64> = [0, 1, 2, 3, 7, 60, 1_000_000].into_iter().map(|n| delay(n).as_secs()).collect();
        assert_eq!(seconds, [0, 5, 10, 20, 300, 300, 300]);
    }

    #[test]
    fn the_exit_code_says_whether_and_the_result_says_why() {
        let end = |code, result| End { exit: Exit::Code(code), result, last: false };
        let cases = [
            (end(3, None), false, Reason::DataInvalid, "exit code 3"),
            (end(3, Some(result(Reason::DataInvalid))), false, Reason::DataInvalid, "said"),
            (end(4, None), true, Reason::JudgeUnavailable, "exit code 4"),
            (end(1, Some(result(Reason::OutOfMemory))), true, Reason::OutOfMemory, "said"),
            (end(101, None), true, Reason::TrainerFailed, "exit code 101"),
            (end(0, None), true, Reason::TrainerFailed, "no complete artifact"),
            (end(7, Some(result(Reason::Completed))), false, Reason::JudgeRejected, "exit code 7"),
            (End { exit: Exit::Signal(9), result: None, last: false }, true, Reason::TrainerFailed, "signal 9 (often"),
            (End { exit: Exit::Signal(11), result: None, last: false }, true, Reason::TrainerFailed, "signal 11"),
        ];
        for (end, retryable, reason, message) in cases {
            assert_eq!((end.is_retryable(), end.explain().0), (retryable, reason), "{end:?}");
            assert!(end.explain().1.contains(message), "{end:?}: {}", end.explain().1);
        }
    }

    #[test]
    fn interruptions_are_counted_apart_from_failures() {
        let mut job = JobRef::default();
        for code in [75, 4, 75, 1] {
            job = count_end(&job, &End { exit: Exit::Code(code), result: None, last: false });
        }
        assert_eq!((failures(&job), interruptions(&job)), (2, 2));
    }
}
