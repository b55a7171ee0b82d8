//! Disks that fill up, folders that hold more than they say, files that are none: named, soon, and nothing that was done is
//! lost or silently other.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::Duration;

use plumbline_crds::{Kind, artifact};
use plumbline_testkit::chain::{self, with};
use plumbline_testkit::place::Place;
use plumbline_testkit::programs::{code, plumbline, text, trainer};
use plumbline_testkit::small_disk::{SmallDisk, read};
use plumbline_testkit::{fixture, stage};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

const DATA: (Kind, &str) = (Kind::PreferenceDataset, "data");
const REWARD: (Kind, &str) = (Kind::RewardModel, "reward");

/// A chain that takes seconds.
fn short() -> [Value; 3] {
    let few = json!({"training": {"epochs": null, "maxSteps": 4, "checkpoint": {"everySteps": 2}}});
    [
        with(chain::dataset(DATA.1, &chain::words()), &json!({"prompts": {"limit": 24}})),
        with(chain::reward(REWARD.1, DATA.1), &few),
        with(chain::dpo("dpo", DATA.1), &with_evaluation(&few)),
    ]
}

fn with_evaluation(change: &Value) -> Value {
    let mut change = change.clone();
    change["evaluation"] = json!({"samplesPerPrompt": 1, "prompts": {"limit": 8}});
    change
}

fn digests(artifacts: &std::path::Path) -> Vec<String> {
    let of = |below: &str| artifact::verify(&artifacts.join(below)).unwrap().digest;
    ["preferencedatasets/data", "rewardmodels/reward", "policytunings/dpo"].map(of).into()
}

#[test]
fn a_disk_that_is_full_at_any_stage_is_named_and_with_room_the_run_ends_as_undisturbed() {
    let undisturbed = Place::new(&short());
    let _ = undisturbed.run().well();
    let expected = digests(&undisturbed.path("work/artifacts"));

    let disk = SmallDisk::new();
    fs::copy(undisturbed.path("run.yaml"), disk.beside("run.yaml")).unwrap();
    let sizes = ["8k", "32k", "128k", "600k", "2m", "4m", "7m", "11m", "16m"];
    let commands = format!(
        "for size in {} 200m; do\n resize $size\n code=0\n \
         \"$PLUMBLINE\" run -f run.yaml --work-dir \"$DISK/work\" >printed.$size 2>said.$size || code=$?\n \
         echo $code >code.$size\ndone\ncp -r \"$DISK/work/artifacts\" .",
        sizes.join(" ")
    );
    let _ = disk.bash("4k", &commands);
    let mut full = 0;
    for size in sizes {
        let [code, said, printed] =
            ["code", "said", "printed"].map(|file| read(&disk.beside(&format!("{file}.{size}"))));
        assert!(["0\n", "5\n"].contains(&code.as_str()), "{size}: {code} {said}");
        assert!(!said.contains("panicked"), "{size}: {said}");
        if code == "5\n" {
            full += 1;
            let named = said.contains(disk.mounted().to_str().unwrap()) && said.contains("No space left on device");
            assert!(named && said.contains("free space"), "{size}: {said}");
            // Where not even the lock of the folder can be made, there is nothing to show.
            assert!(size == "8k" || printed.contains("preferencedataset/data"), "{size}: the table is printed: {said}");
        }
    }
    assert!(full >= 5, "the disk was full {full} times");
    assert_eq!(read(&disk.beside("code.200m")), "0\n", "{}", read(&disk.beside("said.200m")));
    assert_eq!(digests(&disk.beside("artifacts")), expected);
}

#[test]
fn a_work_folder_that_takes_nothing_more_keeps_the_next_resources_from_being_tried() {
    let disk = SmallDisk::new();
    let place = Place::new(&short());
    fs::copy(place.path("run.yaml"), disk.beside("run.yaml")).unwrap();
    let commands = "code=0; \"$PLUMBLINE\" run -f run.yaml --work-dir \"$DISK/work\" || code=$?; echo $code";
    let output = disk.bash("96k", commands);
    let (printed, said) = (text(&output.stdout), text(&output.stderr));
    assert!(!said.contains('\u{1b}'), "nobody asked for colours in a file: {said}");
    assert!(printed.ends_with("5\n"), "{said}");
    assert!(said.contains("not run: RewardModel/reward, PolicyTuning/dpo"), "{said}");
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_anything_is_computed() {
    let disk = SmallDisk::new();
    let output = format!("file://{}/out", disk.mounted().display());
    let place = Place::new(&[with(short()[0].clone(), &json!({"output": {"uri": output}}))]);
    fs::copy(place.path("run.yaml"), disk.beside("run.yaml")).unwrap();
    let commands = "mount --no-mtab -o remount,ro \"$DISK\"\n\
        code=0; \"$PLUMBLINE\" run -f run.yaml --work-dir work || code=$?; echo $code";
    let output = disk.bash("1m", commands);
    let said = text(&output.stderr);
    assert_eq!(text(&output.stdout), "2\n", "{said}");
    assert!(said.contains("spec.output.uri") && said.contains(disk.mounted().to_str().unwrap()), "{said}");
    assert!(!disk.beside("work/preferencedatasets").exists(), "nothing was begun");
}

#[test]
fn an_artifact_goes_to_another_disk_than_the_work_folder() {
    let disk = SmallDisk::new();
    let output = format!("file://{}/out", disk.mounted().display());
    let place = Place::new(&[with(short()[0].clone(), &json!({"output": {"uri": output}}))]);
    fs::copy(place.path("run.yaml"), disk.beside("run.yaml")).unwrap();
    let _ =
        disk.bash("8m", "\"$PLUMBLINE\" run -f run.yaml --work-dir work\ncp -r \"$DISK/out\" kept\nls \"$DISK\" >ls");
    artifact::verify(&disk.beside("kept")).unwrap();
    assert_eq!(read(&disk.beside("ls")), "out\n", "nothing is left beside it");
}

#[test]
fn with_few_open_files_the_chain_completes() {
    let place = Place::new(&short());
    let output = Command::new("bash")
        .args(["-c", "ulimit -n 64; exec \"$@\"", "bash"])
        .arg(plumbline())
        .args(["run", "-f"])
        .arg(place.path("run.yaml"))
        .arg("--work-dir")
        .arg(place.path("work"))
        .env("OMP_NUM_THREADS", "1")
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
}

#[test]
fn two_processes_in_one_work_folder_are_one_too_many_at_either_level() {
    let place = Place::new(&short());
    let running = place.start().until("a run is under way", |p| p.find_run(DATA.0, DATA.1).is_some());
    let second = place.run();
    assert_eq!(second.code(), 1, "{}", second.said());
    assert!(second.said().contains("another `plumbline run`"), "{}", second.said());
    drop(running);

    let root = tempfile::tempdir().unwrap();
    let pairs = json!({"uri": fixture::uri("pairs.jsonl")});
    let long = json!({"datasetRef": null, "dataset": pairs, "training": {"epochs": 500}});
    let inputs = [("dataset", fixture::path("pairs.jsonl")), ("baseModel", fixture::tiny())];
    let mut command = stage::command(&with(chain::reward(REWARD.1, ""), &long), &inputs, root.path());
    let mut first = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let result = root.path().join("work/progress.json");
    while !result.exists() {
        assert!(first.try_wait().unwrap().is_none(), "the first one ended");
        std::thread::sleep(Duration::from_millis(10));
    }
    let second = command.stderr(Stdio::piped()).output().unwrap();
    let still_runs = first.try_wait().unwrap().is_none();
    first.kill().unwrap();
    first.wait().unwrap();
    let said = text(&second.stderr);
    assert_eq!(code(&second), 5, "{said}");
    assert!(still_runs && said.contains("another process is running this stage"), "{said}");
    assert!(said.contains(root.path().join("work").to_str().unwrap()), "{said}");
    assert!(!root.path().join("work/result.json").exists(), "the second one leaves nothing in the first one's folder");
}

/// A reward model of the pairs of the fixtures, from a model in the place's folder.
fn reward_of(place: &Place, model: &str) -> Value {
    let change = json!({
        "datasetRef": null, "dataset": {"uri": fixture::uri("pairs.jsonl")}, "baseModel": {"uri": place.uri(model)},
        "training": {"epochs": null, "maxSteps": 1},
    });
    with(chain::reward(REWARD.1, ""), &change)
}

#[test]
fn what_is_beside_the_files_of_an_artifact_is_refused_and_no_reader_sees_it() {
    let place = Place::new(&[]);
    let model = place.path("model");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(fixture::tiny()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    place.write(&[reward_of(&place, "model")]);
    let _ = place.run().well();
    for name in ["model.safetensors.index.json", "chat_template.jinja", "adapter_config.json"] {
        fs::write(model.join(name), "{}").unwrap();
        let ended = place.run();
        assert_eq!(ended.code(), 3, "{}", ended.said());
        assert!(ended.said().contains(&format!("altered: {name} is not in the manifest")), "{}", ended.said());
        fs::remove_file(model.join(name)).unwrap();
    }
    fs::write(model.join(".DS_Store"), "x").unwrap();
    let _ = place.run().well();
}

#[test]
fn inspect_and_serve_refuse_a_model_with_a_pipe_or_a_device_at_once() {
    let make_pipe = |path: &std::path::Path| mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
    for name in ["tokenizer.json", "generation_config.json", "config.json", "model.safetensors"] {
        let root = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            fs::copy(fixture::tiny().join(file), root.path().join(file)).unwrap();
        }
        let _ = fs::remove_file(root.path().join(name));
        if name == "config.json" {
            symlink("/dev/zero", root.path().join(name)).unwrap();
        } else {
            make_pipe(&root.path().join(name));
        }
        for command in [&["inspect", "--text", "Once"][..], &["serve", "--port", "0"]] {
            let mut waits = Command::new("timeout");
            waits.args(["60", trainer().to_str().unwrap()]).args(command);
            let output = waits.arg("--model").arg(root.path()).output().unwrap();
            let said = text(&output.stderr);
            assert_eq!(code(&output), 3, "{command:?} {name}: {said}");
            assert!(said.contains(&format!("{name}: is a ")) && said.contains("regular files only"), "{said}");
        }
    }
}

#[test]
fn what_is_no_regular_file_is_named_and_waited_for_by_nobody() {
    for (name, make) in [
        ("pipe", (|path| mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap()) as fn(&std::path::Path)),
        ("zero", |path| symlink("/dev/zero", path).unwrap()),
        ("circle", |path| symlink(".", path).unwrap()),
    ] {
        let place = Place::new(&[]);
        fs::create_dir(place.path("model")).unwrap();
        for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            fs::copy(fixture::tiny().join(file), place.path("model").join(file)).unwrap();
        }
        make(&place.path("model").join(name));
        place.write(&[reward_of(&place, "model")]);
        let ended = place.run();
        assert_eq!(ended.code(), 3, "{}", ended.said());
        assert!(ended.said().contains(name) && ended.said().contains("spec.baseModel"), "{}", ended.said());
    }
    let place = Place::new(&[]);
    mknodat(CWD, place.path("pairs.jsonl"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let change = json!({"datasetRef": null, "dataset": {"uri": place.uri("pairs.jsonl")}});
    place.write(&[with(chain::reward(REWARD.1, ""), &change)]);
    let ended = place.run();
    assert_eq!(ended.code(), 2, "{}", ended.said());
    assert!(ended.said().contains("found a named pipe"), "{}", ended.said());
}
