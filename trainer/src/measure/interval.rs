//! The mean of shares in groups, with a 95 % interval.

/// A value and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// The mean of values in 0..=1 with a 95 % interval that allows for the values of one cluster (a prompt) going
/// together. `None` if there is no value. `values` are (cluster, value).
pub fn clustered_mean(values: &[(u64, f64)]) -> Option<Estimate> {
    let _ = values;
    todo!()
}
