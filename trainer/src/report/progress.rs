//! progress.json (IO).

use std::path::Path;

use plumbline_crds::status::Cost;

use crate::Result;

/// Says how far a stage is, in `progress.json` and on the log.
#[derive(Debug)]
pub struct Progress {}

impl Progress {
    /// Writes the first report; fails if the work folder cannot be written.
    pub fn new(work: &Path) -> Result<Self> {
        let _ = work;
        todo!()
    }

    /// Starts a stage of `total` units: `Generating`, `Judging`, `Training`, `Evaluating`.
    pub fn stage(&mut self, name: &str, total: i64) {
        let _ = (name, total);
        todo!()
    }

    /// Units of the stage done so far.
    pub fn advance(&mut self, completed: i64) {
        let _ = completed;
        todo!()
    }

    /// The latest value of a metric.
    pub fn metric(&mut self, name: &str, value: f64) {
        let _ = (name, value);
        todo!()
    }

    /// What judges cost so far.
    pub fn cost(&mut self, cost: &Cost) {
        let _ = cost;
        todo!()
    }

    /// Writes the last report.
    pub fn finish(&mut self) {
        todo!()
    }
}
