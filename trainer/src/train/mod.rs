//! Shared parts of the training stages.
//!
//! | question | file |
//! |---|---|
//! | How does a method learn from responses it samples? From fixed data? | `online`, `supervised` |
//! | What is sampled, and what is measured on it? What is it rewarded by? | `rollout`, `samples`, `scorer` |
//! | When does a run save, and how does it stop? When does a guard stop it? | `checkpointing`, `guard` |
//! | How is a step taken, and what is trained? | `step`, `policy` |
//! | In which order is data read? How are batches computed? | `order`, `pairs`, `responses`, `frozen_states` |
//! | Where do metrics, progress and times go? | `io`, `means`, `clock` |

pub(crate) mod checkpointing;
pub mod clock;
pub mod frozen_states;
pub mod guard;
pub mod io;
pub mod means;
pub mod online;
pub mod order;
pub mod pairs;
pub mod policy;
pub mod responses;
pub mod rollout;
pub mod samples;
pub mod scorer;
pub(crate) mod step;
pub mod supervised;
