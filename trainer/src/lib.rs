//! The trainer: one stage of the chain a process. It reads a run document, writes an artifact, and knows nothing of
//! Kubernetes.
//!
//! | question | where |
//! |---|---|
//! | What does a stage do, from top to bottom? | `stage` |
//! | Where is the DPO loss? PPO's? Bradley-Terry? | `loss`, `advantage` |
//! | How does the decoder compute? | `model` |
//! | How is text sampled? | `generate` |
//! | On which device? | `device` |
//! | How do several processes train one model? | `ranks` |
//! | How are models read and written? | `load` |
//! | How are inputs brought here that are elsewhere, and results brought there? | `store` |
//! | How does a judge become a label? | `judge` |
//! | How is a model served to judges? | `serve` |
//! | What of a stranger's text may be shown? | `printable` |
//! | Does a process get on? How long does it wait before it tries again? | `alive`, `backoff` |
//! | What is measured before and after? | `measure` |
//! | Where do metrics, curves and reports come from? | `report` |

pub mod advantage;
pub mod alive;
pub mod backoff;
pub mod checkpoint;
pub mod data;
pub mod device;
pub mod error;
pub mod files;
pub mod generate;
pub mod judge;
pub mod load;
pub mod loss;
pub mod measure;
pub mod model;
pub mod optim;
pub mod printable;
pub mod ranks;
pub mod report;
pub mod serve;
pub mod stage;
pub mod store;
pub mod train;

pub use error::{Error, Result};
