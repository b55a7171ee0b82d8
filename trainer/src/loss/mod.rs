//! Losses: pure functions of log-probabilities, scores and values. Tensors in, tensors out; none depends on a model.
//!
//! A loss returns one value per row or token, not a mean: the caller divides by the count of the whole batch, so that
//! the result does not depend on how a batch is split into micro-batches.

pub mod bradley_terry;
pub mod dpo;
pub mod kl;
pub mod label;
pub mod pair_logps;
pub mod policy;
pub mod value;

#[cfg(test)]
pub(crate) mod test_support {
    use tch::Tensor;

    pub(crate) fn tensor(values: &[f64]) -> Tensor {
        Tensor::from_slice(values)
    }

    /// Compares with a golden vector to six decimals.
    pub(crate) fn assert_close(found: &Tensor, expected: &[f64]) {
        let found = Vec::<f64>::try_from(found.view([-1])).unwrap();
        assert_eq!(found.len(), expected.len());
        for (i, (f, e)) in found.iter().zip(expected).enumerate() {
            assert!((f - e).abs() < 2e-6, "at {i}: found {f}, expected {e}; all: {found:?}");
        }
    }
}
