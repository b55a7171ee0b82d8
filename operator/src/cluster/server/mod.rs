//! What the operator serves: metrics and probes on one address, the progress API for pods of runs on another.
//!
//! | question | file |
//! |---|---|
//! | Is it healthy, does it lead, what did it count? | `probes` |
//! | How does a pod report its progress? | `progress_api` |
//! | Which resource does a pod belong to? | `token` asks, `pod_identity` concludes |
//! | How often is the API server asked that? | `cache`, `limit` |
//! | How does a controller learn of a report? | `triggers` |
//! | How long may a connection idle? | `listen` |
//! | Who has to go when there are too many? | `connections` |

mod cache;
mod connections;
mod limit;
mod listen;
mod pod_identity;
mod probes;
mod progress_api;
mod token;
mod triggers;

pub use listen::serve;
pub use probes::{PATIENCE, Probes};
pub use progress_api::ProgressApi;
pub use token::Verifier;
pub use triggers::Triggers;

/// Connections for metrics and probes at once. With those of the progress API they stay below 1,024 sockets, the usual limit
/// of a process.
pub const MAX_PROBE_CONNECTIONS: usize = 256;
/// Connections to the progress API at once.
pub const MAX_PROGRESS_CONNECTIONS: usize = 512;
