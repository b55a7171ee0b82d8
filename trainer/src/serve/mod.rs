//! An OpenAI-compatible server of one decoder: `/v1/completions`, `/v1/chat/completions`, `/v1/models`, `/health`,
//! `/metrics`.
//!
//! | question | file |
//! |---|---|
//! | What may a request say, what does a reply hold? | `protocol` |
//! | Which jobs does a request become? | `plan` |
//! | How do requests share a batch, and how does one end? | `scheduler` |
//! | How do tokens become text with log-probabilities? | `stream` |
//! | What does it need of a model? | `model` |
//! | Which paths are there? | `routes`, `replies` |
//! | What is counted? | `metrics` |
//! | When does the process end? | `server`, `parent` |
//! | Who may connect, and how long is a client waited for? | `listen`, `connections`, `patient`, `body` |
//!
//! The model lives on one thread of its own (`scheduler`), because a tensor may move between threads but not be shared;
//! HTTP is asynchronous. A channel of bounded occupancy goes in, one channel a request comes back.

mod body;
mod connections;
#[cfg(test)]
mod fixture;
pub mod listen;
pub mod metrics;
pub mod model;
pub mod parent;
mod patient;
pub mod plan;
pub mod protocol;
pub mod replies;
pub mod routes;
pub mod scheduler;
pub mod server;
pub mod stream;
