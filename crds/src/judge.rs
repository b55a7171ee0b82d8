//! AI judges: who compares responses, how they are asked, and how a reply becomes a label.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source::{KeyRef, ModelSource};

/// Judge of responses: exactly one of `endpoint`, `model` and `lexicon`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Judge {
    /// Name of the judge, unique within the resource. It appears in the journal, the report and the metrics.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// OpenAI-compatible server to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// Model that the trainer serves itself, in the pod of the run, over the same protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelSource>,
    /// Word list that scores responses deterministically, for tests and for verifiable criteria. It scores one response
    /// at a time and takes none of the fields that describe a question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lexicon: Option<LexiconSource>,
    /// How responses are shown: Pairwise shows both in one question, Pointwise scores each on its own. Defaults to
    /// Pairwise.
    #[serde(default)]
    pub mode: JudgeMode,
    /// API of the server: Chat uses `/v1/chat/completions`; Completion uses `/v1/completions` with the rendered
    /// template as the text to continue, which suits base models. Defaults to Chat.
    #[serde(default)]
    pub api: JudgeApi,
    /// Criteria that are judged, each with an optional rubric. By default one sentence asks for helpful, honest and
    /// harmless responses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub criteria: Vec<Criterion>,
    /// Whether the judge reasons before its verdict: None asks for the verdict at once, ChainOfThought for reasons and
    /// verdict in one reply, TwoPass for reasons first and the verdict in a second request. Defaults to None.
    #[serde(default)]
    pub reasoning: Reasoning,
    /// Built-in question templates by name, such as `builtin:pairwise-v1`. Several templates are alternated by a hash
    /// of the pair. By default the newest built-in template of the mode is used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 80), regex(pattern = "^builtin:[a-z0-9-]+$")), extend("x-kubernetes-list-type" = "set"))]
    pub templates: Vec<String>,
    /// Custom question template (Jinja), instead of `templates`. Its variables are `prompt`, `response` (Pointwise) or
    /// `response_a` and `response_b` (Pairwise), `criteria`, `examples`, the answers `first` and `second`, `ties`
    /// (whether a tie is allowed), `completion` (whether `api` is Completion) and `nonce` (a code that no text
    /// contains). Any other name needs `default` or `is defined`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16384))]
    pub template: Option<String>,
    /// Few-shot examples that the template shows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub examples: Vec<JudgeExample>,
    /// The two answers whose log-probabilities are compared: the good and the bad answer for Pointwise, the names of
    /// the first and the second response for Pairwise. Defaults to `A` and `B` for Pairwise, to `yes` and `no` for
    /// Pointwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 2), inner(length(min = 1, max = 64)))]
    pub answers: Option<Vec<String>>,
    /// What the label is read from: LogProbs uses the log-probabilities of the answers, Verdict the text of one reply,
    /// Votes the texts of several replies. Defaults to LogProbs.
    #[serde(default)]
    pub label_source: LabelSource,
    /// Rate limits, concurrency, timeout and retries of requests to the judge. Judges with the same endpoint URL share the
    /// strictest of their limits.
    #[serde(default)]
    pub limits: JudgeLimits,
    /// Price of the endpoint's tokens. `budget.maxCost` requires it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// Weight of the judge in the mean of several judges. Defaults to 1.
    #[serde(default = "one")]
    #[schemars(range(min = 0.001, max = 1000.0))]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

/// OpenAI-compatible server.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// Base URL with the version, such as `https://api.example.com/v1`.
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^https?://[^@?#]+$"))]
    pub url: String,
    /// Model name that each request asks for.
    #[schemars(length(min = 1, max = 256))]
    pub model: String,
    /// Key of a Secret that contains the API key. Local runs read the environment variable
    /// `PLUMBLINE_SECRET_<NAME>_<KEY>` (upper case, `-` and `.` as `_`) instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_secret_ref: Option<KeyRef>,
}

/// Word list with one `word<TAB>valence` per line, further columns ignored (the format of VADER).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LexiconSource {
    /// URI of the file.
    #[schemars(length(min = 1, max = 1024))]
    pub uri: String,
}

/// Pairwise or Pointwise.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum JudgeMode {
    /// Both responses in one question.
    #[default]
    Pairwise,
    /// One response per question; the preference is the difference of two scores.
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

/// API of the OpenAI protocol.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum JudgeApi {
    /// `/v1/chat/completions`.
    #[default]
    Chat,
    /// `/v1/completions`.
    Completion,
}

/// Criterion that is judged.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Criterion {
    /// Name of the criterion, one or two words, unique in the list.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// What makes a response good or bad under this criterion.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub description: String,
    /// Weight of the criterion among the others. Defaults to 1.
    #[serde(default = "one")]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub weight: f64,
    /// Rubric: what each level means, from the worst to the best.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), inner(length(min = 1, max = 1024)))]
    pub levels: Vec<String>,
}

/// Few-shot example. Pointwise uses `response`; Pairwise uses `responseA` and `responseB`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JudgeExample {
    /// Prompt of the example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub prompt: Option<String>,
    /// Response of the example, for a Pointwise judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub response: Option<String>,
    /// First response of the example, for a Pairwise judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub response_a: Option<String>,
    /// Second response of the example, for a Pairwise judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub response_b: Option<String>,
    /// Correct answer, one of the judge's `answers`.
    #[schemars(length(min = 1, max = 64))]
    pub answer: String,
}

/// Whether the judge reasons before its verdict.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Reasoning {
    /// The verdict at once.
    #[default]
    None,
    /// Reasons and verdict in one reply.
    ChainOfThought,
    /// Reasons in one request, the verdict in a second.
    TwoPass,
}

/// What a label is read from.
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

/// Rate limits, concurrency, timeout and retries of requests to a judge.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct JudgeLimits {
    /// Requests in flight at the same time. Defaults to 32.
    #[schemars(range(min = 1, max = 1024))]
    pub concurrency: i64,
    /// Requests per minute. By default there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub requests_per_minute: Option<i64>,
    /// Tokens per minute, prompt and completion together. By default there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000_000_i64))]
    pub tokens_per_minute: Option<i64>,
    /// Timeout of one attempt, in seconds. Defaults to 120.
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: i64,
    /// Attempts per question, the first included. The waits between them double, from half a second up to a minute: 6
    /// attempts outlast an endpoint that is away for 7 seconds, 12 one that is away for 150. Defaults to 6.
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

/// Price of an endpoint's tokens.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Price {
    /// Price per million prompt tokens, in `currency`.
    #[schemars(range(min = 0.0, max = 1_000_000.0))]
    pub input_per_million_tokens: f64,
    /// Price per million completion tokens, in `currency`.
    #[schemars(range(min = 0.0, max = 1_000_000.0))]
    pub output_per_million_tokens: f64,
    /// ISO 4217 code of the currency. Defaults to USD.
    #[serde(default = "usd")]
    #[schemars(regex(pattern = "^[A-Z]{3}$"))]
    pub currency: String,
}

fn usd() -> String {
    "USD".into()
}
