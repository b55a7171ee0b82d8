//! What follows from the end of a run, and from its end being known already.

use plumbline_crds::exit_code::ExitCode;

use super::*;

#[test]
fn failures_are_retried_later_each_time_until_none_is_left() {
    let mut scenario = Scenario::started();
    let mut delays = Vec::new();
    for _ in 0..3 {
        scenario.run = ended(4);
        let Action::Retry(delay) = scenario.reconcile(T1).action else { panic!("must be retried") };
        delays.push(delay.as_secs());
        // An interruption in between neither counts nor resets the count.
        scenario.run = ended(75);
        assert!(matches!(scenario.reconcile(T1).action, Action::Continue(_)));
    }
    assert_eq!(delays, [5, 10, 20]);
    scenario.run = ended(4);
    let decision = scenario.reconcile(T1);
    assert_eq!((decision.action, decision.reason), (Action::Fail, Reason::JudgeUnavailable));
    assert!(decision.message.ends_with("gave up after 3 retries"), "{}", decision.message);
    let job = scenario.status.job.clone().unwrap();
    assert_eq!((job.attempt, job.retries["JudgeUnavailable"], job.retries["Suspended"]), (7, 4, 3));
}

#[test]
fn a_run_that_is_killed_because_it_did_not_stop_in_time_has_not_failed() {
    let mut scenario = Scenario::started();
    (scenario.run, scenario.stopping) = (end(Exit::Signal(9), None), true);
    assert_eq!(scenario.reconcile(T1).action, Action::Wait);
    let job = scenario.status.job.clone().unwrap();
    assert_eq!((job.retries.get("Suspended"), job.retries.get("TrainerFailed")), (Some(&1), None));
    scenario.stopping = false;
    assert_eq!(scenario.reconcile(T1).action, Action::Continue(Duration::ZERO));
}

#[test]
fn a_failed_run_that_is_asked_for_again_keeps_its_name_and_starts_counting_anew() {
    let mut scenario = Scenario::failed();
    let name = scenario.status.job.clone().unwrap().name;
    scenario.rerun = Rerun::Asked;
    let decision = scenario.reconcile(T1);
    assert_eq!((decision.job.name.clone(), decision.job.attempt), (name, 1), "its checkpoint is still good");
    assert!(decision.job.retries.is_empty());
}

#[test]
fn an_end_that_is_seen_again_changes_nothing_of_the_status() {
    for code in [0, 3] {
        let mut scenario = Scenario::started();
        scenario.run = ended(code);
        scenario.artifact = if code == 0 { Artifact::Verified(artifact("sha256:a")) } else { Artifact::Absent };
        scenario.reconcile(T0);
        let status = scenario.status.clone();
        assert_eq!(status.completion_time.as_deref(), Some(T0));
        scenario.run = ended(code);
        scenario.reconcile(T1);
        assert_eq!(scenario.status, status);
    }
}

#[test]
fn a_failure_that_the_cluster_does_not_count_stays_counted_when_it_is_seen_again() {
    let mut scenario = Scenario::started();
    scenario.spec = spec(&json!({"compute": {"nodes": 2, "maxRetries": 0}}));
    // The Job of several pods is one attempt, and counts no failure of its own.
    scenario.job = scenario.status.job.clone();
    for _ in 0..2 {
        scenario.run = ended(3);
        assert_eq!(scenario.reconcile(T1).action, Action::Fail);
        assert_eq!(scenario.status.job.as_ref().unwrap().retries, [("DataInvalid".to_owned(), 1)].into());
    }
}

#[test]
fn those_that_waited_in_vain_for_one_that_could_not_come_have_not_failed() {
    let lost = || end(ExitCode::PeerLost.into(), None);
    for reason in [Reason::Unschedulable, Reason::ImagePullFailed, Reason::ChildCreationFailed, Reason::NodeDisruption]
    {
        let mut scenario = Scenario::started();
        scenario.spec = spec(&json!({"compute": {"nodes": 2, "maxRetries": 0}}));
        for times in 1..=3 {
            scenario.run = Run::Running(Some(Obstacle { reason, message: "0/3 nodes are available".into() }));
            scenario.reconcile(T1);
            scenario.run = Run::Ending;
            assert_eq!(scenario.reconcile(T1).action, Action::Watch);
            scenario.run = lost();
            let decision = scenario.reconcile(T1);
            assert_eq!((decision.action, decision.reason), (Action::Continue(retry::delay(times)), reason));
            assert_eq!(decision.message, "0/3 nodes are available");
            assert_eq!((decision.job.attempt, decision.job.retries[&reason.as_str()]), (times + 1, times));
        }
    }
    let mut scenario = Scenario::started();
    scenario.spec = spec(&json!({"compute": {"nodes": 2, "maxRetries": 0}}));
    scenario.run = Run::Running(None);
    scenario.reconcile(T1);
    scenario.run = lost();
    assert_eq!(scenario.reconcile(T1).reason, Reason::PeerLost, "all were there");
}

#[test]
fn what_was_stopped_here_was_deleted_by_nobody_else() {
    let mut scenario = Scenario::started();
    let gone = |scenario: &Scenario| {
        let retries = &scenario.status.job.as_ref().unwrap().retries;
        retries.get("JobDeleted").copied().unwrap_or(0)
    };
    scenario.status.job.as_mut().unwrap().uid = Some("u".into());
    (scenario.run, scenario.spec) = (Run::Running(None), spec(&json!({"suspend": true})));
    assert_eq!(scenario.reconcile(T1).action, Action::Stop);
    (scenario.run, scenario.spec) = (Run::Stopping, spec(&json!({})));
    assert_eq!(scenario.reconcile(T1).reason, Reason::Pending, "resumed before it had stopped");
    scenario.run = Run::None;
    assert!(matches!(scenario.reconcile(T1).action, Action::Continue(_)));
    assert_eq!(gone(&scenario), 0);
    scenario.status.job.as_mut().unwrap().uid = Some("v".into());
    scenario.reconcile(T1);
    assert_eq!(gone(&scenario), 1);
}

/// The last end of a Job that tries again itself, and is kept for a while.
fn given_up(reason: Reason) -> Run {
    let result = serde_json::from_value(json!({"reason": reason, "message": "raise it to go on"})).unwrap();
    Run::Ended(Box::new(End { exit: Exit::Code(1), result: Some(result), last: true }))
}

#[test]
fn a_failed_run_goes_on_when_what_it_may_use_has_changed_and_only_then() {
    let limit = |seconds: i64| json!({"compute": {"deadlineSeconds": seconds}});
    for job_is_kept in [true, false] {
        let mut scenario = Scenario::started();
        scenario.change(&limit(60));
        scenario.status.job.as_mut().unwrap().uid = Some("u".into());
        scenario.run = given_up(Reason::DeadlineExceeded);
        assert_eq!(scenario.reconcile(T0).action, Action::Fail);
        let failed = scenario.status.job.as_mut().unwrap();
        failed.active_seconds = 60;
        *failed.retries.entry("JudgeUnavailable".into()).or_insert(0) += 4;
        let failed = failed.clone();
        let kept = || if job_is_kept { given_up(Reason::DeadlineExceeded) } else { Run::None };
        scenario.run = kept();
        assert_eq!(scenario.reconcile(T1).action, Action::Fail, "no input has changed");
        assert_eq!(scenario.status.completion_time.as_deref(), Some(T0));

        scenario.change(&limit(120));
        scenario.run = kept();
        let decision = scenario.reconcile(T1);
        assert_eq!((decision.action, decision.job.attempt), (Action::Retry(Duration::ZERO), 2));
        let job = scenario.status.job.clone().unwrap();
        assert_eq!((job.name, job.active_seconds), (failed.name, 60), "the same run, with what is left of its time");
        assert_eq!((job.retries.len(), &scenario.status.completion_time), (0, &None), "it has not failed yet");
        // The status says that it goes on, and its old Job is there still.
        if job_is_kept {
            scenario.run = kept();
            assert_eq!(scenario.reconcile(T1).action, Action::Retry(Duration::ZERO));
        }
        scenario.status.job.as_mut().unwrap().uid = Some("v".into());
        scenario.run = given_up(Reason::DeadlineExceeded);
        assert_eq!(scenario.reconcile(T1).action, Action::Fail, "an end of its own");
    }
}

#[test]
fn a_failed_run_that_is_suspended_and_resumed_goes_on() {
    let mut scenario = Scenario::failed();
    scenario.change(&json!({"suspend": true}));
    scenario.run = given_up(Reason::JudgeUnavailable);
    assert_eq!(scenario.reconcile(T1).reason, Reason::Suspended);
    let retries = scenario.status.job.clone().unwrap().retries;
    scenario.run = given_up(Reason::JudgeUnavailable);
    scenario.reconcile(T1);
    assert_eq!(scenario.status.job.clone().unwrap().retries, retries, "its end is not counted over and over");
    scenario.change(&json!({}));
    scenario.run = given_up(Reason::JudgeUnavailable);
    assert_eq!(scenario.reconcile(T1).action, Action::Retry(Duration::ZERO));
}

/// A status as another version of the operator left it, which names the same run otherwise.
fn named_otherwise(scenario: &mut Scenario) {
    let job = scenario.status.job.as_mut().unwrap();
    job.name = "run-0000000000000000-11111111".into();
    job.spec_digest = job.spec_digest.take().map(|_| "sha256:3".into());
}

#[test]
fn what_an_earlier_version_of_the_operator_named_otherwise_is_the_same_run_while_its_generation_is() {
    for (before, run, action) in [
        (Scenario::done as fn() -> Scenario, Run::None, Action::Skip),
        (Scenario::failed, Run::None, Action::Fail),
        (Scenario::started, Run::Running(None), Action::Watch),
        (Scenario::started, Run::None, Action::Continue(Duration::ZERO)),
        (Scenario::started, ended(4), Action::Retry(Duration::from_secs(5))),
    ] {
        let mut scenario = before();
        named_otherwise(&mut scenario);
        let name = scenario.status.job.clone().unwrap().name;
        scenario.run = run.clone();
        assert_eq!(scenario.reconcile(T1).action, action);
        assert_eq!(scenario.status.job.clone().unwrap().name, name);
        // Only an input that changed makes another run of what has not ended well.
        (scenario.run, scenario.inputs) = (run.clone(), ready("sha256:new"));
        let again = scenario.reconcile(T1);
        let expected = match action {
            Action::Skip | Action::Watch => action,
            _ => Action::Start,
        };
        assert_eq!(again.action, expected, "{action:?}");
    }
}

#[test]
fn a_run_that_an_earlier_version_began_is_suspended_and_resumed_as_the_same() {
    let mut scenario = Scenario::started();
    named_otherwise(&mut scenario);
    let name = scenario.status.job.clone().unwrap().name;
    scenario.run = Run::Running(None);
    assert_eq!(scenario.reconcile(T1).action, Action::Watch);
    scenario.change(&json!({"suspend": true}));
    assert_eq!((scenario.reconcile(T1).action, scenario.status.leading_reason()), (Action::Stop, Reason::Suspended));
    scenario.run = Run::None;
    scenario.change(&json!({}));
    assert!(matches!(scenario.reconcile(T1).action, Action::Continue(_)));
    assert_eq!(scenario.status.job.unwrap().name, name);
}

#[test]
fn a_status_that_has_seen_another_spec_is_not_taken_for_the_status_of_its_run() {
    // The new spec waits for an input first: its generation has been observed when the input comes.
    for before in [Scenario::done as fn() -> Scenario, Scenario::failed, Scenario::started] {
        let mut scenario = before();
        scenario.change(&json!({"loss": {"labels": "Hard"}}));
        scenario.inputs = Inputs::NotReady(vec!["PreferenceDataset/d".into()]);
        assert_eq!(scenario.reconcile(T1).action, Action::Wait);
        scenario.inputs = ready("sha256:d");
        assert_eq!(scenario.reconcile(T1).action, Action::Start);
    }
    // It ends well when the spec has changed and its pods are on their way out.
    let mut scenario = Scenario::started();
    scenario.run = Run::Ending;
    scenario.change(&json!({"loss": {"labels": "Hard"}}));
    scenario.reconcile(T1);
    scenario.run = ended(0);
    assert_eq!(scenario.reconcile(T1).action, Action::Start);
}

#[test]
fn a_status_from_before_specs_were_digested_is_trusted_where_its_run_had_ended() {
    for (before, action) in [(Scenario::done as fn() -> Scenario, Action::Skip), (Scenario::failed, Action::Fail)] {
        let mut scenario = before();
        named_otherwise(&mut scenario);
        let job = scenario.status.job.as_mut().unwrap();
        (job.generation, job.spec_digest) = (None, None);
        assert_eq!(scenario.reconcile(T1).action, action);
        scenario.change(&json!({"loss": {"labels": "Hard"}}));
        assert_eq!(scenario.reconcile(T1).action, Action::Start);
    }
}
