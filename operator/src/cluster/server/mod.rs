//! What the operator serves: to people and probes on one address, to the pods of runs on another.
//!
//! | question | file |
//! |---|---|
//! | Is it well, does it lead, what did it count? | `people` |
//! | How does a pod tell of its progress? | `pods` |
//! | Whose pod is it? | `token` asks, `claims` concludes |
//! | How often is the API server asked that? | `cache`, `limit` |
//! | How does a controller learn of a report? | `triggers` |
//! | How long may a connection idle? | `listen` |
//! | Who has to go when there are too many? | `places` |

mod cache;
mod claims;
mod limit;
mod listen;
mod people;
mod places;
mod pods;
mod token;
mod triggers;

use std::net::SocketAddr;

pub use listen::serve;
pub use people::{PATIENCE, People};
pub use pods::Pods;
pub use token::Verifier;
pub use triggers::Triggers;

/// Connections of people and probes at once. With those of pods they stay below 1,024 sockets, the usual limit of a process.
pub const PEOPLE: usize = 256;
/// Connections of pods at once.
pub const PODS: usize = 512;

/// Where to listen.
#[derive(Clone, Debug, clap::Args)]
pub struct Addresses {
    /// Address for /metrics, /healthz and /readyz.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:8080")]
    pub metrics_address: SocketAddr,
    /// Address that pods send their progress to.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:8090")]
    pub progress_address: SocketAddr,
}
