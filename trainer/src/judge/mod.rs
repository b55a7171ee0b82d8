//! AI judges: from pairs of responses to labels, and an audit of the judge.
//!
//! ```text
//! comparisons -> questions -> replies -> verdicts -> labels -> audit
//!             question     client     verdict     order, label  audit
//! ```
//!
//! Each arrow is a pure function but asking, which is paid for once: every reply is in the journal before it is used. A
//! reply that holds no verdict has a name and a counter, and never becomes a label.
//!
//! | computes | talks |
//! |---|---|
//! | `pairs`: which responses are compared | `client`: one question over HTTP |
//! | `form`, `question`: templates, what is asked | `limiter`: when it may be asked |
//! | `wire`: the OpenAI protocol in JSON | `journal`: what was answered |
//! | `classify`: what a failed attempt means | `session`: all questions to one endpoint |
//! | `verdict`, `verdict_text`, `order`, `label`: what a reply means | `panel`: [`judge()`] and [`compare`] |
//! | `audit`, `summary`: what is known about the judge | `runtime`: a judge of the spec, resolved |
//! | `dataset`: labels as records, and the gates | |
//! | `budget`, `lexicon`, `stats` | |

pub mod audit;
pub mod budget;
pub mod classify;
pub mod client;
pub mod dataset;
pub mod form;
pub mod journal;
pub mod label;
pub mod lexicon;
pub mod limiter;
pub mod order;
pub mod pairs;
pub mod panel;
pub mod question;
pub mod runtime;
mod session;
pub mod stats;
pub mod summary;
pub mod verdict;
pub mod verdict_text;
pub mod wire;

pub use panel::{Asking, Judged, compare, judge};
pub use question::Comparison;
pub use runtime::JudgeRuntime;
