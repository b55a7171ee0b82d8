//! What to do next with a resource. Computes only: the operator and the local executor observe, decide here, and act.
//!
//! The rules, in the order they are asked:
//!
//! 1. A run that ended well is finished, whatever else is wanted meanwhile.
//! 2. Terminal is terminal. What succeeded is not made again until the spec changes: a changed input alone only makes
//!    it `Outdated`. What failed is not retried until the spec or an input changes; if the change makes no new run, as a raised
//!    budget does, the same run resumes. A user can lift both by asking for a rerun ([`Rerun::Asked`]).
//! 3. A suspended resource holds nothing; one whose inputs are not ready waits.
//! 4. An unfinished run whose inputs changed is left for a new one: half a result of each would be neither.
//! 5. A failure that can end differently is tried again, `compute.maxRetries` times, later each time. An interruption
//!    is not a failure.

mod observed;
pub mod retry;

pub use observed::{Action, Artifact, Decision, End, Exit, Inputs, Observed, Obstacle, Phase, Rerun, Run};

use std::collections::BTreeMap;
use std::time::Duration;

use plumbline_crds::conditions::{Condition, ConditionType, Reason};
use plumbline_crds::status::{ArtifactRef, InputRef, JobRef, Status};

use crate::digest;

/// Decides.
pub fn plan(observed: &Observed) -> Decision {
    let last = LastRun::of(observed);
    if let Some(artifact) = made(observed).filter(|_| last.same_spec) {
        return last.decide(Action::Finish, Phase::Done, Reason::Completed, at(&artifact.uri));
    }
    let running = matches!(observed.run, Run::Running(_));
    // A spec that a run has begun with was valid then: what this version does not accept any more ends no run.
    let begun = last.same_spec && last.recorded && (running || observed.previous.is_true(ConditionType::Succeeded));
    if !observed.problems.is_empty() && !begun {
        let action = if running { Action::Stop } else { Action::Fail };
        return last.decide(action, Phase::Failed, Reason::SpecInvalid, observed.problems.join("; "));
    }
    if let Some(decision) = terminal(observed, &last) {
        return decision;
    }
    if running && !last.same_spec {
        let message = "the spec changed while it ran: the run is stopped, then a new one starts";
        return last.decide(Action::Stop, Phase::Active, Reason::Running, message);
    }
    if let Some(message) = suspended(observed) {
        let action = if running { Action::Stop } else { Action::Wait };
        let decision = last.decide(action, Phase::Suspended, Reason::Suspended, message);
        return match observed.run {
            Run::Ended(end) if !end.last => {
                Decision { job: retry::count_end(&last.job, &end.when_stopped()), ..decision }
            }
            _ => decision,
        };
    }
    match observed.run {
        Run::Running(None) => {
            return last.decide(Action::Watch, Phase::Active, Reason::Running, attempt(&last.job));
        }
        Run::Running(Some(obstacle)) => {
            return last.decide(Action::Watch, Phase::Active, obstacle.reason, obstacle.message.clone());
        }
        Run::Ending => {
            let said = observed.previous.condition(ConditionType::Ready).filter(|_| last.recorded);
            let (reason, message) = said.map_or_else(|| (Reason::Running, attempt(&last.job)), reason_of);
            return last.decide(Action::Watch, Phase::Active, reason, message);
        }
        Run::Stopping => {
            let message = "waiting for the previous run to terminate";
            return last.decide(Action::Wait, Phase::Active, Reason::Pending, message);
        }
        Run::None | Run::Ended(_) => {}
    }
    match observed.inputs {
        Inputs::NotFound(names) => {
            let message = format!("{} not found; create what is missing, or correct the spec", names.join(", "));
            last.decide(Action::Wait, Phase::Waiting, Reason::ReferenceNotFound, message)
        }
        Inputs::NotReady(names) => {
            let message = format!("{} has no artifact yet; this starts when it has", names.join(", "));
            last.decide(Action::Wait, Phase::Waiting, Reason::ReferenceNotReady, message)
        }
        Inputs::Ready(inputs) if !last.same_run => {
            last.start(digest::run_name(observed.base_name, observed.spec, inputs), observed)
        }
        Inputs::Ready(_) => again(observed, &last),
        Inputs::Unknown => last.decide(Action::Wait, Phase::Waiting, Reason::Pending, "the inputs are not known yet"),
    }
}

/// What the status says of the last run, compared with what is wanted now.
struct LastRun {
    /// The last run; its name is empty when there was none.
    job: JobRef,
    /// The spec is the one of the last run.
    same_spec: bool,
    /// So are the inputs, as far as they are known.
    same_run: bool,
    /// The roles of the inputs that changed since.
    outdated: Vec<String>,
    /// The status speaks of this run: it was not killed before it could write that it had started it.
    recorded: bool,
}

impl LastRun {
    fn of(observed: &Observed) -> Self {
        let previous = observed.previous;
        let mut job = observed.job.or(previous.job.as_ref()).cloned().unwrap_or_default();
        let last = previous.job.as_ref().filter(|last| last.name == job.name);
        let recorded = last.is_some();
        let same_spec = last.map_or_else(|| is_wanted(&job.name, observed), |last| is_of_spec(last, observed));
        if same_spec {
            of_spec(&mut job, observed);
        } else if let Some(last) = last {
            (job.generation, job.spec_digest) = (last.generation, last.spec_digest.clone());
        }
        let outdated = match observed.inputs {
            Inputs::Ready(inputs) if same_spec && recorded => changed(&previous.inputs, inputs),
            _ => Vec::new(),
        };
        Self { job, same_spec, same_run: same_spec && outdated.is_empty(), outdated, recorded }
    }

    fn decide(&self, action: Action, phase: Phase, reason: Reason, message: impl Into<String>) -> Decision {
        let (mut job, outdated) = (self.job.clone(), self.outdated.clone());
        if action == Action::Stop {
            // What is stopped is let go: that it is gone afterwards is nobody else's doing.
            job.uid = None;
        }
        Decision { action, phase, reason, message: message.into(), job, outdated }
    }

    fn start(&self, name: String, observed: &Observed) -> Decision {
        let mut job = JobRef { name, attempt: 1, ..JobRef::default() };
        of_spec(&mut job, observed);
        let decision = self.decide(Action::Start, Phase::Active, Reason::Running, attempt(&job));
        Decision { job, outdated: Vec::new(), ..decision }
    }

    /// The same run once more, resumed by a user after it had failed: with all its retries again, and with what is left of its
    /// time.
    fn resume(&self) -> Decision {
        let job = JobRef {
            attempt: self.job.attempt.saturating_add(1),
            uid: None,
            retries: BTreeMap::new(),
            ..self.job.clone()
        };
        let action = Action::Retry(Duration::ZERO);
        let decision = self.decide(action, Phase::Active, Reason::Running, attempt(&job));
        Decision { job, ..decision }
    }
}

/// Whether the run of a status is one of the spec that is wanted. The spec of a generation never changes, while what a digest
/// is taken of may, from one version of this program to the next: an upgrade alone makes no run another.
pub(crate) fn is_of_spec(last: &JobRef, observed: &Observed) -> bool {
    last.generation == Some(observed.generation)
        || last.spec_digest.as_ref() == Some(&digest::spec_digest(observed.spec))
        || (last.generation.is_none() && had_ended(observed))
}

/// Whether the status of a version that did not write of which spec a run is says that this one ended with the spec that it
/// has observed last.
fn had_ended(observed: &Observed) -> bool {
    let previous = observed.previous;
    let failed = previous.condition(ConditionType::Stalled).is_some_and(|c| c.reason != Reason::SpecInvalid);
    let ended = previous.is_true(ConditionType::Succeeded) || (previous.is_true(ConditionType::Stalled) && failed);
    ended && previous.observed_generation == observed.generation
}

/// Whether a run that no status speaks of, since the process that started it was killed, is the one that would be started now.
fn is_wanted(name: &str, observed: &Observed) -> bool {
    let Inputs::Ready(inputs) = observed.inputs else { return false };
    digest::run_name(observed.base_name, observed.spec, inputs) == name
}

/// Notes that a run is of the spec that is wanted now, as this version digests it.
fn of_spec(job: &mut JobRef, observed: &Observed) {
    job.generation = Some(observed.generation);
    job.spec_digest = Some(digest::spec_digest(observed.spec));
}

fn attempt(job: &JobRef) -> String {
    format!("run {}, attempt {}", job.name, job.attempt)
}

fn at(uri: &str) -> String {
    format!("the artifact is at {uri}")
}

/// The roles whose digests differ. What cannot be read from here has no digest now, and has not changed.
pub(crate) fn changed(before: &[InputRef], now: &[InputRef]) -> Vec<String> {
    let digest = |inputs: &[InputRef], role: &str| inputs.iter().find(|i| i.role == role).map(|i| i.digest.clone());
    now.iter()
        .filter(|i| !i.digest.is_empty() && digest(before, &i.role).as_ref() != Some(&i.digest))
        .map(|i| i.role.clone())
        .collect()
}

/// The artifact of a run that ended well: said by the run, and found where it can be looked at.
pub(crate) fn made<'a>(observed: &'a Observed) -> Option<&'a ArtifactRef> {
    let Run::Ended(end) = observed.run else { return None };
    let said = end.result.as_ref().filter(|_| end.exit == Exit::Code(0))?.artifact.as_ref()?;
    match &observed.artifact {
        Artifact::Verified(found) if found.digest == said.digest => Some(found),
        Artifact::Unseen => Some(said),
        _ => None,
    }
}

/// What stays as it is because it has ended.
fn terminal(observed: &Observed, last: &LastRun) -> Option<Decision> {
    let previous = observed.previous;
    if !last.recorded {
        return None;
    }
    let asked = observed.rerun == Rerun::Asked;
    let same = if asked { last.same_run } else { last.same_spec };
    if previous.is_true(ConditionType::Succeeded) {
        return if same { succeeded(observed, last, asked) } else { None };
    }
    let failed = previous.condition(ConditionType::Stalled).filter(|_| previous.is_true(ConditionType::Stalled))?;
    if failed.reason == Reason::SpecInvalid {
        return None;
    }
    let untouched = last.same_run && !asked && observed.generation == previous.observed_generation;
    // The Job of several pods does not count how it failed itself: what was counted then stays.
    let retries = previous.job.as_ref().map(|job| job.retries.clone()).unwrap_or_default();
    let decision = last.decide(Action::Fail, Phase::Failed, failed.reason, failed.message.clone());
    untouched.then(|| Decision { job: JobRef { retries, ..last.job.clone() }, ..decision })
}

fn succeeded(observed: &Observed, last: &LastRun, asked: bool) -> Option<Decision> {
    let recorded = observed.previous.artifact.as_ref();
    let uri = recorded.map_or("the output", |a| a.uri.as_str());
    let mismatch = match &observed.artifact {
        Artifact::Unseen => None,
        Artifact::Verified(found) if recorded.is_some_and(|a| a.digest == found.digest) => None,
        Artifact::Verified(found) => Some(format!(
            "{uri}: expected the artifact with digest {}, found one with {}; restore it, or delete the directory and run the resource again",
            recorded.map_or("unknown", |a| a.digest.as_str()),
            found.digest
        )),
        // A user who deleted the directory and asks again wants it back; one who altered it may want to keep what is there.
        Artifact::Absent if asked => return None,
        Artifact::Absent => Some(format!(
            "{uri}: expected the artifact, found nothing; restore it, or change the spec to make it again"
        )),
        Artifact::Mismatch(how) => Some(how.clone()),
    };
    Some(match mismatch {
        None => last.decide(Action::Skip, Phase::Done, Reason::Completed, at(uri)),
        Some(message) => last.decide(Action::Fail, Phase::ArtifactMismatch, Reason::DataInvalid, message),
    })
}

fn suspended(observed: &Observed) -> Option<&'static str> {
    if observed.spec.suspend() {
        Some("suspended by spec.suspend; set it to false to resume")
    } else if observed.stopping {
        Some("interrupted; run the same command again to resume")
    } else {
        None
    }
}

/// The same run once more, or the end of it.
fn again(observed: &Observed, last: &LastRun) -> Decision {
    let previous = observed.previous;
    let had_failed = previous.is_true(ConditionType::Stalled);
    let was_suspended = previous.condition(ConditionType::Ready).is_some_and(|c| c.reason == Reason::Suspended);
    let Run::Ended(end) = observed.run else {
        if had_failed && observed.rerun == Rerun::SpecChange {
            return last.resume();
        }
        if had_failed || previous.is_true(ConditionType::Succeeded) {
            return last.start(last.job.name.clone(), observed);
        }
        // The process that ran it was killed before it could record how it ended.
        let mut job = JobRef { attempt: last.job.attempt.saturating_add(1), uid: None, ..last.job.clone() };
        let deleted = last.job.uid.is_some() && !was_suspended;
        if deleted {
            let times = job.retries.entry(Reason::JobDeleted.as_str()).or_insert(0);
            *times = times.saturating_add(1);
        }
        let message = if deleted {
            "JobDeleted: its Job was deleted externally; the run resumes"
        } else {
            "the previous attempt ended unexpectedly; resuming"
        };
        let action = Action::Continue(Duration::ZERO);
        return Decision { job, ..last.decide(action, Phase::Active, Reason::Running, message) };
    };
    if end.last && (had_failed || was_suspended || last.job.uid.is_none()) {
        return last.resume();
    }
    if end.last {
        let (reason, why) = end.explain();
        return last.decide(Action::Fail, Phase::Failed, reason, why);
    }
    if let Some((reason, message)) = missing_peer(observed.previous, end) {
        let mut job = JobRef { attempt: last.job.attempt.saturating_add(1), ..last.job.clone() };
        let times = job.retries.entry(reason.as_str()).or_insert(0);
        *times = times.saturating_add(1);
        let action = Action::Continue(retry::delay(*times));
        return Decision { job, ..last.decide(action, Phase::Active, reason, message) };
    }
    let counted = retry::count_end(&last.job, end);
    let next = JobRef { attempt: last.job.attempt.saturating_add(1), ..counted.clone() };
    if end.is_interruption() {
        // At once the first time; something that interrupts it over and over must not make it spin.
        let action = Action::Continue(retry::delay(retry::interruptions(&counted).saturating_sub(1)));
        let message = "it was interrupted and continues where it stopped";
        return Decision { job: next, ..last.decide(action, Phase::Active, Reason::Running, message) };
    }
    let (reason, why) = end.explain();
    let (failures, most) = (retry::failures(&counted), observed.spec.compute().max_retries);
    if end.is_retryable() && failures <= most {
        let delay = retry::delay(failures);
        let message = format!("{why}; retrying in {} s (retry {failures} of {most})", delay.as_secs());
        return Decision { job: next, ..last.decide(Action::Retry(delay), Phase::Active, Reason::Retrying, message) };
    }
    let message = if end.is_retryable() && most > 0 { format!("{why}; gave up after {most} retries") } else { why };
    Decision { job: counted, ..last.decide(Action::Fail, Phase::Failed, reason, message) }
}

/// Why one of several that train together was not there, where that was known before the others gave up waiting for it: they
/// have not failed. What is missing may come any time.
fn missing_peer(previous: &Status, end: &End) -> Option<(Reason, String)> {
    let (reason, message) = reason_of(previous.condition(ConditionType::Ready)?);
    (end.explain().0 == Reason::PeerLost && retry::PEER_MISSING.contains(&reason)).then_some((reason, message))
}

fn reason_of(condition: &Condition) -> (Reason, String) {
    (condition.reason, condition.message.clone())
}

#[cfg(test)]
mod tests;
