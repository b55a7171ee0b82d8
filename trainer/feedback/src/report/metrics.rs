//! `metrics.jsonl`, one object per step under TRL's names, and the same as a TensorBoard event file (IO).
//!
//! Neither contains a timestamp: a run that was killed and resumed ends with the same bytes as an uninterrupted one.
//! The event file is derived from `metrics.jsonl`, which is authoritative.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::tensorboard::{self, EVENT_FILE};
use crate::{Error, Result};

/// Name of the metrics' file.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// The values of each metric by step, steps ascending; NaN where a value was not finite.
pub type History = BTreeMap<String, Vec<(i64, f64)>>;

/// Appends each step's metrics to both files.
#[derive(Debug)]
pub struct MetricsWriter {
    work: PathBuf,
    metrics: File,
    events: File,
    last_step: i64,
    not_finite: i64,
}

impl MetricsWriter {
    /// Opens both files in the work directory. `None` starts from scratch; `Some(step)`, the step of the checkpoint
    /// that the run resumes from, keeps the metrics up to that step and drops later ones, which will be logged again.
    ///
    /// # Errors
    /// `Disk` if the directory cannot be written, `Data` if a line to keep is not one of ours.
    pub fn open(work: &Path, resume_step: Option<i64>) -> Result<Self> {
        let path = work.join(METRICS_FILE);
        let text = match (resume_step, fs::read_to_string(&path)) {
            (None, _) => String::new(),
            (Some(_), Ok(text)) => text,
            (Some(_), Err(e)) if e.kind() == io::ErrorKind::NotFound => String::new(),
            (Some(_), Err(e)) => return Err(Error::disk(&path, e)),
        };
        let (kept, lines) = kept_lines(&text, resume_step.unwrap_or(-1)).map_err(|(line, found)| {
            Error::Data(format!(
                "{}: line {line}: expected an object with a `step`, steps ascending, found `{found}`; the file was \
                 altered: restore it",
                path.display()
            ))
        })?;
        let metrics = OpenOptions::new().create(true).append(true).open(&path);
        let metrics = metrics.and_then(|f| f.set_len(kept as u64).map(|()| f)).map_err(|e| Error::disk(&path, e))?;

        let mut bytes = tensorboard::header();
        for (step, values) in &lines {
            bytes.extend(tensorboard::scalars(*step, numbers(values)));
        }
        let path = work.join(EVENT_FILE);
        let events = File::create(&path).and_then(|mut f| f.write_all(&bytes).map(|()| f));
        let events = events.map_err(|e| Error::disk(&path, e))?;
        let not_finite = lines.iter().flat_map(|(_, values)| numbers(values)).filter(|(_, v)| v.is_nan()).count();
        let last_step = lines.last().map_or(i64::MIN, |(step, _)| *step);
        Ok(Self { work: work.to_owned(), metrics, events, last_step, not_finite: not_finite as i64 })
    }

    /// Logs metrics of a step, in the order given; a step may be logged in parts. JSON has no NaN and no infinity: such
    /// a value is written as null and counted.
    ///
    /// # Errors
    /// `Disk` if a file cannot be written, `Failed` if the step is before the last one or a metric is named `step`.
    pub fn log(&mut self, step: i64, values: &[(&str, f64)]) -> Result<()> {
        if step < self.last_step {
            return Err(Error::Failed(format!(
                "metrics of step {step} were logged after those of step {}",
                self.last_step
            )));
        }
        let mut line = Map::new();
        line.insert("step".into(), step.into());
        for &(name, value) in values {
            if line.insert(name.to_owned(), value.into()).is_some() {
                return Err(Error::Failed(format!("metric `{name}` is logged twice in one line of step {step}")));
            }
        }
        let store = |file: &str, e: io::Error| Error::disk(&self.work.join(file), e);
        let line = format!("{}\n", Value::from(line));
        append(&mut self.metrics, line.as_bytes()).map_err(|e| store(METRICS_FILE, e))?;
        let record = tensorboard::scalars(step, values.iter().map(|&(name, v)| (name, finite_or_nan(v))));
        append(&mut self.events, &record).map_err(|e| store(EVENT_FILE, e))?;
        self.last_step = step;
        self.not_finite += values.iter().filter(|(_, v)| !v.is_finite()).count() as i64;
        Ok(())
    }

    /// Flushes the metrics to disk. Called before a checkpoint is completed, so that the metrics include every step of
    /// a checkpoint.
    pub fn sync(&mut self) -> Result<()> {
        self.metrics.sync_data().map_err(|e| Error::disk(&self.work.join(METRICS_FILE), e))
    }

    /// The number of values that were not finite, including those from before a resume.
    pub fn not_finite(&self) -> i64 {
        self.not_finite
    }

    /// Everything logged so far, for curves.
    pub fn history(&self) -> Result<History> {
        let path = self.work.join(METRICS_FILE);
        let text = fs::read_to_string(&path).map_err(|e| Error::disk(&path, e))?;
        let (_, lines) = kept_lines(&text, i64::MAX)
            .map_err(|(line, _)| Error::Data(format!("{}: line {line} was altered", path.display())))?;
        let mut history = History::new();
        for (step, values) in &lines {
            for (name, value) in numbers(values) {
                history.entry(name.to_owned()).or_default().push((*step, value));
            }
        }
        Ok(history)
    }

    /// Copies both files into an artifact's directory.
    pub fn copy_into(&self, folder: &Path) -> Result<()> {
        for file in [METRICS_FILE, EVENT_FILE] {
            fs::copy(self.work.join(file), folder.join(file)).map_err(|e| Error::disk(&folder.join(file), e))?;
        }
        Ok(())
    }
}

/// Appends to a file, all or nothing: half a line would corrupt the next one.
fn append(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let before = file.metadata()?.len();
    let written = file.write_all(bytes);
    if written.is_err() {
        let _ = file.set_len(before).and_then(|()| file.seek(SeekFrom::Start(before)));
    }
    written
}

type Line = (i64, Map<String, Value>);

/// The complete lines up to a step, and their length in bytes. A truncated line has no line break and is dropped. The
/// error is the number and text of an invalid line.
fn kept_lines(text: &str, last: i64) -> Result<(usize, Vec<Line>), (usize, String)> {
    let mut kept = 0;
    let mut lines: Vec<Line> = Vec::new();
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let Some(content) = line.strip_suffix('\n') else { break };
        let wrong = || (number + 1, content.chars().take(80).collect());
        let Ok(values) = serde_json::from_str::<Map<String, Value>>(content) else { return Err(wrong()) };
        let step = values.get("step").and_then(Value::as_i64).ok_or_else(wrong)?;
        if lines.last().is_some_and(|(previous, _)| step < *previous) {
            return Err(wrong());
        }
        if step > last {
            break;
        }
        kept += line.len();
        lines.push((step, values));
    }
    Ok((kept, lines))
}

/// The metrics of a line; null is NaN.
fn numbers(values: &Map<String, Value>) -> impl Iterator<Item = (&str, f64)> {
    let metrics = values.iter().filter(|(name, _)| *name != "step");
    metrics.map(|(name, value)| (name.as_str(), value.as_f64().unwrap_or(f64::NAN)))
}

/// Replaces infinities by NaN, as the lines from which the event file is derived do not distinguish them.
fn finite_or_nan(value: f64) -> f64 {
    if value.is_finite() { value } else { f64::NAN }
}

#[cfg(test)]
mod tests {
    use super::super::tensorboard::tests::decode;
    use super::*;

    fn log_steps(writer: &mut MetricsWriter, steps: std::ops::RangeInclusive<i64>) {
        for step in steps {
            let loss = 1.0 / step as f64;
            writer.log(step, &[("loss", loss), ("kl", if step == 3 { f64::NAN } else { 0.1 })]).unwrap();
            if step % 2 == 0 {
                writer.log(step, &[("eval_accuracy", 0.5)]).unwrap();
            }
        }
    }

    fn bytes(work: &Path) -> (Vec<u8>, Vec<u8>) {
        (fs::read(work.join(METRICS_FILE)).unwrap(), fs::read(work.join(EVENT_FILE)).unwrap())
    }

    #[test]
    fn a_run_killed_at_any_byte_and_resumed_ends_with_the_same_bytes() {
        let whole = tempfile::tempdir().unwrap();
        let mut writer = MetricsWriter::open(whole.path(), None).unwrap();
        log_steps(&mut writer, 1..=8);
        let expected = bytes(whole.path());
        let checkpoint = String::from_utf8(expected.0.clone()).unwrap().find("{\"step\":5").unwrap();
        for cut in (checkpoint..=expected.0.len()).step_by(7) {
            let work = tempfile::tempdir().unwrap();
            fs::write(work.path().join(METRICS_FILE), &expected.0[..cut]).unwrap();
            fs::write(work.path().join(EVENT_FILE), b"torn").unwrap();
            let mut writer = MetricsWriter::open(work.path(), Some(4)).unwrap();
            assert_eq!(writer.not_finite(), 1, "the NaN of step 3 is still counted");
            log_steps(&mut writer, 5..=8);
            assert!(bytes(work.path()) == expected, "cut at byte {cut}");
        }
    }

    #[test]
    fn a_number_is_read_back_exactly() {
        let work = tempfile::tempdir().unwrap();
        let mut writer = MetricsWriter::open(work.path(), None).unwrap();
        // Halfway between two 32-bit numbers, so that the last bit of the 64-bit number decides what TensorBoard shows.
        let halfway =
            |i: i32| (f64::from(f32::from_bits(0x3f80_0001 + i as u32 * 7919)) + f64::from(f32::EPSILON) / 2.0) / 3.0;
        let values: Vec<f64> = (0..2000).map(halfway).collect();
        for (step, value) in (1..).zip(&values) {
            writer.log(step, &[("loss", *value)]).unwrap();
        }
        let before = bytes(work.path());
        let resumed = MetricsWriter::open(work.path(), Some(2000)).unwrap();
        let read: Vec<f64> = resumed.history().unwrap()["loss"].iter().map(|(_, v)| *v).collect();
        assert!(read.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert!(bytes(work.path()) == before);
    }

    #[test]
    fn a_fresh_start_drops_what_an_earlier_attempt_logged() {
        let work = tempfile::tempdir().unwrap();
        log_steps(&mut MetricsWriter::open(work.path(), None).unwrap(), 1..=3);
        let mut writer = MetricsWriter::open(work.path(), None).unwrap();
        writer.log(1, &[("loss", 2.0)]).unwrap();
        assert_eq!(writer.history().unwrap(), History::from([("loss".into(), vec![(1, 2.0)])]));
        assert_eq!(writer.not_finite(), 0);
    }

    #[test]
    fn values_that_are_not_finite_are_null_and_counted() {
        let work = tempfile::tempdir().unwrap();
        let mut writer = MetricsWriter::open(work.path(), None).unwrap();
        writer.log(1, &[("loss", f64::NAN), ("reward", f64::INFINITY), ("kl", 0.25)]).unwrap();
        assert_eq!(writer.not_finite(), 2);
        let text = fs::read_to_string(work.path().join(METRICS_FILE)).unwrap();
        assert_eq!(text, "{\"step\":1,\"loss\":null,\"reward\":null,\"kl\":0.25}\n");
        assert!(writer.history().unwrap()["reward"][0].1.is_nan());
    }

    #[test]
    fn both_files_reach_the_artifact_and_agree() {
        let (work, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut writer = MetricsWriter::open(work.path(), None).unwrap();
        log_steps(&mut writer, 1..=4);
        writer.sync().unwrap();
        writer.copy_into(folder.path()).unwrap();
        assert!(bytes(folder.path()) == bytes(work.path()));
        let scalars = decode(&bytes(folder.path()).1);
        let history = writer.history().unwrap();
        assert_eq!(scalars.len(), history.values().map(Vec::len).sum::<usize>());
        for (step, _, tag, value) in scalars {
            let logged = history[&tag].iter().find(|(s, _)| *s == step).unwrap().1 as f32;
            assert!(value.to_bits() == logged.to_bits() || (value.is_nan() && logged.is_nan()), "{tag} at {step}");
        }
    }

    #[test]
    fn decreasing_steps_duplicate_names_and_altered_files_are_rejected() {
        let work = tempfile::tempdir().unwrap();
        let mut writer = MetricsWriter::open(work.path(), None).unwrap();
        writer.log(5, &[("loss", 1.0)]).unwrap();
        assert!(writer.log(4, &[("loss", 1.0)]).is_err());
        assert!(writer.log(6, &[("step", 1.0)]).is_err());
        assert!(writer.log(6, &[("loss", 1.0), ("loss", 2.0)]).is_err());
        fs::write(work.path().join(METRICS_FILE), "{\"step\":1,\"loss\":1.0}\nnonsense\n").unwrap();
        let error = MetricsWriter::open(work.path(), Some(9)).unwrap_err();
        assert!(matches!(&error, Error::Data(m) if m.contains("line 2") && m.contains("nonsense")), "{error}");
    }

    #[test]
    fn a_missing_work_directory_is_an_error_with_its_path() {
        let error = MetricsWriter::open(Path::new("/nowhere/work"), None).unwrap_err();
        assert!(matches!(&error, Error::Disk { path, .. } if path.starts_with("/nowhere/work")), "{error}");
    }
}
