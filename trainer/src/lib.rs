//! The trainer: one stage of the chain per process. It reads a run document, writes an artifact, and knows nothing
//! about Kubernetes.
//!
//! | question | where |
//! |---|---|
//! | What does a stage do, from top to bottom? | `stage` |
//! | Where is PPO? GRPO? What does it learn from its samples? | `method`, `advantage` |
//! | Where is the DPO loss? Bradley-Terry? The clipped loss? | `loss` |
//! | How does the decoder compute? | `model` |
//! | How is text sampled? | `generate` |
//! | On which device? | `device` |
//! | How do several processes train one model? | `ranks` |
//! | How are models read and written? | `load` |
//! | How is a model served to judges? | `serve` |
//! | Data, tokens, judges, measures, reports, stores? | `plumbline_feedback`, which links no libtorch |

pub mod advantage;
pub mod checkpoint;
pub mod device;
pub mod generate;
pub mod load;
pub mod loss;
pub mod method;
pub mod model;
pub mod optim;
pub mod ranks;
pub mod serve;
pub mod stage;
#[cfg(test)]
#[path = "../feedback/src/text/fixture.rs"]
mod tokenizer_fixture;
mod torch_error;
pub mod train;
mod values;

pub use plumbline_feedback::{Error, Result};
