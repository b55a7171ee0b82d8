//! Methods that learn from their own samples. Each is an [`OnPolicy`](crate::train::online::OnPolicy) in a file of its own:
//! what it makes of a rollout, and the loss of a micro-batch. They compute only; the loop around them is `train/online.rs`.

pub mod a2c;
mod critic;
pub mod grpo;
mod metrics;
pub mod ppo;
pub mod reinforce;
pub mod reinforce_plus_plus;
pub mod rloo;
mod shaping;

#[cfg(test)]
mod tests;
