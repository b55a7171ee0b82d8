//! Each rule of `plan` as a table: what is observed, and what must follow.

mod ends;

use std::time::Duration;

use plumbline_crds::conditions::{ConditionStatus, ConditionType, Reason};
use plumbline_crds::run::StageResult;
use plumbline_crds::status::{ArtifactRef, InputRef, JobRef, Status};
use plumbline_crds::{Kind, Spec};
use serde_json::{Value, json};

use super::*;
use crate::status::status;

const T0: &str = "2026-01-01T00:00:00Z";
const T1: &str = "2026-01-01T00:01:00Z";

fn spec(change: &Value) -> Spec {
    let mut spec = json!({"datasetRef": {"name": "d"}, "baseModel": {"uri": "m"}});
    for (key, value) in change.as_object().unwrap() {
        spec[key] = value.clone();
    }
    Spec::from_json(Kind::RewardModel, spec).unwrap()
}

fn ready(digest: &str) -> Inputs {
    let input = |role: &str, digest: &str| InputRef { role: role.into(), name: role.into(), digest: digest.into() };
    Inputs::Ready(vec![input("datasetRef", digest), input("baseModel", "sha256:m")])
}

fn artifact(digest: &str) -> ArtifactRef {
    ArtifactRef { uri: "file:///a".into(), digest: digest.into(), size_bytes: 1, created_time: T0.into() }
}

fn ended(code: i32) -> Run {
    let result = (code == 0).then(|| StageResult {
        artifact: Some(artifact("sha256:a")),
        ..serde_json::from_value(json!({"reason": "Completed", "message": "", "evaluation": {"accuracy": "0.7"}}))
            .unwrap()
    });
    end(Exit::Code(code), result)
}

fn end(exit: Exit, result: Option<StageResult>) -> Run {
    Run::Ended(Box::new(End { exit, result, last: false }))
}

/// A resource and what surrounds it, changed step by step as a controller would see it.
struct Scenario {
    spec: Spec,
    generation: i64,
    status: Status,
    inputs: Inputs,
    run: Run,
    /// What the cluster counts of the run, where it counts.
    job: Option<JobRef>,
    problems: Vec<String>,
    artifact: Artifact,
    stopping: bool,
    rerun: Rerun,
}

impl Scenario {
    fn new() -> Self {
        Self {
            spec: spec(&json!({})),
            generation: 1,
            status: Status::default(),
            inputs: ready("sha256:d"),
            run: Run::None,
            job: None,
            problems: Vec::new(),
            artifact: Artifact::Absent,
            stopping: false,
            rerun: Rerun::SpecChange,
        }
    }

    /// One reconcile: decide, write the status, forget the end that was handled.
    fn reconcile(&mut self, now: &str) -> Decision {
        let observed = Observed {
            spec: &self.spec,
            generation: self.generation,
            previous: &self.status,
            inputs: &self.inputs,
            run: &self.run,
            job: self.job.as_ref(),
            base_name: "run",
            problems: &self.problems,
            artifact: self.artifact.clone(),
            stopping: self.stopping,
            rerun: self.rerun,
        };
        let decision = plan(&observed);
        let status = status(&observed, &decision, now);
        self.status = status;
        if matches!(self.run, Run::Ended(_)) {
            self.run = Run::None;
        }
        decision
    }

    /// A user writes another spec.
    fn change(&mut self, change: &Value) {
        (self.spec, self.generation) = (spec(change), self.generation + 1);
    }

    fn started() -> Self {
        let mut scenario = Self::new();
        assert_eq!(scenario.reconcile(T0).action, Action::Start);
        scenario
    }

    fn done() -> Self {
        let mut scenario = Self::started();
        scenario.run = ended(0);
        scenario.artifact = Artifact::Verified(artifact("sha256:a"));
        assert_eq!(scenario.reconcile(T0).action, Action::Finish);
        scenario
    }

    fn failed() -> Self {
        let mut scenario = Self::started();
        scenario.run = ended(3);
        assert_eq!(scenario.reconcile(T0).action, Action::Fail);
        scenario
    }

    fn condition(&self, kind: ConditionType) -> (ConditionStatus, Reason) {
        let condition = self.status.condition(kind).unwrap();
        (condition.status, condition.reason)
    }
}

/// Name, state before, change, and the action and reason that must follow.
type Case = (&'static str, fn() -> Scenario, fn(&mut Scenario), Action, Reason);

#[test]
#[rustfmt::skip] // one case a line
fn each_state_and_change_has_its_action_and_reason() {
    use Action::{Continue, Fail, Finish, Retry, Skip, Start, Stop, Wait, Watch};
    let secs = Duration::from_secs;
    let cases: Vec<Case> = vec![
        ("new, inputs ready", Scenario::new, |_| {}, Start, Reason::Running),
        ("new, suspended", Scenario::new, |w| w.change(&json!({"suspend": true})), Wait, Reason::Suspended),
        ("new, host stopping", Scenario::new, |w| w.stopping = true, Wait, Reason::Suspended),
        ("new, no reference", Scenario::new, |w| w.inputs = Inputs::NotFound(vec!["d".into()]), Wait, Reason::ReferenceNotFound),
        ("new, reference not ready", Scenario::new, |w| w.inputs = Inputs::NotReady(vec!["d".into()]), Wait, Reason::ReferenceNotReady),
        ("running", Scenario::started, |w| w.run = Run::Running(None), Watch, Reason::Running),
        ("running, a newer version takes its spec no more", Scenario::started, |w| { w.run = Run::Running(None); w.problems = vec!["spec.x".into()]; }, Watch, Reason::Running),
        ("running, changed to what is refused", Scenario::started, |w| { w.run = Run::Running(None); w.change(&json!({"loss": {"labels": "Hard"}})); w.problems = vec!["spec.x".into()]; }, Stop, Reason::SpecInvalid),
        ("done, a newer version takes its spec no more", Scenario::done, |w| w.problems = vec!["spec.x".into()], Skip, Reason::Completed),
        ("running, suspended", Scenario::started, |w| { w.run = Run::Running(None); w.change(&json!({"suspend": true})); }, Stop, Reason::Suspended),
        ("running, host stopping", Scenario::started, |w| { w.run = Run::Running(None); w.stopping = true; }, Stop, Reason::Suspended),
        ("running, spec changed", Scenario::started, |w| { w.run = Run::Running(None); w.change(&json!({"loss": {"labels": "Hard"}})); }, Stop, Reason::Running),
        ("running, only compute changed", Scenario::started, |w| { w.run = Run::Running(None); w.change(&json!({"compute": {"threads": 2}})); }, Watch, Reason::Running),
        ("running, an input changed", Scenario::started, |w| { w.run = Run::Running(None); w.inputs = ready("sha256:new"); }, Watch, Reason::Running),
        ("running, reference gone", Scenario::started, |w| { w.run = Run::Running(None); w.inputs = Inputs::NotFound(vec!["d".into()]); }, Watch, Reason::Running),
        ("lost", Scenario::started, |_| {}, Continue(secs(0)), Reason::Running),
        ("lost, an input changed", Scenario::started, |w| w.inputs = ready("sha256:new"), Start, Reason::Running),
        ("lost, spec changed", Scenario::started, |w| w.change(&json!({"loss": {"labels": "Hard"}})), Start, Reason::Running),
        ("ended 0, artifact", Scenario::started, |w| { w.run = ended(0); w.artifact = Artifact::Verified(artifact("sha256:a")); }, Finish, Reason::Completed),
        ("ended 0, artifact out of sight", Scenario::started, |w| { w.run = ended(0); w.artifact = Artifact::Unseen; }, Finish, Reason::Completed),
        ("ended 0 while stopping", Scenario::started, |w| { w.run = ended(0); w.stopping = true; w.artifact = Artifact::Verified(artifact("sha256:a")); }, Finish, Reason::Completed),
        ("ended 0, no artifact", Scenario::started, |w| w.run = ended(0), Retry(secs(5)), Reason::Retrying),
        ("ended 0, another artifact", Scenario::started, |w| { w.run = ended(0); w.artifact = Artifact::Verified(artifact("sha256:b")); }, Retry(secs(5)), Reason::Retrying),
        ("ended 1", Scenario::started, |w| w.run = ended(1), Retry(secs(5)), Reason::Retrying),
        ("ended 2", Scenario::started, |w| w.run = ended(2), Fail, Reason::TrainerConfigRejected),
        ("ended 3", Scenario::started, |w| w.run = ended(3), Fail, Reason::DataInvalid),
        ("ended 4", Scenario::started, |w| w.run = ended(4), Retry(secs(5)), Reason::Retrying),
        ("ended 5", Scenario::started, |w| w.run = ended(5), Retry(secs(5)), Reason::Retrying),
        ("ended 6", Scenario::started, |w| w.run = ended(6), Fail, Reason::AcceleratorOutOfMemory),
        ("ended 7", Scenario::started, |w| w.run = ended(7), Fail, Reason::JudgeRejected),
        ("ended 8", Scenario::started, |w| w.run = ended(8), Fail, Reason::BudgetExhausted),
        ("ended 9", Scenario::started, |w| w.run = ended(9), Fail, Reason::GateFailed),
        ("ended 10", Scenario::started, |w| w.run = ended(10), Fail, Reason::RewardHackingSuspected),
        ("ended 75", Scenario::started, |w| w.run = ended(75), Continue(secs(0)), Reason::Running),
        ("ended 75, host stopping", Scenario::started, |w| { w.run = ended(75); w.stopping = true; }, Wait, Reason::Suspended),
        ("killed", Scenario::started, |w| w.run = end(Exit::Signal(9), None), Retry(secs(5)), Reason::Retrying),
        ("no retries left", Scenario::started, |w| { w.run = ended(4); w.change(&json!({"compute": {"maxRetries": 0}})); }, Fail, Reason::JudgeUnavailable),
        ("done", Scenario::done, |_| {}, Skip, Reason::Completed),
        ("done, suspended", Scenario::done, |w| w.change(&json!({"suspend": true})), Skip, Reason::Completed),
        ("done, reference gone", Scenario::done, |w| w.inputs = Inputs::NotFound(vec!["d".into()]), Skip, Reason::Completed),
        ("done, an input changed", Scenario::done, |w| w.inputs = ready("sha256:new"), Skip, Reason::Completed),
        ("done, an input changed, asked", Scenario::done, |w| { w.inputs = ready("sha256:new"); w.rerun = Rerun::Asked; }, Start, Reason::Running),
        ("done, spec changed", Scenario::done, |w| w.change(&json!({"loss": {"labels": "Hard"}})), Start, Reason::Running),
        ("done, asked", Scenario::done, |w| w.rerun = Rerun::Asked, Skip, Reason::Completed),
        ("done, artifact out of sight", Scenario::done, |w| w.artifact = Artifact::Unseen, Skip, Reason::Completed),
        ("done, artifact gone", Scenario::done, |w| w.artifact = Artifact::Absent, Fail, Reason::DataInvalid),
        ("done, artifact gone, asked", Scenario::done, |w| { w.artifact = Artifact::Absent; w.rerun = Rerun::Asked; }, Start, Reason::Running),
        ("done, artifact altered", Scenario::done, |w| w.artifact = Artifact::Mismatch("x".into()), Fail, Reason::DataInvalid),
        ("done, artifact altered, asked", Scenario::done, |w| { w.artifact = Artifact::Mismatch("x".into()); w.rerun = Rerun::Asked; }, Fail, Reason::DataInvalid),
        ("done, artifact replaced", Scenario::done, |w| w.artifact = Artifact::Verified(artifact("sha256:b")), Fail, Reason::DataInvalid),
        ("failed", Scenario::failed, |_| {}, Fail, Reason::DataInvalid),
        ("failed, only compute changed", Scenario::failed, |w| w.change(&json!({"compute": {"threads": 2}})), Retry(secs(0)), Reason::Running),
        ("failed, suspended", Scenario::failed, |w| w.change(&json!({"suspend": true})), Wait, Reason::Suspended),
        ("done, only compute changed", Scenario::done, |w| w.change(&json!({"compute": {"threads": 2}})), Skip, Reason::Completed),
        ("failed, asked", Scenario::failed, |w| w.rerun = Rerun::Asked, Start, Reason::Running),
        ("failed, an input changed", Scenario::failed, |w| w.inputs = ready("sha256:new"), Start, Reason::Running),
        ("failed, spec changed", Scenario::failed, |w| w.change(&json!({"loss": {"labels": "Hard"}})), Start, Reason::Running),
        ("failed, reference gone", Scenario::failed, |w| w.inputs = Inputs::NotReady(vec!["d".into()]), Fail, Reason::DataInvalid),
    ];
    for (name, before, change, action, reason) in cases {
        let mut scenario = before();
        change(&mut scenario);
        let decision = scenario.reconcile(T1);
        assert_eq!((decision.action, decision.reason), (action, reason), "{name}: {}", decision.message);
        assert_eq!(scenario.status.leading_reason(), reason, "{name}: the Status column");
    }
}

#[test]
fn all_six_conditions_are_set_on_the_first_visit() {
    use ConditionStatus::{False, True, Unknown};
    let mut scenario = Scenario::new();
    scenario.inputs = Inputs::NotReady(vec!["PreferenceDataset/d".into()]);
    scenario.reconcile(T0);
    assert_eq!(scenario.status.conditions.len(), 6);
    for (kind, expected) in [
        (ConditionType::Ready, (False, Reason::ReferenceNotReady)),
        (ConditionType::Succeeded, (Unknown, Reason::ReferenceNotReady)),
        (ConditionType::Reconciling, (True, Reason::ReferenceNotReady)),
        (ConditionType::Stalled, (False, Reason::AsExpected)),
        (ConditionType::InputsReady, (False, Reason::ReferenceNotReady)),
        (ConditionType::Outdated, (Unknown, Reason::Pending)),
    ] {
        assert_eq!(scenario.condition(kind), expected, "{kind:?}");
    }
    assert_eq!(scenario.status.observed_generation, 1);
}

#[test]
fn conditions_of_an_ended_run_say_so_for_ever() {
    use ConditionStatus::{False, True};
    let done = Scenario::done();
    assert_eq!(done.condition(ConditionType::Ready), (True, Reason::Completed));
    assert_eq!(done.condition(ConditionType::Succeeded), (True, Reason::Completed));
    assert_eq!(done.condition(ConditionType::Reconciling).0, False);
    assert_eq!(done.condition(ConditionType::Outdated), (False, Reason::InputsUpToDate));
    assert_eq!(done.status.evaluation["accuracy"], "0.7");
    assert_eq!(done.status.artifact, Some(artifact("sha256:a")));

    let failed = Scenario::failed();
    assert_eq!(failed.condition(ConditionType::Succeeded), (False, Reason::DataInvalid));
    assert_eq!(failed.condition(ConditionType::Stalled), (True, Reason::DataInvalid));
    assert_eq!(failed.condition(ConditionType::Reconciling).0, False);

    let mut mismatched = Scenario::done();
    mismatched.artifact = Artifact::Mismatch("changed".into());
    mismatched.reconcile(T1);
    assert_eq!(mismatched.condition(ConditionType::Ready), (False, Reason::DataInvalid));
    assert_eq!(mismatched.condition(ConditionType::Succeeded), (True, Reason::Completed), "the run did succeed");
    mismatched.artifact = Artifact::Verified(artifact("sha256:a"));
    assert_eq!(mismatched.reconcile(T1).action, Action::Skip, "a restored artifact is as good as before");
    assert_eq!(mismatched.condition(ConditionType::Ready), (True, Reason::Completed));
}

#[test]
fn a_changed_input_is_outdated_and_the_artifact_stays_ready() {
    let mut scenario = Scenario::done();
    scenario.inputs = ready("sha256:new");
    scenario.reconcile(T1);
    assert_eq!(scenario.condition(ConditionType::Ready), (ConditionStatus::True, Reason::Completed));
    assert_eq!(scenario.condition(ConditionType::Outdated), (ConditionStatus::True, Reason::InputChanged));
    assert!(scenario.status.condition(ConditionType::Outdated).unwrap().message.starts_with("datasetRef changed"));
    scenario.inputs = ready("sha256:d");
    scenario.reconcile(T1);
    assert_eq!(scenario.condition(ConditionType::Outdated), (ConditionStatus::False, Reason::InputsUpToDate));
}

#[test]
fn a_second_visit_without_news_writes_the_same_status() {
    for mut scenario in [Scenario::done(), Scenario::failed()] {
        let before = scenario.status.clone();
        scenario.reconcile(T1);
        assert_eq!(scenario.status, before);
    }
    let mut waiting = Scenario::new();
    waiting.inputs = Inputs::NotReady(vec!["d".into()]);
    waiting.reconcile(T0);
    let before = waiting.status.clone();
    waiting.reconcile(T1);
    assert_eq!(waiting.status, before);
}

#[test]
fn a_transition_time_moves_only_with_its_status() {
    let mut scenario = Scenario::started();
    scenario.run = ended(4);
    scenario.reconcile(T1);
    let ready = scenario.status.condition(ConditionType::Ready).unwrap();
    assert_eq!((ready.reason, ready.last_transition_time.as_str()), (Reason::Retrying, T0), "still False");
    scenario.run = ended(3);
    scenario.reconcile(T1);
    assert_eq!(scenario.status.condition(ConditionType::Stalled).unwrap().last_transition_time, T1);
}

#[test]
fn a_new_run_forgets_the_results_and_the_counts_of_the_last_one() {
    let mut scenario = Scenario::done();
    let first = scenario.status.job.clone().unwrap();
    scenario.change(&json!({"loss": {"labels": "Hard"}}));
    scenario.reconcile(T1);
    let job = scenario.status.job.clone().unwrap();
    assert_ne!(job.name, first.name);
    assert_eq!((job.attempt, job.retries.len()), (1, 0));
    assert_eq!((&scenario.status.artifact, scenario.status.evaluation.len()), (&None, 0));
    assert_eq!(scenario.condition(ConditionType::Succeeded).0, ConditionStatus::Unknown);
}

#[test]
fn all_that_is_wrong_with_a_spec_is_said_at_once() {
    let mut scenario = Scenario::new();
    scenario.problems = vec!["spec.x: expected a".into(), "spec.y: expected b".into()];
    let decision = scenario.reconcile(T0);
    assert_eq!(
        (decision.reason, decision.message.as_str()),
        (Reason::SpecInvalid, "spec.x: expected a; spec.y: expected b")
    );
}
