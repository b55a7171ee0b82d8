//! One optimiser step: the gradients of a batch's micro-batches, summed over ranks. Shared by the loops.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use crate::Result;
use crate::optim::AdamW;
use crate::ranks::Ranks;
use crate::train::means::Means;

/// The trained parameters and their optimiser.
pub(crate) struct Stepper<'a> {
    /// The parameters, by name.
    pub params: &'a BTreeMap<String, Tensor>,
    /// Their optimiser.
    pub optimizer: AdamW,
    /// Items per forward and backward pass, 1 or more.
    pub micro_batch: usize,
}

impl Stepper<'_> {
    /// Takes a step on the weighted mean loss of a batch, and none on a batch without weight. `weight`: the weight of an item
    /// in the mean. `loss`: the summed loss of a micro-batch, with gradients, and its metrics.
    ///
    /// Returns the metrics of this rank's share of the batch, and the gradient norm before clipping.
    pub(crate) fn step(
        &mut self,
        batch: &[usize],
        weight: impl Fn(usize) -> f64,
        mut loss: impl FnMut(&[usize]) -> Result<(Tensor, Means)>,
        learning_rate: f64,
        ranks: &Ranks,
    ) -> Result<(Means, f64)> {
        let total: f64 = batch.iter().map(|&i| weight(i)).sum();
        let mut means = Means::default();
        for micro in ranks.share(batch).chunks(self.micro_batch) {
            let (loss, of_micro) = loss(micro)?;
            means.merge(&of_micro);
            // The weight of a batch is that of all ranks, so all of them skip the step.
            if total > 0.0 {
                (loss / total).to_kind(Kind::Float).backward();
            }
        }
        if total <= 0.0 {
            return Ok((means, 0.0));
        }
        ranks.sum_gradients(self.params)?;
        Ok((means, self.optimizer.step(learning_rate)?))
    }
}
