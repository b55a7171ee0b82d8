//! `evaluate`: evaluates a finished tuning again, with the evaluation settings that its spec has now. The artifact and
//! the work files of `tune` are not changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use plumbline_crds::artifact::{self, Manifest};
use plumbline_crds::conditions::Reason;
use plumbline_crds::policy_tuning::{Method, PolicyTuningSpec};
use plumbline_crds::run::{ResolvedInput, RunDocument, StageResult};
use plumbline_crds::{Kind, Spec};
use plumbline_feedback::data::{preference, prompts};
use plumbline_feedback::files::write_json;
use plumbline_feedback::report::{Progress, Report, Section};
use plumbline_feedback::store::work_dir_sync::WorkDirSync;
use plumbline_feedback::text::tokenizer::Tokenizer;

use crate::generate::longest_prompt;
use crate::load::hugging_face::ModelFolder;
use crate::load::peft;
use crate::stage::evaluate::{Evaluation, Prepared, Sides, evaluate};
use crate::stage::inputs::{dataset_path, input_path};
use crate::stage::tune::reward;
use crate::train::clock::Clock;
use crate::{Error, Result, device};

/// The directory for all output, within the run's work directory.
pub const FOLDER: &str = "re-evaluation";
/// The role of the evaluated artifact among the inputs.
pub const ARTIFACT: &str = "artifact";
/// The numbers, and the digest of what they were measured on.
const NUMBERS: &str = "evaluation.json";

/// Compares the model of a finished PolicyTuning with the model that it was tuned from. Writes `evaluation.json`,
/// `samples.jsonl` and the report to `<work>/re-evaluation`, and returns the numbers.
///
/// # Errors
/// [`Error::Config`] when the document is not a PolicyTuning with an evaluation; [`Error::Data`] when its artifact is
/// missing, incomplete, altered or belongs to another resource; and those of sampling and judging.
pub fn run(run: &RunDocument, sync: &WorkDirSync) -> Result<StageResult> {
    let Spec::PolicyTuning(spec) = &run.resource.spec else {
        return Err(Error::Config(format!("expected a PolicyTuning, found a {}", run.resource.kind)));
    };
    let wanted = spec.evaluation.as_ref().ok_or_else(|| {
        Error::Config("spec.evaluation is not set; it names the prompts to evaluate on and the judges".into())
    })?;
    let output = Path::new(&run.output);
    let manifest = artifact(run, output)?;
    let run = &apart(run, &manifest);
    let work = Path::new(&run.work);
    fs::create_dir_all(work).map_err(|e| Error::disk(work, e))?;
    let mut clock = Clock::open(work)?;
    clock.start("evaluate")?;

    let folder = input_path(run, "policyModel")?;
    let (tokenizer, opened) = (Tokenizer::load(&folder)?, ModelFolder::open(&folder)?);
    let device = device::of(&spec.compute)?;
    let prepared = Prepared::read(run, wanted, &tokenizer, longest_prompt(&opened.config), &trained_on(run, spec)?)?;
    let precision = spec.training.precision;
    let mut before = opened.decoder(precision, device)?;
    // Its mapped files count as memory.
    drop(opened);
    let sides = if output.join(peft::CONFIG).exists() {
        peft::attach(&mut before, output)?;
        Sides::of_adapters(before, precision)
    } else {
        Sides::of_folders(before, [folder, output.to_owned()], precision)
    };
    let reward = reward::load(run, spec, &tokenizer, device)?;
    let mut progress = Progress::new(work, sync)?;
    let evaluation = evaluate(run, prepared, &tokenizer, sides, reward.as_ref(), &mut progress)?;

    let seconds = clock.seconds()?;
    write(work, run, spec, &manifest, &evaluation, &seconds)?;
    progress.finish();
    let message = evaluation.headline();
    Ok(StageResult {
        evaluation: evaluation.status(),
        cost: evaluation.cost,
        seconds,
        ..StageResult::new(Reason::Completed, message)
    })
}

/// The verified manifest of the tuning's artifact.
fn artifact(run: &RunDocument, output: &Path) -> Result<Manifest> {
    let manifest = artifact::verify(output)?;
    let (kind, name) = (run.resource.kind.to_string(), &run.resource.metadata.name);
    if (&manifest.kind, &manifest.name) != (&kind, name) {
        return Err(Error::Data(format!(
            "{}: expected the artifact of {kind} {name}, found that of {} {}",
            output.display(),
            manifest.kind,
            manifest.name
        )));
    }
    Ok(manifest)
}

/// The same run with a work directory of its own, and the artifact as an input.
fn apart(run: &RunDocument, manifest: &Manifest) -> RunDocument {
    let mut apart = run.clone();
    apart.work = Path::new(&run.work).join(FOLDER).to_string_lossy().into_owned();
    apart.inputs.push(ResolvedInput {
        role: ARTIFACT.into(),
        name: manifest.name.clone(),
        path: run.output.clone(),
        digest: manifest.digest.clone(),
        source: None,
    });
    apart
}

/// Ids of the prompts that the tuning was trained on.
fn trained_on(run: &RunDocument, spec: &PolicyTuningSpec) -> Result<Vec<String>> {
    if spec.method == Method::Dpo {
        return Ok(preference::read(&dataset_path(run)?)?.0.iter().map(|r| r.prompt.id()).collect());
    }
    match &spec.prompts {
        None => Ok(Vec::new()),
        Some(source) => {
            let path = run.input("prompts").map(|i| Path::new(&i.path));
            Ok(prompts::read(source, path, "spec.prompts")?.prompts.into_iter().map(|p| p.id).collect())
        }
    }
}

fn write(
    folder: &Path,
    run: &RunDocument,
    spec: &PolicyTuningSpec,
    manifest: &Manifest,
    evaluation: &Evaluation,
    seconds: &BTreeMap<String, f64>,
) -> Result<()> {
    let name = &run.resource.metadata.name;
    let mut report = Report::new(Kind::PolicyTuning, name, format!("Evaluation of {name}: {}", evaluation.headline()));
    report.fact("Evaluated artifact", &manifest.digest);
    report.fact("Compared with", &spec.policy_model.uri);
    for (number, value) in evaluation.numbers() {
        report.number(number, value);
    }
    report.sections.extend(evaluation.sections());
    report.sections.push(Section::Timings { title: "Time".into(), seconds: seconds.clone() });
    report.write_without_card(folder)?;
    evaluation.write_samples(folder)?;
    let numbers: Map<String, Value> = evaluation.numbers().into_iter().map(|(k, v)| (k, json!(v))).collect();
    let inputs: Map<String, Value> = run.inputs.iter().map(|i| (i.role.clone(), json!(i.digest))).collect();
    write_json(&folder.join(NUMBERS), &json!({"schemaVersion": 1, "numbers": numbers, "inputs": inputs}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::hugging_face::write_safetensors;
    use crate::model::decoder::Decoder;
    use crate::model::decoder::tests::random;
    use crate::model::lora;
    use crate::tokenizer_fixture::byte_level;

    /// A model of 32 byte tokens, and the same tuning of it in two forms: as an adapter and merged.
    struct Tuned {
        root: tempfile::TempDir,
    }

    fn write_model(decoder: &Decoder, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        write_safetensors(&folder.join("model.safetensors"), &lora::merged_weights(decoder)).unwrap();
        fs::write(folder.join("config.json"), Value::Object(decoder.config.raw.clone()).to_string()).unwrap();
        byte_level(folder);
    }

    fn tuned() -> Tuned {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let mut decoder = random(3);
        write_model(&decoder, &at("base"));
        let adapter = serde_json::from_value(json!({"rank": 4, "alpha": 8.0})).unwrap();
        lora::attach(&mut decoder, &adapter, 1).unwrap();
        for (name, b) in lora::parameters(&decoder) {
            if name.contains("lora_B") {
                tch::no_grad(|| b.shallow_clone().copy_(&(b.randn_like() * 0.3)));
            }
        }
        fs::create_dir(at("staging")).unwrap();
        peft::save(&decoder, &adapter, "base", &at("staging")).unwrap();
        publish(&at("staging"), &at("adapter"), "p");
        write_model(&decoder, &at("staging"));
        publish(&at("staging"), &at("merged"), "p");
        Tuned { root }
    }

    fn publish(staging: &Path, target: &Path, name: &str) {
        artifact::publish(staging, target, "PolicyTuning", name, Vec::new(), "2026-01-01T00:00:00Z".into()).unwrap();
    }

    impl Tuned {
        fn document(&self, output: &str, evaluation: &Value) -> RunDocument {
            let path = |name: &str| self.root.path().join(name);
            let mut spec = json!({
                "method": "PPO", "policyModel": {"uri": "base"}, "prompts": {"inline": ["\u{1}\u{2}\u{3}"]},
            });
            if !evaluation.is_null() {
                spec["evaluation"] = evaluation.clone();
            }
            serde_json::from_value(json!({
                "resource": {"apiVersion": "plumbline.dev/v1alpha1", "kind": "PolicyTuning", "metadata": {"name": "p"},
                    "spec": spec},
                "inputs": [{"role": "policyModel", "name": "base", "path": path("base"), "digest": "sha256:1"}],
                "output": path(output), "work": path("work").join(output),
            }))
            .unwrap()
        }
    }

    fn evaluation(samples: i64) -> Value {
        json!({
            "prompts": {"inline": ["\u{4}\u{5}", "\u{6}\u{7}\u{8}"]}, "samplesPerPrompt": samples,
            "sampling": {"temperature": 0.0, "maxNewTokens": 12},
        })
    }

    #[test]
    fn an_adapter_and_its_merged_model_get_the_same_numbers() {
        let tuned = tuned();
        let [adapter, merged] = ["adapter", "merged"].map(|output| {
            let document = tuned.document(output, &evaluation(1));
            let result = run(&document, &WorkDirSync::off()).unwrap();
            let folder = Path::new(&document.work).join(FOLDER);
            let written: Value = serde_json::from_slice(&fs::read(folder.join(NUMBERS)).unwrap()).unwrap();
            assert!(fs::read_to_string(folder.join("report.html")).unwrap().contains("Evaluation of p"));
            assert_eq!(fs::read_dir(&document.work).unwrap().count(), 1, "nothing beside {FOLDER}");
            artifact::verify(Path::new(&document.output)).unwrap();
            assert_eq!(result.evaluation.len(), written["numbers"].as_object().unwrap().len());
            written["numbers"].clone()
        });
        let kl = |numbers: &Value| numbers["kl"].as_f64().unwrap();
        assert!(kl(&adapter) > 0.1, "{adapter}");
        assert!((kl(&adapter) - kl(&merged)).abs() < 1e-3, "{adapter} {merged}");
        assert_eq!(adapter["after.length"], 12.0);
    }

    #[test]
    fn responses_to_other_prompts_are_not_reused() {
        let tuned = tuned();
        let document = tuned.document("adapter", &evaluation(1));
        run(&document, &WorkDirSync::off()).unwrap();
        let kept = Path::new(&document.work).join(FOLDER).join("evaluation-after.json");
        let first = fs::read(&kept).unwrap();
        run(&document, &WorkDirSync::off()).unwrap();
        assert_eq!(fs::read(&kept).unwrap(), first);
        run(&tuned.document("adapter", &evaluation(2)), &WorkDirSync::off()).unwrap();
        let samples = fs::read_to_string(kept.with_file_name("samples.jsonl")).unwrap();
        let line: Value = serde_json::from_str(samples.lines().next().unwrap()).unwrap();
        assert_eq!(line["after"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn invalid_evaluations_are_rejected_before_anything_is_written() {
        let tuned = tuned();
        let said = |document: &RunDocument| {
            let error = run(document, &WorkDirSync::off()).unwrap_err();
            assert!(!Path::new(&document.work).exists(), "{error}");
            error
        };
        let error = said(&tuned.document("adapter", &Value::Null));
        assert!(matches!(&error, Error::Config(text) if text.contains("spec.evaluation is not set")), "{error}");
        let error = said(&tuned.document("nothing-there", &evaluation(1)));
        assert!(
            matches!(&error, Error::Artifact(_)) && error.to_string().contains("not a complete artifact"),
            "{error}"
        );
        let weights = tuned.root.path().join("merged/model.safetensors");
        let mut bytes = fs::read(&weights).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&weights, bytes).unwrap();
        let error = said(&tuned.document("merged", &evaluation(1)));
        assert!(matches!(&error, Error::Artifact(_)) && error.to_string().contains("altered"), "{error}");
        publish(&tuned.root.path().join("merged"), &tuned.root.path().join("others"), "q");
        let error = said(&tuned.document("others", &evaluation(1)));
        assert!(matches!(&error, Error::Data(text) if text.contains("PolicyTuning q")), "{error}");
    }

    #[test]
    fn evaluation_prompts_must_not_be_training_prompts() {
        let mut asked = evaluation(1);
        asked["prompts"]["inline"] = json!(["\u{1}\u{2}\u{3}", "\u{4}"]);
        let error = run(&tuned().document("adapter", &asked), &WorkDirSync::off()).unwrap_err().to_string();
        assert!(error.contains("1 of 2 prompts are training prompts too"), "{error}");
    }
}
