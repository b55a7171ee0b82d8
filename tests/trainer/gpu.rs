//! Stages on a GPU, which here is the stand-in: all that meets is on one device, states are saved from it and restored to it,
//! and what people read when there is none or it is full. No test here has run on a real GPU.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use plumbline_crds::conditions::Reason;
use plumbline_crds::run::StageResult;
use plumbline_crds::source::Sampling;
use plumbline_crds::training::Precision;
use plumbline_feedback::data::preference::read_file;
use plumbline_testkit::chain::{self, with};
use plumbline_testkit::place::Place;
use plumbline_testkit::programs::{code, text};
use plumbline_testkit::{fixture, stage, stand_in};
use plumbline_trainer::generate::engine::{Engine, Event, Job, Limits};
use plumbline_trainer::load::hugging_face::ModelFolder;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

/// The stand-in takes other kernels for attention than the CPU does.
const TOLERANCE: f64 = 1e-4;

type Inputs = Vec<(&'static str, PathBuf)>;

fn model(role: &'static str) -> (&'static str, PathBuf) {
    (role, fixture::tiny())
}

fn pairs() -> (&'static str, PathBuf) {
    ("dataset", fixture::path("pairs.jsonl"))
}

/// Four steps of Bradley-Terry on the pairs of the fixture.
fn reward(changes: &Value) -> (Value, Inputs) {
    let few = json!({"datasetRef": null, "dataset": {"uri": "pairs"}, "training": {"maxSteps": 4, "batchSize": 8}});
    (with(with(chain::reward("r", ""), &few), changes), vec![model("baseModel"), pairs()])
}

fn dpo(changes: &Value) -> (Value, Inputs) {
    let few = json!({"datasetRef": null, "dataset": {"uri": "pairs"}, "evaluation": null,
        "training": {"maxSteps": 4, "batchSize": 8}});
    (with(with(chain::dpo("d", ""), &few), changes), vec![model("policyModel"), pairs()])
}

fn on_gpu(manifest: Value) -> Value {
    with(manifest, &json!({"compute": {"accelerators": 1}}))
}

/// Runs a stage on the stand-in to a good end. Gives its metrics, and the most bytes that the device held.
fn run_on_gpu((manifest, inputs): (Value, Inputs), root: &Path) -> (stage::Made, u64) {
    let report = root.join("bytes");
    let mut environment = stand_in::environment().to_vec();
    environment.push(("STAND_IN_REPORT", report.display().to_string()));
    let output = stage::run_to_any_end(&on_gpu(manifest), &inputs, root, &environment);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    (stage::Made::read(root), fs::read_to_string(report).unwrap().trim().parse().unwrap())
}

/// Trains on the CPU and on the stand-in, and compares every metric of every step.
#[track_caller]
fn assert_same(case: (Value, Inputs)) {
    let root = tempfile::tempdir().unwrap();
    let on_cpu = stage::run(&case.0, &case.1, &root.path().join("cpu"));
    let (made, bytes) = run_on_gpu(case, &root.path().join("gpu"));
    assert!(bytes > 1_000_000, "the model was on the device: {bytes}");
    assert!(made.metrics.len() >= 3 && made.metrics.len() == on_cpu.metrics.len(), "{} steps", made.metrics.len());
    for (a, b) in on_cpu.metrics.iter().zip(&made.metrics) {
        let step = &a["step"];
        // Before the first step the policy is its reference, and which response it prefers is the sign of a rounding error.
        let first = *step == on_cpu.metrics[0]["step"];
        for (name, value) in a.as_object().unwrap().iter().filter(|(n, _)| !first || *n != "rewards/accuracies") {
            let (a, b) = (value.as_f64().unwrap(), b[name].as_f64().unwrap());
            assert!((a - b).abs() <= TOLERANCE * (1.0 + a.abs()), "{name} at step {step}: {a} and {b}");
        }
    }
    let names = |root: &Path| -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&made.artifact), names(&on_cpu.artifact));
}

#[test]
fn a_reward_model_learns_on_the_gpu_what_it_learns_on_the_cpu() {
    assert_same(reward(&json!({})));
}

#[test]
fn dpo_with_an_adapter_above_frozen_layers_does_too() {
    let training =
        json!({"precision": "Float32", "adapter": {"rank": 4, "alpha": 8, "lastLayers": 2, "save": "Adapter"}});
    assert_same(dpo(&json!({"training": training})));
}

#[test]
fn sft_does_too() {
    let texts = tempfile::NamedTempFile::with_suffix(".jsonl").unwrap();
    let records = read_file(&fixture::path("pairs.jsonl")).unwrap();
    let text = |i: usize| format!("{}{}", records[i].prompt.to_text(), records[i].chosen.to_text());
    let lines: Vec<String> = (0..32).map(|i| format!("{}\n", json!({"text": text(i)}))).collect();
    fs::write(texts.path(), lines.concat()).unwrap();
    let manifest = with(chain::sft("s", "texts"), &json!({"training": {"epochs": 1}}));
    assert_same((manifest, vec![model("policyModel"), ("dataset", texts.path().to_owned())]));
}

#[test]
fn ppo_does_too_from_the_same_samples() {
    let root = tempfile::tempdir().unwrap();
    let (manifest, inputs) = reward(&json!({}));
    let scorer = stage::run(&manifest, &inputs, root.path()).artifact;
    let few = json!({"evaluation": null, "rollout": {"promptsPerStep": 16, "sampling": {"minNewTokens": 4}},
        "training": {"maxSteps": 3, "batchSize": 8}});
    let inputs = vec![model("policyModel"), ("rewardModelRef", scorer), ("prompts", fixture::path("prompts.txt"))];
    assert_same((with(chain::ppo("p", "r"), &few), inputs));
}

#[test]
fn a_chain_runs_on_the_gpu_from_responses_to_the_win_rate() {
    let mut place = Place::new(&[]);
    for (name, value) in stand_in::environment() {
        place.set_env(name, &value);
    }
    let data = with(
        chain::dataset("data", &chain::words()),
        &json!({"prompts": {"limit": 32}, "generator": {"precision": "BFloat16"}}),
    );
    let short = json!({"training": {"epochs": 1, "precision": "BFloat16", "adapter": {"rank": 4, "dropout": 0.1}}});
    let ppo = with(with(chain::ppo("ppo", "reward"), &short), &json!({"evaluation": {"samplesPerPrompt": 1}}));
    place.write(&[data, with(chain::reward("reward", "data"), &short), ppo].map(on_gpu));
    let report = place.path("bytes");
    place.set_env("STAND_IN_REPORT", &report.display().to_string());
    let _ = place.run().well();
    let held: Vec<u64> = fs::read_to_string(report).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    assert!(held.len() == 3 && held.iter().all(|&bytes| bytes > 500_000), "each stage used the device: {held:?}");
}

/// The files of a checkpoint or an artifact, by name.
fn bytes(folder: &Path, name: &str) -> Vec<u8> {
    fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{}: {e}", folder.join(name).display()))
}

#[test]
fn a_run_that_is_continued_on_the_gpu_drops_what_it_would_have_dropped_and_ends_the_same() {
    let root = tempfile::tempdir().unwrap();
    let (whole, half) = (root.path().join("whole"), root.path().join("half"));
    let adapter = json!({"rank": 4, "alpha": 8, "dropout": 0.5});
    let case = reward(&json!({"training": {"adapter": adapter, "checkpoint": {"everySteps": 2, "keep": 9}}}));
    let (made, _) = run_on_gpu(case.clone(), &whole);
    // What a run that was killed after its second step had left.
    let checkpoint = Path::new("work/checkpoints/step-000000002");
    fs::create_dir_all(half.join(checkpoint)).unwrap();
    for file in ["state.safetensors", "state.json", "crc32c.json"] {
        fs::copy(whole.join(checkpoint).join(file), half.join(checkpoint).join(file)).unwrap();
    }
    fs::copy(whole.join("work/metrics.jsonl"), half.join("work/metrics.jsonl")).unwrap();
    let (continued, _) = run_on_gpu(case, &half);
    assert_eq!(continued.metrics, made.metrics);
    let weights = "model.safetensors";
    assert!(bytes(&continued.artifact, weights) == bytes(&made.artifact, weights), "the weights differ");
}

#[test]
fn a_full_gpu_ends_the_run_by_its_name() {
    let root = tempfile::tempdir().unwrap();
    let (manifest, inputs) = reward(&json!({}));
    let mut environment = stand_in::environment().to_vec();
    environment.push(("STAND_IN_BYTES", "3000000".into()));
    let output = stage::run_to_any_end(&on_gpu(manifest), &inputs, root.path(), &environment);
    assert_eq!(code(&output), 6, "{}", text(&output.stderr));
    let result: StageResult = serde_json::from_slice(&bytes(root.path(), "work/result.json")).unwrap();
    assert_eq!(result.reason, Reason::AcceleratorOutOfMemory);
    assert!(result.message.starts_with("CUDA out of memory. Tried to allocate"), "{}", result.message);
}

#[test]
fn without_a_gpu_an_accelerator_is_refused_in_words_that_say_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    let (manifest, inputs) = reward(&json!({}));
    // On a machine with a GPU and all of CUDA, there is none to be seen.
    let environment = [("CUDA_VISIBLE_DEVICES", "-1".to_owned())];
    let output = stage::run_to_any_end(&on_gpu(manifest), &inputs, root.path(), &environment);
    assert_eq!(code(&output), 2, "{}", text(&output.stderr));
    let result: StageResult = serde_json::from_slice(&bytes(root.path(), "work/result.json")).unwrap();
    assert_eq!(result.reason, Reason::TrainerConfigRejected);
    for words in ["spec.compute.accelerators is 1", "CUDA", "PLUMBLINE_DEVICE=cpu"] {
        assert!(result.message.contains(words), "{}", result.message);
    }
}

#[test]
fn a_run_that_holds_an_accelerator_can_be_told_to_compute_on_the_cpu() {
    let root = tempfile::tempdir().unwrap();
    let case = reward(&json!({}));
    let on_cpu = stage::run(&case.0, &case.1, &root.path().join("cpu"));
    let told = root.path().join("told");
    let environment = [("PLUMBLINE_DEVICE", "cpu".to_owned())];
    let output = stage::run_to_any_end(&on_gpu(case.0), &case.1, &told, &environment);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr).matches("computing on the CPU").count(), 1, "{}", text(&output.stderr));
    assert_eq!(stage::Made::read(&told).metrics, on_cpu.metrics);
}

/// Says that this process was started by a test, with the stand-in.
const INSIDE: &str = "INSIDE_WITH_STAND_IN";

/// Runs a test's body in a process of its own that has the stand-in: libtorch looks for a GPU once in a process.
fn inside(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        plumbline_torch::load_cuda().unwrap();
        return body();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .envs(stand_in::environment())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("1 passed"), "{}", text(&output.stdout));
}

const GPU: Device = Device::Cuda(0);

#[test]
fn the_stand_in_refuses_what_a_gpu_refuses() {
    inside("gpu::the_stand_in_refuses_what_a_gpu_refuses", || {
        let (cpu, gpu) = (Tensor::from_slice(&[1i64, 0]), Tensor::from_slice(&[3i64, 4]).to_device(GPU));
        assert_eq!((gpu.device(), (&gpu + &gpu).device()), (GPU, GPU));
        assert_eq!(Vec::<i64>::try_from(&gpu + 1).unwrap(), [4, 5]);
        for mixed in [gpu.f_add(&cpu), gpu.f_index_select(0, &cpu), Tensor::f_cat(&[&cpu, &gpu], 0)] {
            let error = mixed.unwrap_err().to_string();
            assert!(error.contains("Expected all tensors to be on the same device"), "{error}");
        }
        // A generator of its own, which the CPU's leaves alone.
        let draw = || Tensor::rand([4], (Kind::Float, GPU)).to_device(Device::Cpu);
        tch::manual_seed(1);
        let state = plumbline_torch::rng_state(GPU).unwrap();
        let first = draw();
        let _ = Tensor::rand([4], (Kind::Float, Device::Cpu));
        assert_ne!(draw(), first);
        plumbline_torch::set_rng_state(GPU, &state).unwrap();
        assert_eq!(draw(), first);
    });
}

/// Tokens and log-probabilities of what an engine samples for jobs that begin alike, some of them twice.
fn sampled(device: Device) -> Vec<(u64, i64, Vec<i64>, f32)> {
    let decoder = ModelFolder::open(&fixture::tiny()).unwrap().decoder(Precision::Float32, device).unwrap();
    let mut engine = Engine::new(decoder, vec![0], Limits::default());
    let prompt = |end: &[i64]| (10..40).chain(end.iter().copied()).collect::<Vec<i64>>();
    for (key, end) in [vec![50], vec![50], vec![60, 61, 62], vec![70, 71]].into_iter().enumerate() {
        let sampling = Sampling {
            temperature: if key == 3 { 0.0 } else { 0.9 },
            top_k: 40,
            min_new_tokens: 3,
            max_new_tokens: 6 + key as i64,
            ..Sampling::default()
        };
        engine.submit(Job { tokens: prompt(&end).into(), sampling, key: key as u64, top_logprobs: 2 }).unwrap();
    }
    let mut events = Vec::new();
    while !engine.idle() {
        events.extend(engine.step().unwrap());
    }
    assert!(engine.stats().prefix_tokens_reused > 60, "the beginning was read once: {:?}", engine.stats());
    let top = |e: &Event| e.top.iter().map(|(token, _)| *token).collect();
    events.iter().map(|e| (e.job, e.token, top(e), e.logprob)).collect()
}

#[test]
fn what_is_sampled_on_the_gpu_is_what_is_sampled_on_the_cpu() {
    inside("gpu::what_is_sampled_on_the_gpu_is_what_is_sampled_on_the_cpu", || {
        let (on_cpu, on_gpu) = (sampled(Device::Cpu), sampled(GPU));
        assert!(on_cpu.len() > 12 && on_cpu.len() == on_gpu.len());
        for (a, b) in on_cpu.iter().zip(&on_gpu) {
            assert_eq!((a.0, a.1, &a.2), (b.0, b.1, &b.2));
            assert!(f64::from((a.3 - b.3).abs()) < TOLERANCE, "{a:?} and {b:?}");
        }
    });
}
