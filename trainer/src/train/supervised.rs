//! The loop of stages that train on a fixed set of items (pairs, texts): batches in seeded order, optimiser steps,
//! metrics, checkpoints. A run that is killed at any point resumes from its last checkpoint and produces the same
//! result.
//!
//! With several ranks, each computes its share of every batch, and all take the same step.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use plumbline_crds::training::Training;

use crate::Result;
use crate::checkpoint::Checkpoints;
use crate::optim::{AdamW, schedule};
use crate::train::checkpointing::Checkpointing;
use crate::train::io::TrainingIo;
use crate::train::means::Means;
use crate::train::order::{self, Batches};
use crate::train::step::Stepper;

/// A training objective: a loss over items.
pub trait Task {
    /// Weight of an item in the mean loss of a batch: 1 for a pair, the number of tokens for a text.
    fn weight(&self, item: usize) -> f64;
    /// The summed loss of a micro-batch, with gradients, and its metrics.
    fn loss(&self, items: &[usize]) -> Result<(Tensor, Means)>;
    /// Checks the mean loss of the first step, which is that of the starting model.
    fn after_first_step(&self, _loss: f64) {}
}

/// The contents of a checkpoint besides tensors.
#[derive(Deserialize, Serialize)]
struct State {
    /// Number of steps taken.
    step: i64,
}

/// Whether all steps have been taken, so that nothing needs to be prepared for training. Rank 0 decides for all ranks.
pub fn is_finished(groups: &[Vec<usize>], training: &Training, io: &TrainingIo) -> Result<bool> {
    let items: usize = groups.iter().map(Vec::len).sum();
    let total = order::steps(items, training.batch_size, training.epochs, training.max_steps);
    let checkpoints = Checkpoints::new(&io.work, training.checkpoint.keep);
    let step = if io.ranks.is_first() { checkpoints.newest_step()? } else { None };
    Ok(io.ranks.broadcast(step)? == Some(total))
}

/// Trains `params` on a task. `groups`: items that stay together, such as the pairs of a prompt.
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
    let optimizer = AdamW::new(params, &training.optimizer);
    let mut checkpointing = Checkpointing::new(io, training, total, optimizer.device());
    let mut stepper = Stepper { params, optimizer, micro_batch: training.micro_batch_size as usize };
    tch::manual_seed(training.seed);
    let mut step = 0;
    if let Some(checkpoint) = checkpointing.resume::<State>(&io.ranks)? {
        stepper.optimizer.restore(&checkpoint.tensors)?;
        step = checkpoint.state.step;
    }
    io.ranks.check_same(step, params)?;
    io.progress.stage("Training", total);
    io.progress.advance(step);
    let mut batches = Batches::new(groups, training.batch_size, training.seed);
    while step < total {
        let weight = |item: usize| task.weight(item);
        let loss = |items: &[usize]| {
            let (loss, mut means) = task.loss(items)?;
            means.add("loss", loss.double_value(&[]), items.iter().map(|&i| task.weight(i)).sum());
            Ok((loss, means))
        };
        let rate = schedule::learning_rate(training.learning_rate, &training.schedule, step, total);
        io.ranks.seed(training.seed, step);
        let (means, norm) = stepper.step(&batches.step(step), weight, loss, rate, &io.ranks)?;
        step += 1;

        let sync = checkpointing.sync(means, &io.ranks)?;
        if let Some(loss) = sync.means.mean("loss").filter(|_| step == 1) {
            task.after_first_step(loss);
        }
        let mut values = sync.means.means();
        values.extend([("grad_norm", norm), ("learning_rate", rate), ("epoch", step as f64 / steps_per_epoch as f64)]);
        io.metrics.log(step, &values)?;
        for (name, value) in &values {
            io.progress.metric(name, *value);
        }
        io.progress.advance(step);
        checkpointing.end_step(step, &sync, params, io, || (State { step }, stepper.optimizer.state()))?;
    }
    Ok(())
}
