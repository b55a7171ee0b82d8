//! The operator and the command line.
//!
//! ```text
//! manifests -> validate -> plan -> act -> status
//!   (IO in)    (pure)    (pure)  (IO)   (pure, then one write)
//! ```
//!
//! | question | module |
//! |---|---|
//! | What can be typed on the command line? | `cli` |
//! | What is wrong with my manifest? | `manifest`, `validate` |
//! | What is a resource made from, and where is that? | `inputs`, `uri` |
//! | What happens next, and why did my run stop? | `plan` |
//! | When are two runs the same? | `digest` |
//! | What do the conditions say? | `status` |
//! | What may a terminal be shown? | `printable`, `redact` |
//! | How is that done locally? | `local` |
//! | How is it done on a cluster? | `cluster` |
//! | What does the cluster know of it? | `crds` |

pub mod cli;
pub mod cluster;
pub mod crds;
pub mod digest;
pub mod inputs;
pub mod local;
pub mod location;
pub mod manifest;
pub mod plan;
pub mod printable;
pub mod redact;
pub mod status;
pub mod uri;
pub mod validate;
