//! The loop of stages that learn from a fixed set of items (pairs, texts): batches in seeded order, micro-batches,
//! optimiser steps, metrics, checkpoints. Killed at any point, it continues from its last checkpoint and ends the same.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use plumbline_crds::training::Training;

use crate::checkpoint::Checkpoints;
use crate::optim::{AdamW, schedule};
use crate::report::{MetricsWriter, Progress};
use crate::stage::stop;
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
}

/// Where a stage's files, metrics and progress go.
pub struct Outlets<'a> {
    /// The run's work folder.
    pub work: &'a Path,
    /// The metrics of this run.
    pub metrics: &'a mut MetricsWriter,
    /// How far it is.
    pub progress: &'a mut Progress,
    /// The stage's clock.
    pub clock: &'a mut Clock,
}

/// What a checkpoint holds beside tensors.
#[derive(Deserialize, Serialize)]
struct State {
    /// Steps taken.
    step: i64,
}

/// The step that a run in `work` would continue from: for opening the metrics at the same place.
pub fn resume_step(work: &Path, training: &Training) -> Result<Option<i64>> {
    Checkpoints::new(work, training.checkpoint.keep).newest_step()
}

/// Trains `params` on a task. `groups`: items that stay side by side, as the pairs of a prompt.
pub fn train(
    task: &dyn Task,
    groups: &[Vec<usize>],
    params: &BTreeMap<String, Tensor>,
    training: &Training,
    outlets: &mut Outlets,
) -> Result<()> {
    let items: usize = groups.iter().map(Vec::len).sum();
    let total = order::steps(items, training.batch_size, training.epochs, training.max_steps);
    let steps_per_epoch = order::steps(items, training.batch_size, 1, None);
    let checkpoints = Checkpoints::new(outlets.work, training.checkpoint.keep);
    let mut optimizer = AdamW::new(params, &training.optimizer);
    tch::manual_seed(training.seed);
    let mut step = 0;
    if let Some(checkpoint) = checkpoints.newest::<State>()? {
        optimizer.restore(&checkpoint.tensors)?;
        checkpoint.restore_generators(optimizer.device())?;
        step = checkpoint.state.step;
    }
    outlets.progress.stage("Training", total);
    outlets.progress.advance(step);
    let mut batches = Batches::new(groups, training.batch_size, training.seed);
    let mut saved = Instant::now();
    while step < total {
        let batch = batches.step(step);
        let weight: f64 = batch.iter().map(|&i| task.weight(i)).sum();
        let mut means = Means::default();
        for micro in batch.chunks(training.micro_batch_size as usize) {
            let (loss, of_micro) = task.loss(micro)?;
            means.add("loss", loss.double_value(&[]), micro.iter().map(|&i| task.weight(i)).sum());
            (loss / weight).to_kind(Kind::Float).backward();
            means.merge(&of_micro);
        }
        let rate = schedule::learning_rate(training.learning_rate, &training.schedule, step, total);
        let norm = optimizer.step(rate)?;
        step += 1;

        let mut values = means.means();
        values.extend([("grad_norm", norm), ("learning_rate", rate), ("epoch", step as f64 / steps_per_epoch as f64)]);
        outlets.metrics.log(step, &values)?;
        for (name, value) in &values {
            outlets.progress.metric(name, *value);
        }
        outlets.progress.advance(step);
        let stopping = stop::requested();
        let due = step % training.checkpoint.every_steps == 0 || saved.elapsed() > LONGEST_UNSAVED;
        if due || stopping || step == total {
            outlets.metrics.sync()?;
            checkpoints.save(step, &State { step }, optimizer.state(), optimizer.device())?;
            outlets.clock.save()?;
            saved = Instant::now();
        }
        if stopping && step < total {
            return Err(Error::Interrupted);
        }
    }
    Ok(())
}
