//! AI judges: from pairs of responses to labels, and an audit of the judge.
//!
//! ```text
//! comparisons -> questions -> replies -> verdicts -> labels -> audit
//!             question     client     verdict     order, label  audit
//! ```
//!
//! Each arrow is a pure function except asking, which is paid for once: every reply is in the journal before it is
//! used. A reply without a verdict is counted by its reason, and never becomes a label.
//!
//! | computes | talks |
//! |---|---|
//! | `pairs`: which responses are compared | `client`: one question over HTTP |
//! | `prompt`, `question`: templates and questions | `limiter`: rate limits |
//! | `turn`: the requests of a question | `journal`: replies on disk |
//! | `body`, `secret`: server text without our key | `resources`: journal, ledger and limiters, shared by all judges |
//! | `wire`: the OpenAI protocol in JSON; `dialect`: what a server takes of it | `session`: all questions of one judge |
//! | `classify`, `server_error`: what a failed attempt means | `panel`: [`judge()`] and [`compare`] |
//! | `verdict`: what a reply means; `reading`: how it is read, by `log_probs`, or by `verdict_text`, `verdict_json`, `mark`, `statement`, `reasoning` | `runtime`: a judge of the spec, resolved |
//! | `order`, `label`: from verdicts to a label; `ensemble`: from the labels of several judges to one | |
//! | `audit`, `summary`, `sections`: statistics of the judge, and how they are shown; `tripwire`: when to stop asking it | |
//! | `dataset`: labels as records, and the gates | |
//! | `ledger`, `lexicon`, `words`, `answers` | |

mod answers;
pub mod audit;
pub mod body;
pub mod classify;
pub mod client;
pub mod dataset;
pub mod dialect;
pub mod ensemble;
pub mod journal;
pub mod label;
pub mod ledger;
pub mod lexicon;
pub mod limiter;
pub mod log_probs;
mod mark;
pub mod order;
pub mod pairs;
pub mod panel;
pub mod prompt;
pub mod question;
pub mod reading;
pub mod reasoning;
mod resources;
pub mod runtime;
pub mod secret;
pub mod sections;
pub mod server_error;
mod session;
mod statement;
pub mod summary;
mod tripwire;
pub mod turn;
pub mod verdict;
mod verdict_json;
pub mod verdict_text;
pub mod wire;
mod words;

pub use panel::{JudgeOptions, Judgements, PanelJudgements, compare, judge, refuse_alike};
pub use question::Comparison;
pub use runtime::JudgeRuntime;
