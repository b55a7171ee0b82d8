//! What a training stage reads and writes besides its inputs: its work directory, metrics, progress, clock, and the
//! other ranks. Talks to the file system and, with several ranks, to the network.

use std::path::PathBuf;

use plumbline_crds::run::RunDocument;
use plumbline_crds::training::Training;
use plumbline_feedback::report::{MetricsWriter, Progress};
use plumbline_feedback::store::work_dir_sync::WorkDirSync;

use crate::Result;
use crate::checkpoint::Checkpoints;
use crate::ranks::Ranks;
use crate::train::clock::Clock;

/// The outputs of a training stage, and its peers.
pub struct TrainingIo {
    /// The run's work directory, which all ranks share if they share a file system.
    pub work: PathBuf,
    /// The metrics of this rank.
    pub metrics: MetricsWriter,
    /// The progress of this rank.
    pub progress: Progress,
    /// Seconds of work by part of the stage.
    pub clock: Clock,
    /// The processes that train together.
    pub ranks: Ranks,
}

impl TrainingIo {
    /// Joins the ranks of a run, starts the clock's part `stage`, and opens the metrics at the step where the run will
    /// resume.
    ///
    /// # Errors
    /// Those of [`Ranks::join`]; `Store` if the work directory cannot be read or written.
    pub fn open(run: &RunDocument, sync: &WorkDirSync, stage: &str, training: &Training) -> Result<Self> {
        let work = PathBuf::from(&run.work);
        let ranks = Ranks::join(run)?;
        let own = ranks.folder(&work);
        let mut clock = Clock::open(&own)?;
        clock.start(stage)?;
        let resumed = Checkpoints::new(&work, training.checkpoint.keep).newest_step()?;
        let (metrics, progress) = (MetricsWriter::open(&own, resumed)?, Progress::new(&own, sync)?);
        Ok(Self { work, metrics, progress, clock, ranks })
    }

    /// Saves a checkpoint on rank 0, after flushing its metrics and times, and triggers its upload.
    pub fn checkpoint(&mut self, save: impl FnOnce() -> Result<()>) -> Result<()> {
        self.metrics.sync()?;
        if self.ranks.is_first() {
            save()?;
        }
        self.clock.save()?;
        self.progress.checkpointed();
        Ok(())
    }
}
