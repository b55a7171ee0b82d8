//! Means over a batch, whatever its micro-batches. Pure.

use std::collections::BTreeMap;

/// Sums and weights by metric.
#[derive(Clone, Debug, Default)]
pub struct Means(BTreeMap<&'static str, (f64, f64)>);

impl Means {
    /// Adds a sum over `weight` items (tokens, pairs).
    pub fn add(&mut self, name: &'static str, sum: f64, weight: f64) {
        let entry = self.0.entry(name).or_default();
        entry.0 += sum;
        entry.1 += weight;
    }

    /// Adds another's sums.
    pub fn merge(&mut self, other: &Means) {
        for (name, (sum, weight)) in &other.0 {
            self.add(name, *sum, *weight);
        }
    }

    /// The means, in order of name. A metric without weight has none.
    pub fn means(&self) -> Vec<(&'static str, f64)> {
        self.0
            .iter()
            .filter(|(_, (_, weight))| *weight > 0.0)
            .map(|(name, (sum, weight))| (*name, sum / weight))
            .collect()
    }

    /// One mean.
    pub fn mean(&self, name: &str) -> Option<f64> {
        self.0.get(name).filter(|(_, weight)| *weight > 0.0).map(|(sum, weight)| sum / weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ragged_micro_batches_give_the_mean_of_all_items() {
        let (mut a, mut b) = (Means::default(), Means::default());
        a.add("loss", 3.0, 3.0);
        b.add("loss", 7.0, 1.0);
        a.merge(&b);
        assert_eq!(a.means(), [("loss", 2.5)]);
        assert_eq!(a.mean("absent"), None);
    }
}
