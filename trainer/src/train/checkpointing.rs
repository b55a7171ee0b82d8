//! When a training loop saves a checkpoint, and how it stops: the end of every step, the same for all loops and
//! identical on all ranks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use plumbline_crds::training::Training;
use plumbline_feedback::shutdown;

use crate::checkpoint::{Checkpoint, Checkpoints};
use crate::ranks::Ranks;
use crate::train::io::TrainingIo;
use crate::train::means::Means;
use crate::{Error, Result};

/// Maximum time between two checkpoints of a loop, whatever `everySteps` is.
const LONGEST_UNSAVED: Duration = Duration::from_mins(1);

/// What the ranks exchange after a step.
#[derive(Default, Deserialize, Serialize)]
pub(crate) struct StepSync {
    /// Metrics: of one rank's share before the exchange, of the whole batch after it.
    pub means: Means,
    /// Whether a rank was asked to stop.
    stopping: bool,
    /// Whether the last checkpoint is older than [`LONGEST_UNSAVED`].
    unsaved: bool,
}

impl StepSync {
    /// Merges the values of all ranks, so that all make the same decision.
    fn merge(self, ranks: &Ranks) -> Result<Self> {
        let mut all = Self::default();
        for other in ranks.gather(self)? {
            all.means.merge(&other.means);
            all.stopping |= other.stopping;
            all.unsaved |= other.unsaved;
        }
        Ok(all)
    }
}

/// Merges the metrics of all ranks' shares.
pub(crate) fn merge_means(means: Means, ranks: &Ranks) -> Result<Means> {
    Ok(StepSync { means, ..StepSync::default() }.merge(ranks)?.means)
}

/// The checkpoints of one loop.
pub(crate) struct Checkpointing {
    checkpoints: Checkpoints,
    every_steps: i64,
    total: i64,
    device: Device,
    saved: Instant,
}

impl Checkpointing {
    /// Checkpoints of a loop of `total` steps whose parameters are on `device`.
    pub(crate) fn new(io: &TrainingIo, training: &Training, total: i64, device: Device) -> Self {
        let checkpoints = Checkpoints::new(&io.work, training.checkpoint.keep);
        let every_steps = training.checkpoint.every_steps;
        Self { checkpoints, every_steps, total, device, saved: Instant::now() }
    }

    /// Reads the newest checkpoint, if there is one, and restores the random generators. Rank 0 reads it for all, so
    /// that no rank resumes from an older one or needs access to the work directory of another.
    pub(crate) fn resume<S>(&self, ranks: &Ranks) -> Result<Option<Checkpoint<S>>>
    where
        S: DeserializeOwned + Serialize,
    {
        let read = if ranks.is_first() { self.checkpoints.newest::<S>()? } else { None };
        let (state, tensors) = read.map_or((None, BTreeMap::new()), |c| (Some(c.state), c.tensors));
        let Some(state) = ranks.broadcast(state)? else { return Ok(None) };
        let checkpoint = Checkpoint { state, tensors: ranks.broadcast_tensors(tensors)? };
        checkpoint.restore_generators(self.device)?;
        Ok(Some(checkpoint))
    }

    /// Exchanges the metrics of a step with the other ranks, and whether to save or stop.
    pub(crate) fn sync(&self, means: Means, ranks: &Ranks) -> Result<StepSync> {
        let unsaved = self.saved.elapsed() > LONGEST_UNSAVED;
        StepSync { means, stopping: shutdown::requested(), unsaved }.merge(ranks)
    }

    /// Ends step `step` (the first is 1): saves if a checkpoint is due, and stops if a rank was asked to. `contents`: the state
    /// and tensors of the checkpoint.
    ///
    /// # Errors
    /// `Interrupted` if the loop stops before its last step; those of [`Self::save`].
    pub(crate) fn end_step<S: Serialize>(
        &mut self,
        step: i64,
        sync: &StepSync,
        params: &BTreeMap<String, Tensor>,
        io: &mut TrainingIo,
        contents: impl FnOnce() -> (S, BTreeMap<String, Tensor>),
    ) -> Result<()> {
        if step % self.every_steps == 0 || sync.unsaved || sync.stopping || step == self.total {
            self.save(step, params, io, contents)?;
        }
        if sync.stopping && step < self.total {
            // No rank may exit before the checkpoint is uploaded.
            io.ranks.wait()?;
            return Err(Error::Interrupted);
        }
        Ok(())
    }

    /// Saves a checkpoint of `step`.
    ///
    /// # Errors
    /// `Failed` if ranks have different parameters; `Store` if it cannot be written.
    pub(crate) fn save<S: Serialize>(
        &mut self,
        step: i64,
        params: &BTreeMap<String, Tensor>,
        io: &mut TrainingIo,
        contents: impl FnOnce() -> (S, BTreeMap<String, Tensor>),
    ) -> Result<()> {
        io.ranks.check_same(step, params)?;
        io.checkpoint(|| {
            let (state, tensors) = contents();
            self.checkpoints.save(step, &state, tensors, self.device)
        })?;
        self.saved = Instant::now();
        Ok(())
    }
}
