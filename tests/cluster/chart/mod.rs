//! The Helm chart, by the real Helm and a real API server: what it refuses, what it renders, and that what it installs is
//! what the operator needs.
//!
//! | question | file |
//! |---|---|
//! | Which values are there, and which are refused? | `values` |
//! | Are the CRDs and permissions those of the code? | `in_sync` |
//! | Does an API server take what is rendered, whatever the values? | `render` |
//! | Does the oldest Kubernetes know every field of it? | `minimum_kubernetes_version` |
//! | Do alerts, dashboard and monitors speak of what there is? | `monitoring` |
//! | Does each alert fire when it should, and only then? | `alerts` |
//! | Install, upgrade, uninstall: does the operator work? | `release` |
//! | Do the documented commands do so for whoever types them? | `commands` |
//! | How is Helm run? | `helm` |

mod alerts;
mod commands;
mod helm;
mod in_sync;
mod minimum_kubernetes_version;
mod monitoring;
mod release;
mod render;
mod values;
