//! What methods with a critic learn from a rollout. Computes only.

use plumbline_crds::training::Switch;

use crate::advantage::{explained_variance, gae, whiten_all};
use crate::train::means::Means;
use crate::train::samples::Sample;

/// The training data of a rollout. Lists have one entry per sample, inner ones one per response token.
pub struct Experience {
    pub(super) advantages: Vec<Vec<f64>>,
    pub(super) returns: Vec<Vec<f64>>,
}

impl Experience {
    /// Estimates advantages from rewards per token (Schulman et al., 2016). `whiten`: whether they are normalised over all
    /// tokens. Adds how well the critic predicted the returns to `means`.
    pub(super) fn new(
        rewards: &[Vec<f64>],
        samples: &[Sample],
        (gamma, lambda): (f64, f64),
        whiten: Switch,
        means: &mut Means,
    ) -> Self {
        let of = |(r, s): (&Vec<f64>, &Sample)| gae(r, &s.values, gamma, lambda);
        let (mut advantages, returns): (Vec<_>, Vec<Vec<f64>>) = rewards.iter().zip(samples).map(of).unzip();
        if whiten == Switch::Enabled {
            whiten_all(&mut advantages, false);
        }
        let values: Vec<f64> = samples.iter().flat_map(|s| &s.values).copied().collect();
        means.add("val/explained_variance", explained_variance(&values, &returns.concat()), 1.0);
        Self { advantages, returns }
    }
}
