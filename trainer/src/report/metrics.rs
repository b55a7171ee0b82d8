//! metrics.jsonl and the TensorBoard event file (IO).

use std::collections::BTreeMap;
use std::path::Path;

use crate::Result;

/// The values of each metric by step, steps ascending.
pub type History = BTreeMap<String, Vec<(i64, f64)>>;

/// Appends a step's metrics to `metrics.jsonl` and to a TensorBoard event file.
#[derive(Debug)]
pub struct MetricsWriter {}

impl MetricsWriter {
    /// Opens the two files in the work folder. `None` starts afresh; `Some(step)` keeps what was logged up to that
    /// step and drops the rest, which the resumed run will log again.
    pub fn open(work: &Path, resume_step: Option<i64>) -> Result<Self> {
        let _ = (work, resume_step);
        todo!()
    }

    /// Logs a step. Values that are not finite are written as null and counted.
    pub fn log(&mut self, step: i64, values: &[(&str, f64)]) -> Result<()> {
        let _ = (step, values);
        todo!()
    }

    /// Makes what was logged survive a crash of the machine; called before a checkpoint is completed.
    pub fn sync(&mut self) -> Result<()> {
        todo!()
    }

    /// How many values were not finite, those before a resume included.
    pub fn not_finite(&self) -> i64 {
        todo!()
    }

    /// Everything logged.
    pub fn history(&self) -> Result<History> {
        todo!()
    }

    /// Copies both files into an artifact's folder.
    pub fn copy_into(&mut self, folder: &Path) -> Result<()> {
        let _ = folder;
        todo!()
    }
}
