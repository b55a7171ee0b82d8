//! Accuracy, log-loss and calibration of a reward model.

/// How well reward differences predict preferences.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Share of pairs with a preference on which the strict sign of the difference agrees; equal rewards are an error.
    pub accuracy: f64,
    /// Mean cross-entropy against the target, nats.
    pub log_loss: f64,
    /// Expected calibration error, 0..=1.
    pub ece: f64,
    /// Pairs.
    pub pairs: usize,
    /// Pairs with a preference (target not one half).
    pub decided: usize,
    /// The bins of the ECE, least confident first.
    pub bins: Vec<Bin>,
}

/// A bin of the calibration error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bin {
    /// Mean confidence, 0.5..=1.
    pub confidence: f64,
    /// Mean probability that the preferred side of the model is the preferred side.
    pub accuracy: f64,
    /// Pairs.
    pub pairs: usize,
}

/// Compares reward differences (r_chosen - r_rejected) with targets (probability that chosen is better), given as
/// (difference, target). `None` if there is no pair.
pub fn calibration(pairs: &[(f64, f64)], bins: usize) -> Option<Calibration> {
    let _ = (pairs, bins);
    todo!()
}
