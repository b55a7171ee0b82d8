//! The operator on a real API server, its chart and the examples. All tests are in one process and share one control plane:
//! each works in namespaces of its own, and what is in none carries the test's own name.
//!
//! | question | file |
//! |---|---|
//! | What do people apply, and what do they see? | `operator`, `kubectl`, `reasons` |
//! | What does an API server refuse, and is that what the program refuses? | `admission` |
//! | Does the operator end the same wherever it is killed? | `crash` |
//! | Is it quiet, and does it only what it may? | `quiescence`, `permissions` |
//! | Who leads, and who learns of progress? | `leader`, `progress`, `telemetry` |
//! | What if a spec changes, or a run has several pods? | `resume_after_spec_change`, `multi_pod` |
//! | What do GitOps tools read? | `gitops`, `flux` |
//! | Does the chart install it? | `chart` |
//! | Do examples and documents do what they say? | `examples`, `docs` |
//! | Does the kit's cluster do what a cluster does? | `cluster_kit` |

mod admission;
mod chart;
mod cluster_kit;
mod crash;
mod docs;
mod examples;
mod flux;
mod gitops;
mod kubectl;
mod leader;
mod multi_pod;
mod operator;
mod permissions;
mod progress;
mod quiescence;
mod reasons;
mod resume_after_spec_change;
mod telemetry;
