//! The half of the trainer without tensors: data, text and tokens, judges and their labels, measures, reports, and the
//! stores for inputs and results. It links no libtorch.
//!
//! | question | where |
//! |---|---|
//! | What is a record? Which files are read? | `data` |
//! | How does text become tokens, and a conversation text? | `text` |
//! | How does a judge become a label? | `judge` |
//! | What may a request to a served model, and its reply, contain? | `protocol` |
//! | What is measured before and after? | `measure` |
//! | Where do metrics, curves and reports come from? | `report` |
//! | How are inputs downloaded and results uploaded? | `store` |
//! | How does a stage fail, and with which exit code? | `error` |
//! | How is untrusted text made safe to print? | `printable` |
//! | How are files written atomically, and others' files opened? | `files` |
//! | Which time do chat templates see? | `clock` |
//! | Is the process making progress? How long does it wait before a retry? Was it asked to stop? | `heartbeat`, `backoff`, `shutdown` |

// `text/fixture.rs` is also compiled into the trainer's tests, so it refers to this crate by name.
#[cfg(test)]
extern crate self as plumbline_feedback;

pub mod backoff;
pub mod clock;
pub mod data;
pub mod error;
pub mod files;
pub mod heartbeat;
pub mod judge;
pub mod measure;
pub mod printable;
pub mod protocol;
pub mod report;
pub mod shutdown;
pub mod store;
pub mod text;

pub use error::{Error, Result};
