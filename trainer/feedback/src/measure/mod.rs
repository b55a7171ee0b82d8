//! Statistics: intervals, correlation, agreement, win rate, calibration, diversity, sentiment. All of it computes.

pub mod agreement;
pub mod calibration;
pub mod correlation;
pub mod distinct;
pub mod interval;
pub mod logistic;
pub mod vader;
pub mod win_rate;

pub use agreement::kappa;
pub use calibration::{Calibration, calibration};
pub use correlation::{clustered_correlation, pearson};
pub use distinct::{Diversity, diversity};
pub use interval::{Estimate, clustered_mean, clustered_share};
pub use logistic::{logit, sigmoid};
pub use vader::Vader;
pub use win_rate::{Comparison, WinRate, win_rate};
