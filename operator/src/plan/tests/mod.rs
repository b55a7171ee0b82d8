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

/// A resource and its world, changed step by step as a controller would see it.
struct World {
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

impl World {
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

    /// One visit: decide, write the status, forget the end that was handled.
    fn visit(&mut self, now: &str) -> Decision {
        let observed = Observed {
            spec: &self.spec,
            generation: self.generation,
            previous: &self.status,
            inputs: self.inputs.clone(),
            run: self.run.clone(),
            job: self.job.clone(),
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

    /// Somebody writes another spec.
    fn change(&mut self, change: &Value) {
        (self.spec, self.generation) = (spec(change), self.generation + 1);
    }

    fn started() -> Self {
        let mut world = Self::new();
        assert_eq!(world.visit(T0).action, Action::Start);
        world
    }

    fn done() -> Self {
        let mut world = Self::started();
        world.run = ended(0);
        world.artifact = Artifact::Verified(artifact("sha256:a"));
        assert_eq!(world.visit(T0).action, Action::Finish);
        world
    }

    fn failed() -> Self {
        let mut world = Self::started();
        world.run = ended(3);
        assert_eq!(world.visit(T0).action, Action::Fail);
        world
    }

    fn condition(&self, kind: ConditionType) -> (ConditionStatus, Reason) {
        let condition = self.status.condition(kind).unwrap();
        (condition.status, condition.reason)
    }
}

/// Name, state before, change, and the action and reason that must follow.
type Case = (&'static str, fn() -> World, fn(&mut World), Action, Reason);

#[test]
#[rustfmt::skip] // one case a line
fn each_state_and_change_has_its_action_and_reason() {
    use Action::{Continue, Fail, Finish, Retry, Skip, Start, Stop, Wait, Watch};
    let secs = Duration::from_secs;
    let cases: Vec<Case> = vec![
        ("new, inputs ready", World::new, |_| {}, Start, Reason::Running),
        ("new, suspended", World::new, |w| w.change(&json!({"suspend": true})), Wait, Reason::Suspended),
        ("new, host stopping", World::new, |w| w.stopping = true, Wait, Reason::Suspended),
        ("new, no reference", World::new, |w| w.inputs = Inputs::NotFound(vec!["d".into()]), Wait, Reason::ReferenceNotFound),
        ("new, reference not ready", World::new, |w| w.inputs = Inputs::NotReady(vec!["d".into()]), Wait, Reason::ReferenceNotReady),
        ("running", World::started, |w| w.run = Run::Running(None), Watch, Reason::Running),
        ("running, a newer version takes its spec no more", World::started, |w| { w.run = Run::Running(None); w.problems = vec!["spec.x".into()]; }, Watch, Reason::Running),
        ("running, changed to what is refused", World::started, |w| { w.run = Run::Running(None); w.change(&json!({"loss": {"labels": "Hard"}})); w.problems = vec!["spec.x".into()]; }, Stop, Reason::SpecInvalid),
        ("done, a newer version takes its spec no more", World::done, |w| w.problems = vec!["spec.x".into()], Skip, Reason::Completed),
        ("running, suspended", World::started, |w| { w.run = Run::Running(None); w.change(&json!({"suspend": true})); }, Stop, Reason::Suspended),
        ("running, host stopping", World::started, |w| { w.run = Run::Running(None); w.stopping = true; }, Stop, Reason::Suspended),
        ("running, spec changed", World::started, |w| { w.run = Run::Running(None); w.change(&json!({"loss": {"labels": "Hard"}})); }, Stop, Reason::Running),
        ("running, only compute changed", World::started, |w| { w.run = Run::Running(None); w.change(&json!({"compute": {"threads": 2}})); }, Watch, Reason::Running),
        ("running, an input changed", World::started, |w| { w.run = Run::Running(None); w.inputs = ready("sha256:new"); }, Watch, Reason::Running),
        ("running, reference gone", World::started, |w| { w.run = Run::Running(None); w.inputs = Inputs::NotFound(vec!["d".into()]); }, Watch, Reason::Running),
        ("lost", World::started, |_| {}, Continue(secs(0)), Reason::Running),
        ("lost, an input changed", World::started, |w| w.inputs = ready("sha256:new"), Start, Reason::Running),
        ("lost, spec changed", World::started, |w| w.change(&json!({"loss": {"labels": "Hard"}})), Start, Reason::Running),
        ("ended 0, artifact", World::started, |w| { w.run = ended(0); w.artifact = Artifact::Verified(artifact("sha256:a")); }, Finish, Reason::Completed),
        ("ended 0, artifact out of sight", World::started, |w| { w.run = ended(0); w.artifact = Artifact::Unseen; }, Finish, Reason::Completed),
        ("ended 0 while stopping", World::started, |w| { w.run = ended(0); w.stopping = true; w.artifact = Artifact::Verified(artifact("sha256:a")); }, Finish, Reason::Completed),
        ("ended 0, no artifact", World::started, |w| w.run = ended(0), Retry(secs(5)), Reason::Retrying),
        ("ended 0, another artifact", World::started, |w| { w.run = ended(0); w.artifact = Artifact::Verified(artifact("sha256:b")); }, Retry(secs(5)), Reason::Retrying),
        ("ended 1", World::started, |w| w.run = ended(1), Retry(secs(5)), Reason::Retrying),
        ("ended 2", World::started, |w| w.run = ended(2), Fail, Reason::TrainerConfigRejected),
        ("ended 3", World::started, |w| w.run = ended(3), Fail, Reason::DataInvalid),
        ("ended 4", World::started, |w| w.run = ended(4), Retry(secs(5)), Reason::Retrying),
        ("ended 5", World::started, |w| w.run = ended(5), Retry(secs(5)), Reason::Retrying),
        ("ended 6", World::started, |w| w.run = ended(6), Fail, Reason::AcceleratorOutOfMemory),
        ("ended 7", World::started, |w| w.run = ended(7), Fail, Reason::JudgeRejected),
        ("ended 8", World::started, |w| w.run = ended(8), Fail, Reason::BudgetExhausted),
        ("ended 9", World::started, |w| w.run = ended(9), Fail, Reason::GateFailed),
        ("ended 10", World::started, |w| w.run = ended(10), Fail, Reason::RewardHackingSuspected),
        ("ended 75", World::started, |w| w.run = ended(75), Continue(secs(0)), Reason::Running),
        ("ended 75, host stopping", World::started, |w| { w.run = ended(75); w.stopping = true; }, Wait, Reason::Suspended),
        ("killed", World::started, |w| w.run = end(Exit::Signal(9), None), Retry(secs(5)), Reason::Retrying),
        ("no retries left", World::started, |w| { w.run = ended(4); w.change(&json!({"compute": {"maxRetries": 0}})); }, Fail, Reason::JudgeUnavailable),
        ("done", World::done, |_| {}, Skip, Reason::Completed),
        ("done, suspended", World::done, |w| w.change(&json!({"suspend": true})), Skip, Reason::Completed),
        ("done, reference gone", World::done, |w| w.inputs = Inputs::NotFound(vec!["d".into()]), Skip, Reason::Completed),
        ("done, an input changed", World::done, |w| w.inputs = ready("sha256:new"), Skip, Reason::Completed),
        ("done, an input changed, asked", World::done, |w| { w.inputs = ready("sha256:new"); w.rerun = Rerun::Asked; }, Start, Reason::Running),
        ("done, spec changed", World::done, |w| w.change(&json!({"loss": {"labels": "Hard"}})), Start, Reason::Running),
        ("done, asked", World::done, |w| w.rerun = Rerun::Asked, Skip, Reason::Completed),
        ("done, artifact out of sight", World::done, |w| w.artifact = Artifact::Unseen, Skip, Reason::Completed),
        ("done, artifact gone", World::done, |w| w.artifact = Artifact::Absent, Fail, Reason::DataInvalid),
        ("done, artifact gone, asked", World::done, |w| { w.artifact = Artifact::Absent; w.rerun = Rerun::Asked; }, Start, Reason::Running),
        ("done, artifact altered", World::done, |w| w.artifact = Artifact::Altered("x".into()), Fail, Reason::DataInvalid),
        ("done, artifact altered, asked", World::done, |w| { w.artifact = Artifact::Altered("x".into()); w.rerun = Rerun::Asked; }, Fail, Reason::DataInvalid),
        ("done, artifact replaced", World::done, |w| w.artifact = Artifact::Verified(artifact("sha256:b")), Fail, Reason::DataInvalid),
        ("failed", World::failed, |_| {}, Fail, Reason::DataInvalid),
        ("failed, only compute changed", World::failed, |w| w.change(&json!({"compute": {"threads": 2}})), Retry(secs(0)), Reason::Running),
        ("failed, suspended", World::failed, |w| w.change(&json!({"suspend": true})), Wait, Reason::Suspended),
        ("done, only compute changed", World::done, |w| w.change(&json!({"compute": {"threads": 2}})), Skip, Reason::Completed),
        ("failed, asked", World::failed, |w| w.rerun = Rerun::Asked, Start, Reason::Running),
        ("failed, an input changed", World::failed, |w| w.inputs = ready("sha256:new"), Start, Reason::Running),
        ("failed, spec changed", World::failed, |w| w.change(&json!({"loss": {"labels": "Hard"}})), Start, Reason::Running),
        ("failed, reference gone", World::failed, |w| w.inputs = Inputs::NotReady(vec!["d".into()]), Fail, Reason::DataInvalid),
    ];
    for (name, before, change, action, reason) in cases {
        let mut world = before();
        change(&mut world);
        let decision = world.visit(T1);
        assert_eq!((decision.action, decision.reason), (action, reason), "{name}: {}", decision.message);
        assert_eq!(world.status.leading_reason(), reason, "{name}: the Status column");
    }
}

#[test]
fn all_six_conditions_are_set_on_the_first_visit() {
    use ConditionStatus::{False, True, Unknown};
    let mut world = World::new();
    world.inputs = Inputs::NotReady(vec!["PreferenceDataset/d".into()]);
    world.visit(T0);
    assert_eq!(world.status.conditions.len(), 6);
    for (kind, expected) in [
        (ConditionType::Ready, (False, Reason::ReferenceNotReady)),
        (ConditionType::Succeeded, (Unknown, Reason::ReferenceNotReady)),
        (ConditionType::Reconciling, (True, Reason::ReferenceNotReady)),
        (ConditionType::Stalled, (False, Reason::AsExpected)),
        (ConditionType::InputsReady, (False, Reason::ReferenceNotReady)),
        (ConditionType::Outdated, (Unknown, Reason::Pending)),
    ] {
        assert_eq!(world.condition(kind), expected, "{kind:?}");
    }
    assert_eq!(world.status.observed_generation, 1);
}

#[test]
fn conditions_of_an_ended_run_say_so_for_ever() {
    use ConditionStatus::{False, True};
    let done = World::done();
    assert_eq!(done.condition(ConditionType::Ready), (True, Reason::Completed));
    assert_eq!(done.condition(ConditionType::Succeeded), (True, Reason::Completed));
    assert_eq!(done.condition(ConditionType::Reconciling).0, False);
    assert_eq!(done.condition(ConditionType::Outdated), (False, Reason::InputsUpToDate));
    assert_eq!(done.status.evaluation["accuracy"], "0.7");
    assert_eq!(done.status.artifact, Some(artifact("sha256:a")));

    let failed = World::failed();
    assert_eq!(failed.condition(ConditionType::Succeeded), (False, Reason::DataInvalid));
    assert_eq!(failed.condition(ConditionType::Stalled), (True, Reason::DataInvalid));
    assert_eq!(failed.condition(ConditionType::Reconciling).0, False);

    let mut spoilt = World::done();
    spoilt.artifact = Artifact::Altered("changed".into());
    spoilt.visit(T1);
    assert_eq!(spoilt.condition(ConditionType::Ready), (False, Reason::DataInvalid));
    assert_eq!(spoilt.condition(ConditionType::Succeeded), (True, Reason::Completed), "the run did succeed");
    spoilt.artifact = Artifact::Verified(artifact("sha256:a"));
    assert_eq!(spoilt.visit(T1).action, Action::Skip, "a restored artifact is as good as before");
    assert_eq!(spoilt.condition(ConditionType::Ready), (True, Reason::Completed));
}

#[test]
fn a_changed_input_is_outdated_and_the_artifact_stays_ready() {
    let mut world = World::done();
    world.inputs = ready("sha256:new");
    world.visit(T1);
    assert_eq!(world.condition(ConditionType::Ready), (ConditionStatus::True, Reason::Completed));
    assert_eq!(world.condition(ConditionType::Outdated), (ConditionStatus::True, Reason::InputChanged));
    assert!(world.status.condition(ConditionType::Outdated).unwrap().message.starts_with("datasetRef changed"));
    world.inputs = ready("sha256:d");
    world.visit(T1);
    assert_eq!(world.condition(ConditionType::Outdated), (ConditionStatus::False, Reason::InputsUpToDate));
}

#[test]
fn a_second_visit_without_news_writes_the_same_status() {
    for mut world in [World::done(), World::failed()] {
        let before = world.status.clone();
        world.visit(T1);
        assert_eq!(world.status, before);
    }
    let mut waiting = World::new();
    waiting.inputs = Inputs::NotReady(vec!["d".into()]);
    waiting.visit(T0);
    let before = waiting.status.clone();
    waiting.visit(T1);
    assert_eq!(waiting.status, before);
}

#[test]
fn a_transition_time_moves_only_with_its_status() {
    let mut world = World::started();
    world.run = ended(4);
    world.visit(T1);
    let ready = world.status.condition(ConditionType::Ready).unwrap();
    assert_eq!((ready.reason, ready.last_transition_time.as_str()), (Reason::Retrying, T0), "still False");
    world.run = ended(3);
    world.visit(T1);
    assert_eq!(world.status.condition(ConditionType::Stalled).unwrap().last_transition_time, T1);
}

#[test]
fn a_new_run_forgets_the_results_and_the_counts_of_the_last_one() {
    let mut world = World::done();
    let first = world.status.job.clone().unwrap();
    world.change(&json!({"loss": {"labels": "Hard"}}));
    world.visit(T1);
    let job = world.status.job.clone().unwrap();
    assert_ne!(job.name, first.name);
    assert_eq!((job.attempt, job.retries.len()), (1, 0));
    assert_eq!((&world.status.artifact, world.status.evaluation.len()), (&None, 0));
    assert_eq!(world.condition(ConditionType::Succeeded).0, ConditionStatus::Unknown);
}
