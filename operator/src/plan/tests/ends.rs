//! What follows from the end of a run, and from its end being known already.

use plumbline_crds::exit_code::ExitCode;

use super::*;

#[test]
fn failures_are_retried_later_each_time_until_none_is_left() {
    let mut world = World::started();
    let mut delays = Vec::new();
    for _ in 0..3 {
        world.run = ended(4);
        let Action::Retry(delay) = world.visit(T1).action else { panic!("must be retried") };
        delays.push(delay.as_secs());
        // An interruption in between neither counts nor resets the count.
        world.run = ended(75);
        assert!(matches!(world.visit(T1).action, Action::Continue(_)));
    }
    assert_eq!(delays, [5, 10, 20]);
    world.run = ended(4);
    let decision = world.visit(T1);
    assert_eq!((decision.action, decision.reason), (Action::Fail, Reason::JudgeUnavailable));
    assert!(decision.message.ends_with("gave up after 3 retries"), "{}", decision.message);
    let job = world.status.job.clone().unwrap();
    assert_eq!((job.attempt, job.retries["JudgeUnavailable"], job.retries["Suspended"]), (7, 4, 3));
}

#[test]
fn a_run_that_is_killed_because_it_did_not_stop_in_time_has_not_failed() {
    let mut world = World::started();
    (world.run, world.stopping) = (end(Exit::Signal(9), None), true);
    assert_eq!(world.visit(T1).action, Action::Wait);
    let job = world.status.job.clone().unwrap();
    assert_eq!((job.retries.get("Suspended"), job.retries.get("TrainerFailed")), (Some(&1), None));
    world.stopping = false;
    assert_eq!(world.visit(T1).action, Action::Continue(Duration::ZERO));
}

#[test]
fn a_failed_run_that_is_asked_for_again_keeps_its_name_and_starts_counting_anew() {
    let mut world = World::failed();
    let name = world.status.job.clone().unwrap().name;
    world.rerun = Rerun::Asked;
    let decision = world.visit(T1);
    assert_eq!((decision.job.name.clone(), decision.job.attempt), (name, 1), "its checkpoint is still good");
    assert!(decision.job.retries.is_empty());
}

#[test]
fn an_end_that_is_seen_again_changes_nothing_of_the_status() {
    for code in [0, 3] {
        let mut world = World::started();
        world.run = ended(code);
        world.artifact = if code == 0 { Artifact::Verified(artifact("sha256:a")) } else { Artifact::Absent };
        world.visit(T0);
        let status = world.status.clone();
        assert_eq!(status.completion_time.as_deref(), Some(T0));
        world.run = ended(code);
        world.visit(T1);
        assert_eq!(world.status, status);
    }
}

#[test]
fn a_failure_that_the_cluster_does_not_count_stays_counted_when_it_is_seen_again() {
    let mut world = World::started();
    world.spec = spec(&json!({"compute": {"nodes": 2, "maxRetries": 0}}));
    // The Job of several pods is one attempt, and counts no failure of its own.
    world.job = world.status.job.clone();
    for _ in 0..2 {
        world.run = ended(3);
        assert_eq!(world.visit(T1).action, Action::Fail);
        assert_eq!(world.status.job.as_ref().unwrap().retries, [("DataInvalid".to_owned(), 1)].into());
    }
}

#[test]
fn those_that_waited_in_vain_for_one_that_could_not_come_have_not_failed() {
    let lost = || end(ExitCode::PeerLost.into(), None);
    for reason in [Reason::Unschedulable, Reason::ImagePullFailed, Reason::ChildCreationFailed, Reason::NodeDisruption]
    {
        let mut world = World::started();
        world.spec = spec(&json!({"compute": {"nodes": 2, "maxRetries": 0}}));
        for times in 1..=3 {
            world.run = Run::Running(Some(Obstacle { reason, message: "0/3 nodes are available".into() }));
            world.visit(T1);
            world.run = Run::Ending;
            assert_eq!(world.visit(T1).action, Action::Watch);
            world.run = lost();
            let decision = world.visit(T1);
            assert_eq!((decision.action, decision.reason), (Action::Continue(ending::delay(times)), reason));
            assert_eq!(decision.message, "0/3 nodes are available");
            assert_eq!((decision.job.attempt, decision.job.retries[&reason.as_str()]), (times + 1, times));
        }
    }
    let mut world = World::started();
    world.spec = spec(&json!({"compute": {"nodes": 2, "maxRetries": 0}}));
    world.run = Run::Running(None);
    world.visit(T1);
    world.run = lost();
    assert_eq!(world.visit(T1).reason, Reason::PeerLost, "all were there");
}

#[test]
fn what_was_stopped_here_was_deleted_by_nobody_else() {
    let mut world = World::started();
    let gone = |world: &World| {
        let retries = &world.status.job.as_ref().unwrap().retries;
        retries.get("JobDeleted").copied().unwrap_or(0)
    };
    world.status.job.as_mut().unwrap().uid = Some("u".into());
    (world.run, world.spec) = (Run::Running(None), spec(&json!({"suspend": true})));
    assert_eq!(world.visit(T1).action, Action::Stop);
    (world.run, world.spec) = (Run::Stopping, spec(&json!({})));
    assert_eq!(world.visit(T1).reason, Reason::Pending, "resumed before it had stopped");
    world.run = Run::None;
    assert!(matches!(world.visit(T1).action, Action::Continue(_)));
    assert_eq!(gone(&world), 0);
    world.status.job.as_mut().unwrap().uid = Some("v".into());
    world.visit(T1);
    assert_eq!(gone(&world), 1);
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
        let mut world = World::started();
        world.change(&limit(60));
        world.status.job.as_mut().unwrap().uid = Some("u".into());
        world.run = given_up(Reason::DeadlineExceeded);
        assert_eq!(world.visit(T0).action, Action::Fail);
        let failed = world.status.job.as_mut().unwrap();
        failed.active_seconds = 60;
        *failed.retries.entry("JudgeUnavailable".into()).or_insert(0) += 4;
        let failed = failed.clone();
        let kept = || if job_is_kept { given_up(Reason::DeadlineExceeded) } else { Run::None };
        world.run = kept();
        assert_eq!(world.visit(T1).action, Action::Fail, "nobody has changed anything");
        assert_eq!(world.status.completion_time.as_deref(), Some(T0));

        world.change(&limit(120));
        world.run = kept();
        let decision = world.visit(T1);
        assert_eq!((decision.action, decision.job.attempt), (Action::Retry(Duration::ZERO), 2));
        let job = world.status.job.clone().unwrap();
        assert_eq!((job.name, job.active_seconds), (failed.name, 60), "the same run, with what is left of its time");
        assert_eq!((job.retries.len(), &world.status.completion_time), (0, &None), "it has not failed yet");
        // The status says that it goes on, and its old Job is there still.
        if job_is_kept {
            world.run = kept();
            assert_eq!(world.visit(T1).action, Action::Retry(Duration::ZERO));
        }
        world.status.job.as_mut().unwrap().uid = Some("v".into());
        world.run = given_up(Reason::DeadlineExceeded);
        assert_eq!(world.visit(T1).action, Action::Fail, "an end of its own");
    }
}

#[test]
fn a_failed_run_that_is_suspended_and_resumed_goes_on() {
    let mut world = World::failed();
    world.change(&json!({"suspend": true}));
    world.run = given_up(Reason::JudgeUnavailable);
    assert_eq!(world.visit(T1).reason, Reason::Suspended);
    let retries = world.status.job.clone().unwrap().retries;
    world.run = given_up(Reason::JudgeUnavailable);
    world.visit(T1);
    assert_eq!(world.status.job.clone().unwrap().retries, retries, "its end is not counted over and over");
    world.change(&json!({}));
    world.run = given_up(Reason::JudgeUnavailable);
    assert_eq!(world.visit(T1).action, Action::Retry(Duration::ZERO));
}

/// A status as another version of the operator left it, which names the same run otherwise.
fn named_otherwise(world: &mut World) {
    let job = world.status.job.as_mut().unwrap();
    job.name = "run-0000000000000000-11111111".into();
    job.spec_digest = job.spec_digest.take().map(|_| "sha256:3".into());
}

#[test]
fn what_an_earlier_version_of_the_operator_named_otherwise_is_the_same_run_while_its_generation_is() {
    for (before, run, action) in [
        (World::done as fn() -> World, Run::None, Action::Skip),
        (World::failed, Run::None, Action::Fail),
        (World::started, Run::Running(None), Action::Watch),
        (World::started, Run::None, Action::Continue(Duration::ZERO)),
        (World::started, ended(4), Action::Retry(Duration::from_secs(5))),
    ] {
        let mut world = before();
        named_otherwise(&mut world);
        let name = world.status.job.clone().unwrap().name;
        world.run = run.clone();
        assert_eq!(world.visit(T1).action, action);
        assert_eq!(world.status.job.clone().unwrap().name, name);
        // Only an input that changed makes another run of what has not ended well.
        (world.run, world.inputs) = (run.clone(), ready("sha256:new"));
        let again = world.visit(T1);
        let expected = match action {
            Action::Skip | Action::Watch => action,
            _ => Action::Start,
        };
        assert_eq!(again.action, expected, "{action:?}");
    }
}

#[test]
fn a_run_that_an_earlier_version_began_is_suspended_and_resumed_as_the_same() {
    let mut world = World::started();
    named_otherwise(&mut world);
    let name = world.status.job.clone().unwrap().name;
    world.run = Run::Running(None);
    assert_eq!(world.visit(T1).action, Action::Watch);
    world.change(&json!({"suspend": true}));
    assert_eq!((world.visit(T1).action, world.status.leading_reason()), (Action::Stop, Reason::Suspended));
    world.run = Run::None;
    world.change(&json!({}));
    assert!(matches!(world.visit(T1).action, Action::Continue(_)));
    assert_eq!(world.status.job.unwrap().name, name);
}

#[test]
fn a_status_that_has_seen_another_spec_is_not_taken_for_the_status_of_its_run() {
    // The new spec waits for an input first: its generation has been observed when the input comes.
    for before in [World::done as fn() -> World, World::failed, World::started] {
        let mut world = before();
        world.change(&json!({"loss": {"labels": "Hard"}}));
        world.inputs = Inputs::NotReady(vec!["PreferenceDataset/d".into()]);
        assert_eq!(world.visit(T1).action, Action::Wait);
        world.inputs = ready("sha256:d");
        assert_eq!(world.visit(T1).action, Action::Start);
    }
    // It ends well when the spec has changed and its pods are on their way out.
    let mut world = World::started();
    world.run = Run::Ending;
    world.change(&json!({"loss": {"labels": "Hard"}}));
    world.visit(T1);
    world.run = ended(0);
    assert_eq!(world.visit(T1).action, Action::Start);
}

#[test]
fn a_status_from_before_specs_were_digested_is_trusted_where_its_run_had_ended() {
    for (before, action) in [(World::done as fn() -> World, Action::Skip), (World::failed, Action::Fail)] {
        let mut world = before();
        named_otherwise(&mut world);
        let job = world.status.job.as_mut().unwrap();
        (job.generation, job.spec_digest) = (None, None);
        assert_eq!(world.visit(T1).action, action);
        world.change(&json!({"loss": {"labels": "Hard"}}));
        assert_eq!(world.visit(T1).action, Action::Start);
    }
}
