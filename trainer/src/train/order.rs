//! The order in which data is read: a function of seed and epoch, so that a resumed run only needs to know its step.
//! Pure.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// The order of an epoch: groups are shuffled; the items of a group stay adjacent and in order.
pub fn shuffled(groups: &[Vec<usize>], seed: i64, epoch: i64) -> Vec<usize> {
    let mut bytes = [0u8; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&epoch.to_le_bytes());
    let mut order: Vec<&Vec<usize>> = groups.iter().collect();
    order.shuffle(&mut ChaCha8Rng::from_seed(bytes));
    order.into_iter().flatten().copied().collect()
}

/// Number of steps of a run over `items` in batches. If the batch size does not divide the items, every epoch ends with
/// a smaller batch.
pub fn steps(items: usize, batch_size: i64, epochs: i64, max_steps: Option<i64>) -> i64 {
    let per_epoch = (items as i64 + batch_size - 1) / batch_size;
    max_steps.map_or(per_epoch * epochs, |most| most.min(per_epoch * epochs))
}

/// The batches of a run, step by step. The order of an epoch is computed once.
pub struct Batches<'a> {
    groups: &'a [Vec<usize>],
    batch_size: usize,
    seed: i64,
    per_epoch: i64,
    /// The current epoch and its order.
    epoch: Option<(i64, Vec<usize>)>,
}

impl<'a> Batches<'a> {
    /// Batches of `batch_size` items (at least 1) from groups that stay together.
    pub fn new(groups: &'a [Vec<usize>], batch_size: i64, seed: i64) -> Self {
        let items = groups.iter().map(Vec::len).sum();
        let per_epoch = steps(items, batch_size, 1, None).max(1);
        Self { groups, batch_size: batch_size as usize, seed, per_epoch, epoch: None }
    }

    /// The items of step `step` (the first is 0).
    pub fn step(&mut self, step: i64) -> Vec<usize> {
        let (epoch, index) = (step / self.per_epoch, step % self.per_epoch);
        let order = match self.epoch.take() {
            Some((drawn, order)) if drawn == epoch => order,
            _ => shuffled(self.groups, self.seed, epoch),
        };
        let batch = order.chunks(self.batch_size).nth(index as usize).map(<[usize]>::to_vec).unwrap_or_default();
        self.epoch = Some((epoch, order));
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_reads_each_item_once_and_keeps_groups_together() {
        let groups = vec![vec![0, 1], vec![2], vec![3, 4, 5]];
        let read: Vec<usize> = {
            let mut batches = Batches::new(&groups, 2, 7);
            (0..3).flat_map(|s| batches.step(s)).collect()
        };
        let mut sorted = read.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4, 5]);
        let at = |item| read.iter().position(|&i| i == item).unwrap();
        assert_eq!((at(4), at(5)), (at(3) + 1, at(3) + 2));
    }

    #[test]
    fn epochs_differ_and_repeat_by_seed() {
        let groups: Vec<Vec<usize>> = (0..50).map(|i| vec![i]).collect();
        assert_ne!(shuffled(&groups, 1, 0), shuffled(&groups, 1, 1));
        assert_eq!(shuffled(&groups, 1, 1), shuffled(&groups, 1, 1));
        assert_eq!(steps(50, 8, 2, None), 14);
        assert_eq!(steps(50, 8, 2, Some(5)), 5);
        assert_eq!(Batches::new(&groups, 8, 1).step(6).len(), 2, "the last batch of an epoch is smaller");
    }
}
