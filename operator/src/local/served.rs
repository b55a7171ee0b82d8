//! Judges with a `model`: each is served by the trainer's program beside the stage, and lives exactly as long. Talks to
//! processes and to the run's folder.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plumbline_crds::Spec;
use plumbline_crds::exit_code::ExitCode;
use plumbline_crds::run::{ResolvedInput, ServedJudge, StageResult};

use super::files;
use super::process::{self, Process, SERVER_PATIENCE};
use super::work_dir::WorkDirError;
use crate::inputs;
use crate::plan::{End, Exit};

/// How long a judge may take to load.
const PATIENCE: Duration = Duration::from_mins(2);
const TICK: Duration = Duration::from_millis(50);
/// Lines of a judge's log that its failure is told with.
const TAIL: usize = 5;

/// A judge that is served.
#[derive(Debug)]
pub struct Served {
    /// What the run document says of it.
    pub judge: ServedJudge,
    /// The server.
    pub process: Process,
}

/// The judges of a stage.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The trainer's program.
    pub trainer: &'a Path,
    /// The spec that names them.
    pub spec: &'a Spec,
    /// Their models, among the inputs of the stage.
    pub inputs: &'a [ResolvedInput],
    /// The work directory.
    pub work: &'a Path,
}

/// Serves every judge of a stage that has a model. A judge that does not come up ends the stage as it would end a
/// stage that lost its judge later; the others are stopped.
pub async fn start(request: &Request<'_>) -> Result<Result<Vec<Served>, End>, WorkDirError> {
    let mut served: Vec<Served> = Vec::new();
    for (index, (role, judge)) in inputs::judges(request.spec).into_iter().enumerate() {
        let role = format!("{role}.model");
        let Some(input) = request.inputs.iter().find(|i| i.role == role) else { continue };
        let files = Files::of(request.work, index);
        files::remove(&files.port)?;
        let mut process = process::spawn(
            request.trainer,
            &arguments(&input.path, &judge.name, inputs::judge_precision(request.spec), &files.port),
            &files.log,
            &files.lock,
        )?;
        match port(&mut process, &files, &judge.name).await? {
            Ok(port) => {
                let url = format!("http://127.0.0.1:{port}/v1");
                let judge = ServedJudge { role, url, model: judge.name.clone() };
                served.push(Served { judge, process });
            }
            Err(end) => {
                for other in &mut served {
                    other.process.stop(SERVER_PATIENCE).await?;
                }
                return Ok(Err(end));
            }
        }
    }
    Ok(Ok(served))
}

/// Makes sure that no judge of an earlier attempt is running.
pub async fn end_leftovers(work: &Path) -> Result<(), WorkDirError> {
    for index in 0.. {
        let lock = Files::of(work, index).lock;
        if !lock.exists() {
            break;
        }
        process::end_leftover(&lock, SERVER_PATIENCE).await?;
    }
    Ok(())
}

struct Files {
    port: PathBuf,
    log: PathBuf,
    lock: PathBuf,
}

impl Files {
    fn of(work: &Path, index: usize) -> Self {
        let file = |extension: &str| work.join(format!("judge-{index}.{extension}"));
        Self { port: file("port"), log: file("log"), lock: file("lock") }
    }
}

fn arguments(model: &str, name: &str, precision: &str, port_file: &Path) -> Vec<OsString> {
    let fixed = ["serve", "--model", model, "--host", "127.0.0.1", "--port", "0"];
    let given = ["--name", name, "--precision", precision, "--port-file"];
    fixed.into_iter().chain(given).map(OsString::from).chain([port_file.into()]).collect()
}

/// The port that the server listens on, once it is ready.
async fn port(process: &mut Process, files: &Files, name: &str) -> Result<Result<u16, End>, WorkDirError> {
    let deadline = Instant::now() + PATIENCE;
    let (code, what) = loop {
        let written = fs::read_to_string(&files.port).ok();
        if let Some(port) = written.and_then(|text| text.trim().parse().ok()) {
            return Ok(Ok(port));
        }
        if let Some(exit) = process.ended()? {
            break (code(exit), format!("judge {name} ended before it was ready"));
        }
        if Instant::now() > deadline {
            process.stop(SERVER_PATIENCE).await?;
            break (ExitCode::JudgeUnavailable, format!("judge {name} was not ready after {} s", PATIENCE.as_secs()));
        }
        tokio::time::sleep(TICK).await;
    };
    let tail = files::tail(&files.log, TAIL);
    Ok(Err(no_judge(code, &format!("{what}: {}", tail.replace('\n', " | ")))))
}

fn code(exit: Exit) -> ExitCode {
    match exit {
        // A server that ends by itself, and well, is no server.
        Exit::Code(0) | Exit::Signal(_) => ExitCode::JudgeUnavailable,
        Exit::Code(code) => ExitCode::from_number(code).unwrap_or(ExitCode::JudgeUnavailable),
    }
}

/// The end of a stage whose judge did not come up.
fn no_judge(exit: ExitCode, message: &str) -> End {
    End { exit: exit.into(), result: Some(StageResult::new(exit.reason(), message)), last: false }
}
