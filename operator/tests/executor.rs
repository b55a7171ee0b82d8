//! `plumbline run` over the real binary. The stages are played by `stand_in/exit_code_player.sh`, which trains nothing:
//! what is tested is what the executor does with the ends of a stage, and with its own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use plumbline_crds::conditions::{ConditionStatus, ConditionType, Reason};
use plumbline_crds::run::RunDocument;
use plumbline_crds::status::Status;
use plumbline_crds::{Kind, Resource};
use plumbline_operator::digest::work_name;

/// The chain, last things first, so that the order must come from the references.
const CHAIN: &str = "\
apiVersion: plumbline.dev/v1alpha1
kind: PolicyTuning
metadata: {name: policy}
spec:
  method: PPO
  policyModel: {uri: model}
  rewardModelRef: {name: reward}
  prompts: {uri: prompts.txt}
---
apiVersion: plumbline.dev/v1alpha1
kind: RewardModel
metadata: {name: reward}
spec:
  datasetRef: {name: data}
  baseModel: {uri: model}
---
apiVersion: plumbline.dev/v1alpha1
kind: PreferenceDataset
metadata: {name: data}
spec:
  prompts: {uri: prompts.txt}
  generator: {model: {uri: model}}
  judges: [{name: words, mode: Pointwise, lexicon: {uri: words.tsv}}]
";

/// A folder with manifests and inputs, and the environment of a run.
struct Place {
    folder: tempfile::TempDir,
    play: Vec<(&'static str, &'static str)>,
}

impl Place {
    fn new(play: &[(&'static str, &'static str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("model")).unwrap();
        fs::write(folder.path().join("model/config.json"), "{}").unwrap();
        fs::write(folder.path().join("prompts.txt"), "one\ntwo\n").unwrap();
        fs::write(folder.path().join("words.tsv"), "good\t1\n").unwrap();
        fs::write(folder.path().join("chain.yaml"), CHAIN).unwrap();
        Self { folder, play: play.to_vec() }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plumbline"));
        command.arg(subcommand).arg("-f").arg(self.path("chain.yaml")).arg("--work-dir").arg(self.path("work"));
        if subcommand == "run" {
            let player = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand_in/exit_code_player.sh");
            assert!(fs::metadata(&player).unwrap().permissions().mode() & 0o111 != 0, "the player must be executable");
            command.arg("--trainer").arg(player);
        }
        command.env("PLAY_LOG", self.path("log")).envs(self.play.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self) -> Output {
        self.command("run").output().unwrap()
    }

    /// What a run would do, one line per resource.
    fn plan(&self) -> Vec<String> {
        text(&self.command("plan").output().unwrap().stdout).lines().map(str::to_owned).collect()
    }

    fn start(&self) -> Child {
        self.command("run").spawn().unwrap()
    }

    /// What the player did, in order.
    fn log(&self) -> Vec<String> {
        fs::read_to_string(self.path("log")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn wait_for(&self, line: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.log().iter().any(|l| l == line) {
            assert!(Instant::now() < deadline, "`{line}` never came: {:?}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn status(&self, kind: Kind, name: &str) -> Status {
        let file = self.path("work").join(kind.plural()).join(name).join("resource.yaml");
        let resource: Resource = serde_yaml::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        resource.status.unwrap()
    }

    fn data(&self) -> Status {
        self.status(Kind::PreferenceDataset, "data")
    }

    fn document(&self, kind: Kind, name: &str) -> RunDocument {
        let run = self.status(kind, name).job.unwrap().name;
        let file = self.path("work").join(kind.plural()).join(name).join(work_name(&run)).join("run.yaml");
        serde_yaml::from_str(&fs::read_to_string(file).unwrap()).unwrap()
    }

    /// Every file below the work folder, as text.
    fn everything_written(&self) -> String {
        let (mut text, mut pending) = (String::new(), vec![self.path("work")]);
        while let Some(path) = pending.pop() {
            if path.is_dir() {
                pending.extend(fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
            } else {
                text += &String::from_utf8_lossy(&fs::read(path).unwrap_or_default());
            }
        }
        text
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

fn is_alive(pid: &str) -> bool {
    Command::new("kill").args(["-0", pid]).stderr(Stdio::null()).status().unwrap().success()
}

#[test]
fn stages_run_in_the_order_of_their_references_and_end_in_a_table() {
    let place = Place::new(&[]);
    let output = place.run();
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert_eq!(place.log(), ["label 1", "reward 1", "tune 1"]);
    let table = text(&output.stdout);
    assert!(table.starts_with("NAME "), "{table}");
    for row in ["preferencedataset/data", "rewardmodel/reward", "policytuning/policy"] {
        let line = table.lines().find(|l| l.starts_with(row)).unwrap();
        assert!(line.contains("True") && line.contains("Completed") && line.contains("100%"), "{line}");
    }
    let report = format!("report: {}/report.html", place.path("work/artifacts/policytunings/policy").display());
    assert!(table.contains(&report), "{table}");

    let document = place.document(Kind::PolicyTuning, "policy");
    let roles: Vec<&str> = document.inputs.iter().map(|i| i.role.as_str()).collect();
    assert_eq!(roles, ["policyModel", "rewardModelRef", "prompts"]);
    let reward = place.status(Kind::RewardModel, "reward");
    assert_eq!(document.inputs[1].digest, reward.artifact.unwrap().digest);
    assert_eq!(document.inputs[0].path, place.path("model").display().to_string());
    assert_eq!(reward.conditions.len(), 6);
}

#[test]
fn a_second_run_does_nothing_and_a_changed_input_is_made_anew() {
    let place = Place::new(&[]);
    assert_eq!(code(&place.run()), 0);
    let (before, log) = (place.data(), place.log());
    let again = place.run();
    assert_eq!((code(&again), place.log()), (0, log), "{}", text(&again.stderr));
    assert_eq!(place.data(), before, "a status without news must not change");

    fs::write(place.path("words.tsv"), "good\t2\n").unwrap();
    let plan = place.plan();
    let data = "PreferenceDataset/data: would start again: spec.judges[0].lexicon changed after the artifact was made";
    assert_eq!(plan[0], data);
    assert!(
        plan[1].starts_with("RewardModel/reward: would start again after PreferenceDataset/data, if that "),
        "{plan:?}"
    );
    assert!(
        plan[2].starts_with("PolicyTuning/policy: would start again after RewardModel/reward, if that "),
        "{plan:?}"
    );
    assert_eq!(place.log().len(), 3, "plan must not run anything");
    assert_eq!(code(&place.run()), 0);
    assert_eq!(place.log()[3], "label 2", "another judge, in the folder that has the responses: {:?}", place.log());
    let judged = place.data().job.unwrap().name;
    assert_ne!(judged, before.job.unwrap().name);

    fs::write(place.path("model/other.txt"), "another model").unwrap();
    assert_eq!(code(&place.run()), 0);
    assert_eq!(place.log().iter().filter(|l| *l == "label 1").count(), 2, "in a folder of its own: {:?}", place.log());
    assert_ne!(place.data().job.unwrap().name, judged);
}

#[test]
fn a_plan_says_what_a_run_would_do_and_why() {
    let place = Place::new(&[("PLAY_LABEL", "3 75 0")]);
    let first = [
        "PreferenceDataset/data: would start: no artifact yet",
        "RewardModel/reward: would start after PreferenceDataset/data: no artifact yet",
        "PolicyTuning/policy: would start after RewardModel/reward: no artifact yet",
    ];
    assert_eq!(place.plan(), first);
    assert_eq!(code(&place.run()), 3);
    let plan = place.plan();
    let failed = "PreferenceDataset/data: would start again: the last run failed with DataInvalid: ";
    assert!(plan[0].starts_with(failed) && plan[1..] == first[1..], "{plan:?}");
    assert_eq!(code(&place.run()), 0);
    let plan = place.plan();
    assert!(plan.iter().all(|line| line.contains(": would do nothing: the artifact is at ")), "{plan:?}");
    fs::write(place.path("chain.yaml"), CHAIN.replace("method: PPO", "method: PPO\n  ppo: {gamma: 0.9}")).unwrap();
    assert_eq!(place.plan()[2], "PolicyTuning/policy: would start again: the spec changed after the artifact was made");
    fs::write(place.path("chain.yaml"), CHAIN).unwrap();
    fs::remove_dir_all(place.path("work/artifacts/policytunings/policy")).unwrap();
    assert_eq!(place.plan()[2], "PolicyTuning/policy: would start again: its artifact is gone");
    fs::write(place.path("chain.yaml"), CHAIN.replace("spec:", "spec:\n  suspend: true")).unwrap();
    assert!(place.plan()[2].contains("would not start: suspended by spec.suspend"), "{:?}", place.plan());
}

#[test]
fn what_another_version_has_made_is_kept_until_its_manifest_is_edited() {
    let place = Place::new(&[]);
    assert_eq!(code(&place.run()), 0);
    let log = place.log();
    // Another version names the same run otherwise.
    let file = place.path("work/preferencedatasets/data/resource.yaml");
    let mut resource: Resource = serde_yaml::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let job = resource.status.as_mut().unwrap().job.as_mut().unwrap();
    (job.name, job.spec_digest) = ("run-0000000000000000-11111111".into(), Some("sha256:2".into()));
    fs::write(&file, serde_yaml::to_string(&resource).unwrap()).unwrap();
    let again = place.run();
    assert_eq!((code(&again), place.log()), (0, log.clone()), "{}", text(&again.stderr));
    assert_eq!(place.data().job.unwrap().name, "run-0000000000000000-11111111");

    let edited =
        CHAIN.replace("generator: {model: {uri: model}}", "generator: {model: {uri: model}, responsesPerPrompt: 3}");
    fs::write(place.path("chain.yaml"), edited).unwrap();
    assert_eq!(code(&place.run()), 0);
    assert_eq!(place.log()[log.len()], "label 1", "in a folder of its own: {:?}", place.log());
}

#[test]
fn an_interrupted_stage_continues_at_once_and_is_not_counted_as_a_failure() {
    let place = Place::new(&[("PLAY_LABEL", "75 0")]);
    let output = place.run();
    assert_eq!(code(&output), 0);
    let said = text(&output.stderr);
    assert!(said.contains("was interrupted and continues") && !said.contains("retrying"), "{said}");
    assert_eq!(place.log()[..2], ["label 1", "label 2"]);
    let job = place.data().job.unwrap();
    assert_eq!((job.attempt, job.retries.get("Suspended")), (2, Some(&1)));
}

#[test]
fn a_failure_that_can_heal_is_tried_again_in_the_same_folder() {
    let place = Place::new(&[("PLAY_LABEL", "4 0"), ("PLAY_REWARD", "killed 0")]);
    let output = place.run();
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert_eq!(place.log(), ["label 1", "label 2", "reward 1", "reward 2", "tune 1"]);
    let job = place.data().job.unwrap();
    assert_eq!((job.attempt, job.retries.get("JudgeUnavailable")), (2, Some(&1)));
    assert_eq!(place.status(Kind::RewardModel, "reward").job.unwrap().retries.get("TrainerFailed"), Some(&1));
}

#[test]
fn a_failure_that_cannot_heal_ends_the_run_with_its_exit_code_and_its_dependants_wait() {
    let place = Place::new(&[("PLAY_LABEL", "3 0")]);
    let output = place.run();
    assert_eq!(code(&output), 3);
    assert_eq!(place.log(), ["label 1"], "nothing may run on data that is not there");
    let status = place.data();
    assert_eq!(status.leading_reason(), Reason::DataInvalid);
    assert!(status.is_true(ConditionType::Stalled) && status.completion_time.is_some());
    for (kind, name) in [(Kind::RewardModel, "reward"), (Kind::PolicyTuning, "policy")] {
        assert_eq!(place.status(kind, name).leading_reason(), Reason::ReferenceNotReady);
    }
    let shown = text(&output.stderr);
    assert!(shown.contains("attempt 1 of label"), "the log's end is shown: {shown}");
    assert!(shown.contains("[redacted]") && !shown.contains("sk-abcdefgh"), "{shown}");
    assert!(!format!("{status:?}").contains("sk-abcdefgh"), "nor does a key reach the status");

    // Running the command again asks for another try.
    assert_eq!(code(&place.run()), 0);
    assert_eq!(place.log(), ["label 1", "label 2", "reward 1", "tune 1"]);
}

#[test]
fn ctrl_c_stops_the_stage_gently_and_the_next_run_continues_it() {
    let place = Place::new(&[("PLAY_LABEL", "wait 0")]);
    let child = place.start();
    place.wait_for("label waiting");
    signal(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 75, "{}", text(&output.stderr));
    assert_eq!(place.log(), ["label 1", "label waiting", "label stopped"]);
    let status = place.data();
    assert_eq!(status.leading_reason(), Reason::Suspended);
    assert!(!status.is_true(ConditionType::Stalled) && !status.is_true(ConditionType::Reconciling));

    assert_eq!(code(&place.run()), 0);
    assert_eq!(place.log()[3..], ["label 2", "reward 1", "tune 1"]);
    assert_eq!(place.data().job.unwrap().attempt, 2);
}

#[test]
fn a_stage_whose_run_was_killed_is_stopped_before_it_starts_again() {
    let place = Place::new(&[("PLAY_LABEL", "slow 0")]);
    let mut child = place.start();
    place.wait_for("label waiting");
    signal(&child, "-KILL");
    child.wait().unwrap();
    assert_eq!(code(&place.run()), 0);
    let log = place.log();
    assert_eq!(log[..4], ["label 1", "label waiting", "label stopped", "label 2"], "never two at once: {log:?}");
}

#[test]
fn a_stage_that_ended_unseen_is_recorded_and_not_run_again() {
    let place = Place::new(&[]);
    assert_eq!(code(&place.run()), 0);
    // As if `plumbline run` had been killed after the stage ended and before it could say so.
    let file = place.path("work/preferencedatasets/data/resource.yaml");
    let mut resource: Resource = serde_yaml::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let status = resource.status.as_mut().unwrap();
    (status.artifact, status.completion_time) = (None, None);
    for condition in &mut status.conditions {
        (condition.status, condition.reason) = match condition.kind {
            ConditionType::Ready => (ConditionStatus::False, Reason::Running),
            ConditionType::Succeeded => (ConditionStatus::Unknown, Reason::Running),
            ConditionType::Reconciling => (ConditionStatus::True, Reason::Running),
            _ => (condition.status, condition.reason),
        };
    }
    fs::write(&file, serde_yaml::to_string(&resource).unwrap()).unwrap();

    assert_eq!(code(&place.run()), 0);
    assert_eq!(place.log().len(), 3, "{:?}", place.log());
    let status = place.data();
    assert!(status.is_true(ConditionType::Ready) && status.artifact.is_some() && status.counts["pairs"] == 7);
}

#[test]
fn an_altered_artifact_is_refused_by_name_and_a_deleted_one_is_made_again() {
    let place = Place::new(&[]);
    assert_eq!(code(&place.run()), 0);
    let artifact = place.path("work/artifacts/preferencedatasets/data");
    let original = fs::read_to_string(artifact.join("model.txt")).unwrap();

    fs::write(artifact.join("model.txt"), "edited").unwrap();
    let output = place.run();
    assert_eq!(code(&output), 3);
    assert!(text(&output.stderr).contains("model.txt"), "{}", text(&output.stderr));
    assert_eq!(place.log().len(), 3, "somebody's edit must not be overwritten unasked");
    assert_eq!(place.data().leading_reason(), Reason::DataInvalid);
    assert!(place.data().is_true(ConditionType::Succeeded));

    fs::write(artifact.join("model.txt"), original).unwrap();
    assert_eq!((code(&place.run()), place.log().len()), (0, 3), "restored, it is as good as before");

    fs::remove_dir_all(&artifact).unwrap();
    assert_eq!(code(&place.run()), 0);
    assert_eq!(place.log()[3], "label 2");
}

#[test]
fn a_model_judge_is_served_exactly_as_long_as_its_stage() {
    let place = Place::new(&[]);
    let chain = CHAIN.replace("lexicon: {uri: words.tsv}", "model: {uri: model}");
    fs::write(place.path("chain.yaml"), chain).unwrap();
    let output = place.run();
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let log = place.log();
    let server = log[0].strip_prefix("serve ").unwrap();
    assert_eq!(log[1..], ["label 1", "serve stopped", "reward 1", "tune 1"]);
    assert!(!is_alive(server));
    let served = place.document(Kind::PreferenceDataset, "data").served_judges;
    assert_eq!(served.len(), 1);
    let judge = (served[0].role.as_str(), served[0].url.as_str(), served[0].model.as_str());
    assert_eq!(judge, ("judges[0].model", "http://127.0.0.1:4242/v1", "words"));
}

#[test]
fn a_judge_that_does_not_come_up_ends_its_stage_with_its_own_words() {
    let place = Place::new(&[("PLAY_SERVE", "fail")]);
    let chain = CHAIN.replace("lexicon: {uri: words.tsv}", "model: {uri: model}");
    fs::write(place.path("chain.yaml"), chain).unwrap();
    let output = place.run();
    assert_eq!(code(&output), 3);
    assert!(text(&output.stderr).contains("judge words ended before it was ready: no such model"));
    assert_eq!(place.log(), [""; 0], "no stage without its judge");
}

#[test]
fn a_secret_is_inherited_and_never_written_and_a_missing_one_stops_everything() {
    let mut place = Place::new(&[]);
    let endpoint =
        "endpoint: {url: \"http://127.0.0.1:9/v1\", model: m, apiKeySecretRef: {name: my-judge, key: api.key}}";
    fs::write(place.path("chain.yaml"), CHAIN.replace("lexicon: {uri: words.tsv}", endpoint)).unwrap();
    let output = place.run();
    assert_eq!(code(&output), 2);
    let shown = text(&output.stderr);
    assert!(
        shown.contains("spec.judges[0].endpoint.apiKeySecretRef")
            && shown.contains("PLUMBLINE_SECRET_MY_JUDGE_API_KEY"),
        "{shown}"
    );
    assert!(!place.path("work").exists(), "nothing may be written");
    let plan = place.command("plan").output().unwrap();
    assert_eq!((code(&plan), text(&plan.stderr)), (2, shown), "a plan says what a run would end with");
    assert!(text(&plan.stdout).starts_with("PreferenceDataset/data: would start"), "{}", text(&plan.stdout));

    place.play.push(("PLUMBLINE_SECRET_MY_JUDGE_API_KEY", "the-secret-value"));
    let output = place.run();
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert!(!place.everything_written().contains("the-secret-value"));
}

#[test]
fn a_missing_input_stops_everything_before_it_starts() {
    let place = Place::new(&[]);
    fs::remove_file(place.path("words.tsv")).unwrap();
    fs::remove_dir_all(place.path("model")).unwrap();
    let output = place.run();
    assert_eq!(code(&output), 2);
    let shown = text(&output.stderr);
    for path in ["spec.policyModel.uri", "spec.baseModel.uri", "spec.generator.model.uri", "spec.judges[0].lexicon.uri"]
    {
        assert!(shown.contains(path), "{path}: {shown}");
    }
    assert!(shown.contains("chain.yaml:6: PolicyTuning/policy:"), "{shown}");
    assert!(!place.path("work").exists() && place.log().is_empty());
}

#[test]
fn a_folder_of_something_else_is_never_overwritten() {
    let place = Place::new(&[]);
    fs::create_dir(place.path("photos")).unwrap();
    fs::write(place.path("photos/one.jpg"), "precious").unwrap();
    let chain = CHAIN.replace("  datasetRef: {name: data}", "  datasetRef: {name: data}\n  output: {uri: photos}");
    fs::write(place.path("chain.yaml"), chain).unwrap();
    let output = place.run();
    assert_eq!(code(&output), 2);
    assert!(text(&output.stderr).contains("spec.output.uri: expected an empty directory"), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(place.path("photos/one.jpg")).unwrap(), "precious");
}

#[test]
fn two_runs_cannot_share_a_work_folder() {
    let place = Place::new(&[("PLAY_LABEL", "wait")]);
    let child = place.start();
    place.wait_for("label waiting");
    let second = place.run();
    assert_eq!(code(&second), 1);
    assert!(text(&second.stderr).contains("another `plumbline run`"), "{}", text(&second.stderr));
    signal(&child, "-TERM");
    assert_eq!(code(&child.wait_with_output().unwrap()), 75);
    assert_eq!(place.log(), ["label 1", "label waiting", "label stopped"]);
}

#[test]
fn a_suspended_resource_holds_nothing() {
    let place = Place::new(&[]);
    fs::write(
        place.path("chain.yaml"),
        CHAIN.replace("  datasetRef: {name: data}", "  datasetRef: {name: data}\n  suspend: true"),
    )
    .unwrap();
    assert_eq!(code(&place.run()), 0);
    assert_eq!(place.log(), ["label 1"]);
    assert_eq!(place.status(Kind::RewardModel, "reward").leading_reason(), Reason::Suspended);
    assert_eq!(place.status(Kind::PolicyTuning, "policy").leading_reason(), Reason::ReferenceNotReady);
}
