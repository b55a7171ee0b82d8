//! What training stages share: the order of the data, the loop over steps, means over a batch, the clock.

pub mod clock;
pub mod frozen_states;
pub mod means;
pub mod order;
pub mod pairs;
pub mod responses;
pub mod supervised;
