//! The loop of stages that learn from a fixed set of items (pairs, texts): batches in seeded order, micro-batches,
//! optimiser steps, metrics, checkpoints. Killed at any point, it continues from its last checkpoint and ends the same.
//!
//! Several ranks each compute their share of every batch, and take the same step.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use plumbline_crds::training::Training;
use plumbline_feedback::report::{MetricsWriter, Progress};
use plumbline_feedback::shutdown;

use crate::checkpoint::{Checkpoint, Checkpoints};
use crate::optim::{AdamW, schedule};
use crate::ranks::Ranks;
use crate::train::clock::Clock;
use crate::train::means::Means;
use crate::train::order::{self, Batches};
use crate::{Error, Result};

/// Progress is made safe at least this often, whatever `everySteps` says.
pub(crate) const LONGEST_UNSAVED: Duration = Duration::from_mins(1);

/// What is learnt from: a loss over items.
pub trait Task {
    /// Weight of an item in the mean loss of a batch: 1 for pairs, its tokens for texts.
    fn weight(&self, item: usize) -> f64;
    /// The summed loss of a micro-batch, with gradients, and its metrics.
    fn loss(&self, items: &[usize]) -> Result<(Tensor, Means)>;
    /// Looks at the mean loss of the first step, that of a model nothing was learnt by yet.
    fn after_first_step(&self, _loss: f64) {}
}

/// Where a stage's files, metrics and progress go.
pub struct TrainingIo<'a> {
    /// The run's work folder.
    pub work: &'a Path,
    /// The metrics of this run.
    pub metrics: &'a mut MetricsWriter,
    /// How far it is.
    pub progress: &'a mut Progress,
    /// The stage's clock.
    pub clock: &'a mut Clock,
    /// The processes that train together.
    pub ranks: &'a Ranks,
}

impl TrainingIo<'_> {
    /// Saves a checkpoint on the first rank, with the metrics and the time that belong to it, and has it uploaded.
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

/// What a checkpoint holds beside tensors.
#[derive(Deserialize, Serialize)]
struct State {
    /// Steps taken.
    step: i64,
}

/// What the ranks tell each other after a step.
#[derive(Default, Deserialize, Serialize)]
pub(crate) struct StepSync {
    /// Metrics of a rank's share.
    pub means: Means,
    /// It was asked to stop.
    pub stopping: bool,
    /// It was not made safe for too long.
    pub unsaved: bool,
}

impl StepSync {
    /// What is true of all ranks together: they do the same next.
    pub(crate) fn together(self, ranks: &Ranks) -> Result<Self> {
        let mut all = Self::default();
        for told in ranks.gather(self)? {
            all.means.merge(&told.means);
            all.stopping |= told.stopping;
            all.unsaved |= told.unsaved;
        }
        Ok(all)
    }
}

/// The checkpoint that a run goes on from: rank 0 reads it for all, so that no rank takes an older one, or needs to see the
/// work folder of another.
pub(crate) fn newest<S>(checkpoints: &Checkpoints, ranks: &Ranks) -> Result<Option<Checkpoint<S>>>
where
    S: DeserializeOwned + Serialize,
{
    let read = if ranks.is_first() { checkpoints.newest::<S>()? } else { None };
    let (state, tensors) = read.map_or((None, BTreeMap::new()), |c| (Some(c.state), c.tensors));
    let Some(state) = ranks.broadcast(state)? else { return Ok(None) };
    Ok(Some(Checkpoint { state, tensors: ranks.broadcast_tensors(tensors)? }))
}

/// The step that a run in `work` would continue from: for opening the metrics at the same place.
pub fn resume_step(work: &Path, training: &Training) -> Result<Option<i64>> {
    Checkpoints::new(work, training.checkpoint.keep).newest_step()
}

/// Whether every step on these items is taken: then nothing has to be computed for them. Rank 0 says so for all.
pub fn is_finished(groups: &[Vec<usize>], training: &Training, io: &TrainingIo) -> Result<bool> {
    let items: usize = groups.iter().map(Vec::len).sum();
    let total = order::steps(items, training.batch_size, training.epochs, training.max_steps);
    let step = if io.ranks.is_first() { resume_step(io.work, training)? } else { None };
    Ok(io.ranks.broadcast(step)? == Some(total))
}

/// Trains `params` on a task. `groups`: items that stay side by side, as the pairs of a prompt.
pub fn train(
    task: &dyn Task,
    groups: &[Vec<usize>],
    params: &BTreeMap<String, Tensor>,
    training: &Training,
    io: &mut TrainingIo,
) -> Result<()> {
    let items: usize = groups.iter().map(Vec::len).sum();
    let total = order::steps(items, training.batch_size, training.epochs, training.max_steps);
    let steps_per_epoch = order::steps(items, training.batch_size, 1, None);
    let checkpoints = Checkpoints::new(io.work, training.checkpoint.keep);
    let mut optimizer = AdamW::new(params, &training.optimizer);
    tch::manual_seed(training.seed);
    let mut step = 0;
    let ranks = io.ranks;
    if let Some(checkpoint) = newest::<State>(&checkpoints, ranks)? {
        optimizer.restore(&checkpoint.tensors)?;
        checkpoint.restore_generators(optimizer.device())?;
        step = checkpoint.state.step;
    }
    ranks.check_same(step, params)?;
    io.progress.stage("Training", total);
    io.progress.advance(step);
    let mut batches = Batches::new(groups, training.batch_size, training.seed);
    let mut saved = Instant::now();
    while step < total {
        let batch = batches.step(step);
        let weight: f64 = batch.iter().map(|&i| task.weight(i)).sum();
        let mut means = Means::default();
        ranks.seed(training.seed, step);
        for micro in ranks.share(&batch).chunks(training.micro_batch_size as usize) {
            let (loss, of_micro) = task.loss(micro)?;
            means.add("loss", loss.double_value(&[]), micro.iter().map(|&i| task.weight(i)).sum());
            (loss / weight).to_kind(Kind::Float).backward();
            means.merge(&of_micro);
        }
        let rate = schedule::learning_rate(training.learning_rate, &training.schedule, step, total);
        ranks.sum_gradients(params)?;
        let norm = optimizer.step(rate)?;
        step += 1;

        let unsaved = saved.elapsed() > LONGEST_UNSAVED;
        let told = StepSync { means, stopping: shutdown::requested(), unsaved }.together(ranks)?;
        if let Some(loss) = told.means.mean("loss").filter(|_| step == 1) {
            task.after_first_step(loss);
        }
        let mut values = told.means.means();
        values.extend([("grad_norm", norm), ("learning_rate", rate), ("epoch", step as f64 / steps_per_epoch as f64)]);
        io.metrics.log(step, &values)?;
        for (name, value) in &values {
            io.progress.metric(name, *value);
        }
        io.progress.advance(step);
        let due = step % training.checkpoint.every_steps == 0 || told.unsaved;
        if due || told.stopping || step == total {
            ranks.check_same(step, params)?;
            io.checkpoint(|| checkpoints.save(step, &State { step }, optimizer.state(), optimizer.device()))?;
            saved = Instant::now();
        }
        if told.stopping && step < total {
            // Nobody ends before the progress of all is safe.
            ranks.wait()?;
            return Err(Error::Interrupted);
        }
    }
    Ok(())
}
