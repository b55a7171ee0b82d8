//! Killed or asked to stop at chosen points of each stage.

use std::fs;
use std::path::Path;
use std::time::Duration;

use plumbline_crds::Kind;
use plumbline_crds::conditions::{ConditionType, Reason};
use plumbline_crds::run::PROGRESS_FILE;
use plumbline_testkit::chain::{self, with};
use plumbline_testkit::fixture;
use plumbline_testkit::place::Place;
use serde_json::json;

use super::kit::{
    ALL, CONCURRENCY, DATA, DPO, METRICS, PPO, REPLIES, RESPONSES, REWARD, assert_same, digests, journal, judge,
    manifests, undisturbed,
};

/// Where a chain is disturbed: a description, the resource, and what holds then and not much longer.
type Moment = (&'static str, (Kind, &'static str), fn(&Place) -> bool);

const MOMENTS: [Moment; 7] = [
    ("a part of the responses is sampled", DATA, |p| p.lines(DATA.0, DATA.1, RESPONSES) == 1),
    ("some questions are answered", DATA, |p| p.lines(DATA.0, DATA.1, REPLIES) >= 40),
    ("the reward model is at step 6", REWARD, |p| p.lines(REWARD.0, REWARD.1, METRICS) >= 6),
    ("PPO is at step 6", PPO, |p| p.lines(PPO.0, PPO.1, METRICS) >= 6),
    ("one of two models is sampled for the evaluation", PPO, |p| evaluated(p, PPO)),
    ("DPO is at step 6", DPO, |p| p.lines(DPO.0, DPO.1, METRICS) >= 6),
    ("one of two models is sampled for the evaluation", DPO, |p| evaluated(p, DPO)),
];

fn evaluated(place: &Place, (kind, name): (Kind, &str)) -> bool {
    place.find_run(kind, name).is_some_and(|run| run.join("evaluation-before.json").exists())
}

#[test]
fn killed_in_every_stage_a_chain_ends_with_the_same_artifacts_and_asks_nothing_twice_that_it_has() {
    let sim = judge();
    let expected = undisturbed(&manifests(&sim));
    let questions = sim.answered();
    assert!(questions > 100);

    let place = Place::new(&manifests(&sim));
    let (mut kills, mut safe) = (0, 0);
    for (what, (kind, name), holds) in MOMENTS {
        let asked_before = sim.requests().len();
        place.start().until(what, holds).kill();
        kills += 1;
        assert!(place.result(kind, name).is_none(), "{name} had ended before it was killed when {what}");
        // What a kill while saving would leave.
        let staging = place.find_run(kind, name).unwrap().join("staging");
        fs::create_dir_all(&staging).unwrap();
        fs::write(staging.join(".tmpAbCdEf"), "half a tensor").unwrap();
        // What was on its way arrives.
        std::thread::sleep(Duration::from_millis(50));
        let (asked, answered) = (sim.requests().len() - asked_before, journal(&place).len());
        assert!(asked <= answered - safe + CONCURRENCY, "{name}: {asked} asked, {safe} were safe, {answered} are");
        safe = answered;
    }
    assert_eq!(safe, questions);
    let _ = place.run().well();
    assert_same(&digests(&place), &expected);
    let twice = sim.requests().len() - 2 * questions;
    assert!(twice <= CONCURRENCY, "only what was on its way at the one kill while judging is paid for twice: {twice}");
    for (kind, name) in ALL {
        let job = place.status(kind, name).job.unwrap();
        assert!(job.attempt >= 2, "{name} went on in its own folder: {job:?} after {kills} kills");
        assert_eq!(place.runs(kind, name), 1, "{name}");
    }
}

/// The steps that have a checkpoint.
fn checkpoints(run: &Path) -> Vec<i64> {
    let names = fs::read_dir(run.join("checkpoints")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut steps: Vec<i64> = names.map(|n| n.strip_prefix("step-").unwrap().parse().unwrap()).collect();
    steps.sort_unstable();
    steps
}

#[test]
fn asked_to_stop_in_every_stage_a_chain_exits_75_and_loses_nothing() {
    let sim = judge();
    let expected = undisturbed(&manifests(&sim));
    let asked = sim.requests().len();

    let place = Place::new(&manifests(&sim));
    for (what, (kind, name), holds) in MOMENTS {
        let ended = place.start().until(what, holds).terminate();
        assert_eq!(ended.code(), 75, "{name} when {what}: {}", ended.said());
        let status = place.status(kind, name);
        assert_eq!(status.leading_reason(), Reason::Suspended, "{name}");
        assert!(!status.is_true(ConditionType::Stalled) && status.artifact.is_none(), "{name}");
        assert!(place.result(kind, name).is_some_and(|r| r.reason == Reason::Suspended), "{name}");
        if holds(&place) && what.contains("at step") {
            let steps = place.lines(kind, name, METRICS) as i64;
            let run = place.find_run(kind, name).unwrap();
            assert_eq!(checkpoints(&run).last(), Some(&steps), "{name}: every step that was taken is safe");
        }
    }
    let _ = place.run().well();
    assert_same(&digests(&place), &expected);
    assert_eq!(sim.requests().len(), 2 * asked, "a stop waits for what is on its way: nothing is asked twice");
    for (kind, name) in ALL {
        let retries = place.status(kind, name).job.unwrap().retries;
        assert!(retries.keys().all(|reason| reason == "Suspended"), "{name}: a stop is no failure: {retries:?}");
    }
}

#[test]
fn a_stop_while_a_rollout_is_sampled_does_not_wait_for_the_update() {
    let many = json!({"rollout": {"promptsPerStep": 48, "responsesPerPrompt": 512}, "evaluation": null});
    let pairs =
        json!({"datasetRef": null, "dataset": {"uri": fixture::uri("pairs.jsonl")}, "training": {"maxSteps": 1}});
    let reward = with(chain::reward(REWARD.1, ""), &pairs);
    let place = Place::new(&[reward, with(chain::ppo(PPO.1, REWARD.1), &many)]);
    let samples = |place: &Place| {
        let report = place.find_run(PPO.0, PPO.1).and_then(|run| fs::read_to_string(run.join(PROGRESS_FILE)).ok());
        report.is_some_and(|report| report.contains("Tuning"))
    };
    let ended = place.start().until("PPO samples", samples).terminate();
    assert_eq!(ended.code(), 75, "{}", ended.said());
    assert_eq!(place.lines(PPO.0, PPO.1, METRICS), 0, "the update was not finished");
    assert_eq!(checkpoints(&place.find_run(PPO.0, PPO.1).unwrap()), [0]);
}
