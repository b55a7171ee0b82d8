//! AI judges: who compares responses, how they are asked, and how a reply becomes a label.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source::{KeyRef, ModelSource};

/// One judge: exactly one of `endpoint`, `model`, `lexicon`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Judge {
    /// Name, unique within the resource; it appears in the journal, the report and the metrics.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// An OpenAI-compatible server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// A model that the trainer serves beside the job, over the same protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelSource>,
    /// A deterministic word-list judge, for tests and criteria that can be checked. It rates one response at a time, and
    /// has none of the fields of a question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lexicon: Option<LexiconSource>,
    /// Pairwise shows both responses in one question; Pointwise scores each on its own. Default Pairwise.
    #[serde(default)]
    pub mode: JudgeMode,
    /// Chat asks `/v1/chat/completions`; Completion asks `/v1/completions` with the rendered template as the text to
    /// continue, which suits base models. Default Chat.
    #[serde(default)]
    pub api: JudgeApi,
    /// What is judged, with an optional rubric. Default: helpful, honest, harmless in one sentence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub criteria: Vec<Criterion>,
    /// Whether the judge reasons before it decides. Default None.
    #[serde(default)]
    pub reasoning: Reasoning,
    /// Built-in question templates by name (`builtin:pairwise-v1`); several are varied by a hash of the pair. Default:
    /// the newest built-in template of the mode.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 80), regex(pattern = "^builtin:[a-z0-9-]+$")), extend("x-kubernetes-list-type" = "set"))]
    pub templates: Vec<String>,
    /// A question template of your own (Jinja), instead of `templates`. It knows `prompt`, `response` (Pointwise) or
    /// `response_a` and `response_b` (Pairwise), `criteria`, `examples`, the answers `first` and `second`, `ties` (whether
    /// a tie may be called), `completion` (whether `api` is Completion) and `nonce` (a code that is in no text); any
    /// other name only with `default` or `is defined`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16384))]
    pub template: Option<String>,
    /// Few-shot examples handed to the template.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub examples: Vec<JudgeExample>,
    /// The two answers whose log-probabilities are compared: for Pointwise the good and the bad one, for Pairwise the
    /// names of the first and the second response. Default: `A`, `B` (Pairwise); `yes`, `no` (Pointwise).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 2), inner(length(min = 1, max = 64)))]
    pub answers: Option<Vec<String>>,
    /// How a reply becomes a label: LogProbs reads the probabilities of the answers, Verdict the text of one reply,
    /// Votes the texts of several. Default LogProbs.
    #[serde(default)]
    pub label: LabelSource,
    /// Rate limits, concurrency, timeout and retries.
    #[serde(default)]
    pub limits: JudgeLimits,
    /// What the endpoint charges; needed for `budget.maxCost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// Weight in an ensemble. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

/// An OpenAI-compatible server.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// Base URL including the version, as `https://api.example.com/v1`.
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^https?://[^@?#]+$"))]
    pub url: String,
    /// Model name sent with each request.
    #[schemars(length(min = 1, max = 256))]
    pub model: String,
    /// Secret key that holds the API key. Outside a cluster the environment variable
    /// `PLUMBLINE_SECRET_<NAME>_<KEY>` (upper case, `-` and `.` as `_`) is read instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_secret_ref: Option<KeyRef>,
}

/// A word list with a valence each, one a line: `word<TAB>valence`, more columns ignored (the format of VADER).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LexiconSource {
    /// Where the file is.
    #[schemars(length(min = 1, max = 1024))]
    pub uri: String,
}

/// Pairwise or Pointwise.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum JudgeMode {
    /// Both responses in one question.
    #[default]
    Pairwise,
    /// One response a question; the preference is the difference of two scores.
    Pointwise,
}

/// Built-in question templates (`builtin:<name>`) and their mode, oldest first: the newest of a mode is its default.
pub const BUILTIN_TEMPLATES: [(&str, JudgeMode); 3] = [
    ("pairwise-v1", JudgeMode::Pairwise),
    ("pairwise-v2", JudgeMode::Pairwise),
    ("pointwise-v1", JudgeMode::Pointwise),
];

impl JudgeMode {
    /// What every template of this mode has to show, by the names that it has in the template.
    pub const fn judged(self) -> &'static [&'static str] {
        match self {
            Self::Pairwise => &["response_a", "response_b"],
            Self::Pointwise => &["response"],
        }
    }
}

/// The line of a template that ends the system message and begins the question.
pub const TEMPLATE_SEPARATOR: &str = "<!-- user -->\n";

/// What a template may use beside what is judged.
pub const TEMPLATE_VARIABLES: [&str; 8] =
    ["prompt", "criteria", "examples", "first", "second", "ties", "completion", "nonce"];

/// Which endpoint of the OpenAI protocol is asked.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum JudgeApi {
    /// `/v1/chat/completions`.
    #[default]
    Chat,
    /// `/v1/completions`.
    Completion,
}

/// One thing that is judged.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Criterion {
    /// Name, one or two words.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// What is good and what is bad under this criterion.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub description: String,
    /// Weight among the criteria. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub weight: f64,
    /// Rubric: what each level means, worst first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), inner(length(min = 1, max = 1024)))]
    pub levels: Vec<String>,
}

/// A few-shot example. Pointwise uses `response`; Pairwise uses `responseA` and `responseB`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JudgeExample {
    /// The prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub prompt: Option<String>,
    /// The response (Pointwise).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub response: Option<String>,
    /// The first response (Pairwise).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub response_a: Option<String>,
    /// The second response (Pairwise).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub response_b: Option<String>,
    /// The right answer, one of the judge's `answers`.
    #[schemars(length(min = 1, max = 64))]
    pub answer: String,
}

/// Whether the judge reasons before it decides.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Reasoning {
    /// The verdict at once.
    #[default]
    None,
    /// Reasons and verdict in one reply.
    ChainOfThought,
    /// Reasons in one call, the verdict in a second.
    TwoPass,
}

/// How a reply becomes a label.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum LabelSource {
    /// A soft label from the log-probabilities of the two answers.
    #[default]
    LogProbs,
    /// A hard label from the text.
    Verdict,
    /// A soft label from several texts.
    Votes,
}

/// Politeness and patience towards an endpoint.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct JudgeLimits {
    /// Requests in flight at once. Default 32.
    #[schemars(range(min = 1, max = 1024))]
    pub concurrency: i64,
    /// Requests a minute. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub requests_per_minute: Option<i64>,
    /// Tokens a minute, prompt and completion. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000_000_i64))]
    pub tokens_per_minute: Option<i64>,
    /// Seconds one attempt may take. Default 120.
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: i64,
    /// Attempts a question, the first included. Default 6.
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: i64,
}

impl Default for JudgeLimits {
    fn default() -> Self {
        Self {
            concurrency: 32,
            requests_per_minute: None,
            tokens_per_minute: None,
            timeout_seconds: 120,
            max_attempts: 6,
        }
    }
}

/// What an endpoint charges.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Price {
    /// For a million prompt tokens.
    #[schemars(range(min = 0.0, max = 1_000_000.0))]
    pub input_per_million_tokens: f64,
    /// For a million completion tokens.
    #[schemars(range(min = 0.0, max = 1_000_000.0))]
    pub output_per_million_tokens: f64,
    /// ISO 4217 code. Default USD.
    #[serde(default = "usd")]
    #[schemars(regex(pattern = "^[A-Z]{3}$"))]
    pub currency: String,
}

fn usd() -> String {
    "USD".into()
}
