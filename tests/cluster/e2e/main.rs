//! Everything as it is used: a Kubernetes with a node, the images, the chart by Helm, resources by kubectl, and real trainers.
//! `make e2e` runs it, as root; it is not part of `cargo test`.
//!
//! | question | file |
//! |---|---|
//! | What does a chain make, and in which pods? | `chain`, `pods` |
//! | And where results are in an S3 server? | `bucket` |
//! | Does the first run of the documents work as it stands there? | `documented_first_run` |
//! | What if pods are lost or killed, or the node loses power? | `disruptions` |
//! | Do two pods train the model of one? | `ranks` |
//! | What if a judge or the operator is away? | `outages` |
//! | How do runs wait for their turn? | `kueue` |
//! | Does Prometheus find the operator, and do the alerts stay silent? | `monitoring` |
//! | What happens to runs when the release is upgraded or uninstalled? | `release`, `teardown` |
//! | What is left of a cluster? | `teardown`, `machine` |
//! | Which cluster do tests share? | `node`, `installation` |

mod bucket;
mod chain;
mod disruptions;
mod documented_first_run;
mod installation;
mod kueue;
mod machine;
mod monitoring;
mod node;
mod outages;
mod pods;
mod ranks;
mod release;
mod teardown;
