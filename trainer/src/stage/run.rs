//! What the stages of the chain have in common: they read a run document, write a result, and report to the caller of
//! the process what happened. Talks to the work directory.

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use clap::Args;
use plumbline_crds::artifact;
use plumbline_crds::run::{PROGRESS_FILE, ProgressReport, RESULT_FILE, RunDocument, StageResult};
use plumbline_crds::status::ArtifactRef;
use plumbline_feedback::clock;
use plumbline_feedback::files;
use plumbline_feedback::store::work_dir_sync::{self, WorkDirSync};
use serde::Deserialize;

use super::{inputs, progress_reporter, termination, watchdog};
use crate::ranks::{self, RankInfo};
use crate::torch_error::of_line;
use crate::{Error, Result};

/// File in `work` with the time that chat templates see: when the run first started.
const CLOCK_FILE: &str = "clock.json";
/// Maximum length of a result's message, in characters: that of a condition's message.
const MOST_MESSAGE: usize = 1024;

/// Arguments of a stage.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// The run document: the run.yaml that `plumbline run` writes to the work directory of each run,
    /// `.plumbline/<plural>/<name>/<run>`.
    #[arg(long, value_name = "FILE")]
    pub run: PathBuf,
}

/// Runs a stage and writes `result.json` to the work directory, even if the stage fails.
pub fn run(args: &RunArgs, stage: impl FnOnce(&RunDocument, &WorkDirSync) -> Result<StageResult>) -> Result<()> {
    run_in(args, "", stage)
}

/// Runs a stage that has its own directory in the work directory, and writes `result.json` there: results of other stages in
/// the work directory are kept.
pub fn run_in(
    args: &RunArgs,
    folder: &str,
    stage: impl FnOnce(&RunDocument, &WorkDirSync) -> Result<StageResult>,
) -> Result<()> {
    start(args, folder, None, |document, sync, rank, work| {
        let mut document = document.clone();
        inputs::check(&mut document, work)?;
        // The other ranks are told by the first when they meet.
        if rank == 0 {
            fix_clock(work)?;
        }
        let result = stage(&document, sync)?;
        Ok(StageResult { inputs: document.lineage(), ..result })
    })
}

/// Runs what precedes a stage: its inputs may not exist yet, and it needs only its own directory. `stage` gets the rank of this
/// process and the directory of that rank. Otherwise as [`run_in`].
pub fn prepare(
    args: &RunArgs,
    folder: &str,
    stage: impl FnOnce(&RunDocument, &WorkDirSync, usize, &Path) -> Result<StageResult>,
) -> Result<()> {
    start(args, folder, Some(folder), stage)
}

fn start(
    args: &RunArgs,
    folder: &str,
    part: Option<&str>,
    stage: impl FnOnce(&RunDocument, &WorkDirSync, usize, &Path) -> Result<StageResult>,
) -> Result<()> {
    let document = read(&args.run)?;
    let rank = RankInfo::of_this_process()?.map_or(0, |info| info.rank);
    let work = &ranks::folder(rank, &Path::new(&document.work).join(folder));
    fs::create_dir_all(work).map_err(|e| Error::disk(work, e))?;
    let _held = files::hold(work)?;
    tch::set_num_threads(threads(document.resource.spec.compute().threads));
    // One pod of a run keeps it, tells how far it is, and what became of it; of the others it matters only why they failed.
    let first = rank == 0;
    let stage = |sync: &WorkDirSync| {
        if first && part.is_none() {
            files::check_output(Path::new(&document.output))?;
        }
        stage(&document, sync, rank, work)
    };
    let (reporter, in_work) = (first.then(|| progress_reporter::start(work)).flatten(), work.clone());
    let (watch, ended) = match watchdog::watch(move |error| leave_failure(&in_work, error)) {
        // What was done before a panic is kept too.
        Ok(watch) if first => (watch, caught(|| work_dir_sync::within(&document, part, |sync| caught(|| stage(sync))))),
        Ok(watch) => (watch, caught(|| stage(&WorkDirSync::off()))),
        Err(error) => (None, Err(error)),
    };
    drop(reporter);
    let left = match ended {
        Ok(result) if first => leave(work, &result),
        Ok(result) => files::keep(&work.join(RESULT_FILE), &result),
        Err(error) => {
            leave_failure(work, &error);
            Err(error)
        }
    };
    // Until here: the folder that the result is left in may be what does not answer.
    drop(watch);
    left
}

/// Writes the result for the caller of the stage; first to where no failing storage can prevent it.
fn leave(work: &Path, result: &StageResult) -> Result<()> {
    let told = termination::write(result);
    files::keep(&work.join(RESULT_FILE), result)?;
    told
}

/// Writes the result of a failed stage. An error while writing does not replace the error of the stage.
fn leave_failure(work: &Path, error: &Error) {
    leave(work, &failure(work, error)).unwrap_or_else(|e| tracing::warn!("{e}"));
}

/// Sets the time at which the run first started for this process.
fn fix_clock(work: &Path) -> Result<()> {
    let file = work.join(CLOCK_FILE);
    if let Some(began) = files::kept(&file)? {
        clock::set(began);
        return Ok(());
    }
    files::keep(&file, &clock::now())
}

/// Publishes a directory as the artifact of a run.
pub(crate) fn publish(run: &RunDocument, staging: &Path) -> Result<ArtifactRef> {
    let manifest = artifact::publish(
        staging,
        Path::new(&run.output),
        &run.resource.kind.to_string(),
        &run.resource.metadata.name,
        run.lineage(),
        jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    )?;
    Ok(manifest.artifact_ref(&run.output))
}

/// CPU threads: as requested, or the CPUs that the process may use.
pub fn threads(asked: Option<i64>) -> i32 {
    asked.map_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get() as i32), |n| n as i32)
}

fn read(file: &Path) -> Result<RunDocument> {
    let wrong = |what: String| Error::Config(format!("--run {}: {what}", file.display()));
    let text = fs::read_to_string(file).map_err(|e| wrong(e.to_string()))?;
    serde_yaml::from_str(&text).map_err(|e| {
        wrong(if is_manifest(&text) {
            "expected a run document, found a manifest; run it with `plumbline run -f FILE`, or give the run.yaml that \
             `plumbline run` writes to the work directory of each run"
                .to_owned()
        } else {
            format!("expected a run document, which `plumbline run` writes as run.yaml; {e}")
        })
    })
}

/// Whether a file that is no run document has a resource as people write it.
fn is_manifest(text: &str) -> bool {
    let first = serde_yaml::Deserializer::from_str(text).next().map(serde_yaml::Value::deserialize);
    first.and_then(Result::ok).is_some_and(|value| value.get("apiVersion").is_some() && value.get("kind").is_some())
}

/// Runs a stage so that a panic becomes its failure: libtorch reports errors of operators without a Result as panics.
fn caught<T>(stage: impl FnOnce() -> Result<T>) -> Result<T> {
    panic::catch_unwind(AssertUnwindSafe(stage)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("panicked");
        Err(of_line(first_line(text)))
    })
}

/// The message of a panic, without libtorch's own stack in the lines that follow. An operator without a Result panics
/// with its error in Rust's debug format, in which line breaks are escaped.
fn first_line(text: &str) -> &str {
    let text = text.split_once("Torch(\"").map_or(text, |(_, error)| error);
    text.split(['\n']).next().and_then(|line| line.split("\\n").next()).unwrap_or_default()
}

/// The result of a failed stage, with the last metrics and the cost that it reported.
fn failure(work: &Path, error: &Error) -> StageResult {
    let report: Option<ProgressReport> = files::kept(&work.join(PROGRESS_FILE)).ok().flatten();
    let ProgressReport { metrics, cost, .. } = report.unwrap_or_default();
    let message: String = error.to_string().chars().take(MOST_MESSAGE).collect();
    StageResult { metrics, cost, ..StageResult::new(error.exit_code().reason(), message) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plumbline_crds::conditions::Reason;
    use plumbline_crds::status::Metric;
    use serde_json::json;

    /// A run document on disk.
    fn document(folder: &Path) -> RunArgs {
        let spec = json!({
            "datasetRef": {"name": "d"}, "baseModel": {"uri": "file:///m"}, "compute": {"threads": 1},
        });
        let resource = json!({
            "apiVersion": "plumbline.dev/v1alpha1", "kind": "RewardModel", "metadata": {"name": "r"}, "spec": spec,
        });
        let work = folder.join("work");
        let document = json!({"resource": resource, "inputs": [], "output": "out", "work": work});
        let run = folder.join("run.yaml");
        fs::write(&run, serde_yaml::to_string(&document).unwrap()).unwrap();
        RunArgs { run }
    }

    fn result(folder: &Path) -> StageResult {
        serde_json::from_slice(&fs::read(folder.join("work").join(RESULT_FILE)).unwrap()).unwrap()
    }

    fn done() -> StageResult {
        StageResult::new(Reason::Completed, "done")
    }

    #[test]
    fn the_result_of_a_stage_is_left_in_the_work_folder() {
        let folder = tempfile::tempdir().unwrap();
        run(&document(folder.path()), |document, _| {
            assert_eq!(document.resource.metadata.name, "r");
            Ok(done())
        })
        .unwrap();
        assert_eq!(result(folder.path()), done());
    }

    #[test]
    fn a_stage_that_fails_leaves_its_reason_and_its_last_metrics() {
        let folder = tempfile::tempdir().unwrap();
        let metric = Metric { name: "loss".into(), value: "0.5".into() };
        let error = run(&document(folder.path()), |document, _| {
            let report = ProgressReport { metrics: vec![metric.clone()], ..ProgressReport::default() };
            fs::write(Path::new(&document.work).join(PROGRESS_FILE), serde_json::to_vec(&report).unwrap()).unwrap();
            Err(Error::Gate("é".repeat(2000)))
        })
        .unwrap_err();
        assert!(matches!(error, Error::Gate(_)));
        let result = result(folder.path());
        assert_eq!((result.reason, result.metrics), (Reason::GateFailed, vec![metric]));
        assert_eq!(result.message.chars().count(), MOST_MESSAGE, "a condition holds no more");
    }

    #[test]
    fn a_panic_is_a_failure_with_a_reason_not_a_missing_result() {
        let folder = tempfile::tempdir().unwrap();
        let error = run(&document(folder.path()), |_, _| panic!("CUDA out of memory. Tried to allocate\nframe #1"))
            .unwrap_err();
        assert!(matches!(&error, Error::AcceleratorOutOfMemory(text) if !text.contains("frame")), "{error:?}");
        assert_eq!(result(folder.path()).reason, Reason::AcceleratorOutOfMemory);
        let error = run(&document(folder.path()), |_, _| panic!("a tensor of the wrong shape")).unwrap_err();
        assert!(matches!(error, Error::Failed(_)));
        let out_of_range = |_: &RunDocument, _: &WorkDirSync| -> Result<StageResult> {
            let _ = tch::Tensor::from_slice(&[1i64]).index_select(0, &tch::Tensor::from_slice(&[5i64]));
            Ok(done())
        };
        let error = run(&document(folder.path()), out_of_range).unwrap_err();
        assert!(matches!(&error, Error::Failed(line) if line.starts_with("index out of range")), "{error:?}");
        assert!(!error.to_string().contains("frame") && !error.to_string().contains('/'), "no stack, no path: {error}");
    }

    #[test]
    fn a_run_does_not_go_on_with_another_input_than_it_began_with() {
        let folder = tempfile::tempdir().unwrap();
        let (args, data) = (document(folder.path()), folder.path().join("data.jsonl"));
        let text = fs::read_to_string(&args.run).unwrap();
        let input = json!([{"role": "dataset", "name": "d", "path": data, "digest": ""}]).to_string();
        fs::write(&args.run, text.replace("inputs: []", &format!("inputs: {input}"))).unwrap();
        fs::write(&data, "one").unwrap();
        run(&args, |_, _| Ok(done())).unwrap();
        run(&args, |_, _| Ok(done())).unwrap();
        fs::write(&data, "two").unwrap();
        let error = run(&args, |_, _| panic!("it must not begin")).unwrap_err();
        assert!(
            matches!(&error, Error::Data(text) if text.starts_with("spec.dataset: expected the digest that this run \
                                                                    started with"))
        );
    }

    #[test]
    fn what_only_measures_may_be_repaired_while_a_run_is_under_way() {
        let folder = tempfile::tempdir().unwrap();
        let (args, labels) = (document(folder.path()), folder.path().join("labels.jsonl"));
        let text = fs::read_to_string(&args.run).unwrap();
        let input = json!([{"role": "referenceLabels", "name": "l", "path": labels, "digest": ""}]).to_string();
        fs::write(&args.run, text.replace("inputs: []", &format!("inputs: {input}"))).unwrap();
        for content in ["broken", "repaired"] {
            fs::write(&labels, content).unwrap();
            let digest = artifact::digest_path(&labels).unwrap();
            run(&args, |document, _| {
                assert_eq!(document.inputs[0].digest, digest);
                Ok(done())
            })
            .unwrap();
            assert_eq!(result(folder.path()).inputs[0].digest, digest, "the lineage is of what was read");
        }
    }

    #[test]
    fn an_input_that_is_not_what_its_digest_says_is_refused_whatever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (args, data) = (document(folder.path()), folder.path().join("data"));
        fs::write(&data, "one").unwrap();
        let digest = artifact::digest_path(&data).unwrap();
        let text = fs::read_to_string(&args.run).unwrap();
        let input = json!([{"role": "dataset", "name": "d", "path": data, "digest": digest}]).to_string();
        fs::write(&args.run, text.replace("inputs: []", &format!("inputs: {input}"))).unwrap();
        run(&args, |_, _| Ok(done())).unwrap();
        let refused = || {
            let error = run(&args, |_, _| panic!("it must not begin")).unwrap_err();
            assert!(matches!(&error, Error::Data(text) if text.starts_with("spec.dataset: expected")), "{error:?}");
        };
        fs::write(&data, "two").unwrap();
        refused();
        // An artifact without its manifest: it is being written, or was never completed.
        fs::remove_file(&data).unwrap();
        fs::create_dir(&data).unwrap();
        fs::write(data.join("train.jsonl"), "one").unwrap();
        refused();
    }

    #[test]
    fn an_artifact_is_verified_also_where_its_digest_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let (args, staging, data) =
            (document(folder.path()), folder.path().join("staging"), folder.path().join("data"));
        fs::create_dir(&staging).unwrap();
        fs::write(staging.join("train.jsonl"), "chosen rejected").unwrap();
        let manifest = artifact::publish(&staging, &data, "PreferenceDataset", "d", Vec::new(), String::new()).unwrap();
        let text = fs::read_to_string(&args.run).unwrap();
        let input = json!([{"role": "datasetRef", "name": "d", "path": data, "digest": manifest.digest}]).to_string();
        fs::write(&args.run, text.replace("inputs: []", &format!("inputs: {input}"))).unwrap();
        run(&args, |_, _| Ok(done())).unwrap();
        let refused = |what: &str| {
            let error = run(&args, |_, _| panic!("it must not begin")).unwrap_err();
            assert!(
                matches!(&error, Error::Data(text) if text.starts_with("spec.datasetRef: ") && text.contains(what))
            );
        };
        // The same size: the manifest's text and the file's length tell nothing.
        fs::write(data.join("train.jsonl"), "rejected chosen").unwrap();
        refused("train.jsonl has sha256");
        fs::write(data.join("train.jsonl"), "chosen rejected").unwrap();
        fs::write(data.join("train-00001.jsonl"), "poison").unwrap();
        refused("train-00001.jsonl is not in the manifest");
    }

    #[test]
    fn a_document_that_cannot_be_read_is_the_callers_error() {
        let folder = tempfile::tempdir().unwrap();
        let args = RunArgs { run: folder.path().join("run.yaml") };
        for content in [None, Some("a: ["), Some("resource: {}")] {
            if let Some(content) = content {
                fs::write(&args.run, content).unwrap();
            }
            let error = run(&args, |_, _| Ok(done())).unwrap_err();
            assert!(matches!(&error, Error::Config(text) if text.contains("run.yaml")), "{error:?}");
        }
    }

    #[test]
    fn a_manifest_in_place_of_a_run_document_is_recognised() {
        let folder = tempfile::tempdir().unwrap();
        let args = RunArgs { run: folder.path().join("dataset.yaml") };
        let manifest =
            "# a comment\napiVersion: plumbline.dev/v1alpha1\nkind: RewardModel\nmetadata: {name: r}\nspec: {}\n";
        for (content, expected) in [
            (manifest.to_owned(), "found a manifest; run it with `plumbline run -f FILE`"),
            (format!("---\n{manifest}---\n{manifest}"), "found a manifest"),
            ("kind: RewardModel\n".to_owned(), "missing field `resource`"),
        ] {
            fs::write(&args.run, content).unwrap();
            let error = run(&args, |_, _| Ok(done())).unwrap_err();
            assert!(matches!(&error, Error::Config(text) if text.contains(expected)), "{error:?}");
        }
    }
}
