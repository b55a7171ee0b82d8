//! Means over a batch, independent of its split into micro-batches. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Sums and weights by metric.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Means {
    weighted: BTreeMap<Cow<'static, str>, (f64, f64)>,
    totals: BTreeMap<Cow<'static, str>, f64>,
}

impl Means {
    /// Adds the sum over `weight` items (tokens, pairs) to a metric.
    pub fn add(&mut self, name: impl Into<Cow<'static, str>>, sum: f64, weight: f64) {
        let entry = self.weighted.entry(name.into()).or_default();
        entry.0 += sum;
        entry.1 += weight;
    }

    /// Adds to a count of the batch, which is reported as a total.
    pub fn total(&mut self, name: impl Into<Cow<'static, str>>, count: f64) {
        *self.totals.entry(name.into()).or_default() += count;
    }

    /// Adds the sums of another set of means.
    pub fn merge(&mut self, other: &Means) {
        for (name, (sum, weight)) in &other.weighted {
            self.add(name.clone(), *sum, *weight);
        }
        for (name, count) in &other.totals {
            self.total(name.clone(), *count);
        }
    }

    /// The means, ordered by name, then the counts. A metric without weight has no mean.
    pub fn means(&self) -> Vec<(&str, f64)> {
        let weighted = self.weighted.iter().filter(|(_, (_, weight))| *weight > 0.0);
        let means = weighted.map(|(name, (sum, weight))| (name.as_ref(), sum / weight));
        means.chain(self.totals.iter().map(|(name, count)| (name.as_ref(), *count))).collect()
    }

    /// The mean of one metric.
    pub fn mean(&self, name: &str) -> Option<f64> {
        self.weighted.get(name).filter(|(_, weight)| *weight > 0.0).map(|(sum, weight)| sum / weight)
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
        a.total("tokens", 30.0);
        b.total("tokens", 10.0);
        a.merge(&b);
        assert_eq!(a.means(), [("loss", 2.5), ("tokens", 40.0)]);
        assert_eq!(a.mean("absent"), None);
    }
}
