//! An OpenAI-compatible server of one decoder: `/v1/completions`, `/v1/chat/completions`, `/v1/models`, `/health`,
//! `/metrics`.
//!
//! | question | file |
//! |---|---|
//! | What may a request and a reply contain? | `plumbline_feedback::protocol` |
//! | Which jobs does a request become? | `plan` |
//! | How do requests share a batch, and how does one end? | `scheduler` |
//! | How do tokens become text with log-probabilities? | `stream` |
//! | What must a model provide? | `model` |
//! | Which paths exist? | `routes`, `replies` |
//! | What is counted? | `metrics` |
//! | When does the process end? | `server`, `parent` |
//! | Who may connect, and how long does the server wait for a client? | `listen`, `connections`, `patient`, `body` |
//!
//! The model lives on its own thread (`scheduler`), because a tensor may move between threads but not be shared; HTTP
//! is asynchronous. Requests go in through one channel with a bounded number of entries; each request has a channel for
//! its replies.

mod body;
mod connections;
#[cfg(test)]
#[path = "../../feedback/src/protocol/fixture.rs"]
mod fixture;
pub mod listen;
pub mod metrics;
pub mod model;
pub mod parent;
mod patient;
pub mod plan;
pub mod replies;
pub mod routes;
pub mod scheduler;
pub mod server;
pub mod stream;
