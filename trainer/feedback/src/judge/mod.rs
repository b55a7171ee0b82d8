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
//! | `prompt`, `question`: templates, what is asked | `limiter`: when it may be asked |
//! | `body`, `secret`: a server's words without our key | `journal`: what was answered |
//! | `wire`: the OpenAI protocol in JSON; `dialect`: what a server takes of it | `session`: all questions to one endpoint |
//! | `classify`, `server_error`: what a failed attempt means | `judging`: [`judge()`] and [`compare`] |
//! | `verdict`: what a reply means; `reading`: how it is read, by `log_probs`, or by `verdict_text`, `verdict_json`, `mark`, `statement`, `reasoning` | `runtime`: a judge of the spec, resolved |
//! | `order`, `label`: from verdicts to a label | |
//! | `audit`, `summary`: what is known about the judge; `tripwire`: whether it is asked further | |
//! | `dataset`: labels as records, and the gates | |
//! | `budget`, `lexicon`, `words` | |

pub mod audit;
pub mod body;
pub mod budget;
pub mod classify;
pub mod client;
pub mod dataset;
pub mod dialect;
pub mod journal;
pub mod judging;
pub mod label;
pub mod lexicon;
pub mod limiter;
pub mod log_probs;
mod mark;
pub mod order;
pub mod pairs;
pub mod prompt;
pub mod question;
pub mod reading;
pub mod reasoning;
pub mod runtime;
pub mod secret;
pub mod server_error;
mod session;
mod statement;

pub mod summary;
mod tripwire;
pub mod verdict;
mod verdict_json;
pub mod verdict_text;
pub mod wire;
mod words;

pub use judging::{JudgeOptions, Judgements, compare, judge};
pub use question::Comparison;
pub use runtime::JudgeRuntime;
