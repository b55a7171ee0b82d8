//! What is measured before and after: win rate, calibration, diversity, sentiment. All of it computes.

pub mod calibration;
pub mod distinct;
pub mod interval;
pub mod vader;
pub mod win_rate;

pub use calibration::{Calibration, calibration};
pub use distinct::{Diversity, diversity};
pub use interval::{Estimate, clustered_mean};
pub use vader::Vader;
pub use win_rate::{Comparison, WinRate, win_rate};
