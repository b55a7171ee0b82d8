//! `PreferenceDataset`: prompts -> responses -> AI judges -> preference data and an audit of the judge.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::Compute;
use crate::judge::{Endpoint, Judge};
use crate::source::{DataSource, ModelSource, Output, PromptSource, Sampling};
use crate::training::Precision;

/// What a PreferenceDataset is made from.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[cfg_attr(feature = "kube", derive(kube::CustomResource))]
#[cfg_attr(
    feature = "kube",
    kube(
        group = "plumbline.dev",
        version = "v1alpha1",
        kind = "PreferenceDataset",
        namespaced,
        status = "crate::status::Status",
        category = "rlaif",
        shortname = "prefds",
        doc = "Preference data made by AI judges, with an audit of the judges.",
        printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
        printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
        printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress.percent"),
        printcolumn(name = "Metric", type_ = "string", json_path = ".status.counts.pairs"),
        printcolumn(name = "Artifact", type_ = "string", json_path = ".status.artifact.uri", priority = 1),
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PreferenceDatasetSpec {
    /// The prompts.
    pub prompts: PromptSource,
    /// Who writes the candidate responses. Exactly one of `generator` and `responses`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator: Option<Generator>,
    /// Existing responses to import.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub responses: Option<DataSource>,
    /// Which responses are compared.
    #[serde(default)]
    pub pairs: Pairs,
    /// One or more judges; several are an ensemble.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub judges: Vec<Judge>,
    /// In which order a pair is shown, and how two orders become one label. Only Pairwise judges have an order: of a
    /// Pointwise one and of a word list nothing here is read.
    #[serde(default)]
    pub order: Order,
    /// How the judges of an ensemble become one label. Default Mean.
    #[serde(default)]
    pub aggregation: Aggregation,
    /// People in the loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<Review>,
    /// What must hold for the dataset to be used.
    #[serde(default)]
    pub gates: DatasetGates,
    /// Budget for judge requests.
    #[serde(default)]
    pub budget: Budget,
    /// Pods that label together, each its share of the prompts. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1024))]
    pub shards: i64,
    /// Where the dataset goes.
    #[serde(default)]
    pub output: Output,
    /// The pod: threads, resources, where it may run, retries.
    #[serde(default)]
    pub compute: Compute,
    /// Suspend the run and release its resources. It resumes from its last checkpoint when set back to false. Default false.
    #[serde(default)]
    pub suspend: bool,
}

fn one() -> i64 {
    1
}

/// Who writes the candidate responses: exactly one of `model` and `endpoint`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Generator {
    /// The SFT model, sampled by the trainer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelSource>,
    /// An OpenAI-compatible server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// Responses per prompt. Default 4.
    #[serde(default = "default_responses")]
    #[schemars(range(min = 2, max = 64))]
    pub responses_per_prompt: i64,
    /// How they are sampled.
    #[serde(default)]
    pub sampling: Sampling,
    /// Number format of the model. Default Float32.
    #[serde(default)]
    pub precision: Precision,
}

fn default_responses() -> i64 {
    4
}

/// Which responses are compared.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Pairs {
    /// Pairs per prompt. Default 3.
    #[schemars(range(min = 1, max = 2016))]
    pub per_prompt: i64,
    /// Random draws pairs by seed without repetition. Default Random.
    pub strategy: PairStrategy,
    /// Pairs whose two responses are more alike than this are not asked about: Jaccard similarity of word bigrams.
    /// Default 0.95.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_similarity: f64,
    /// Pairs whose label is less sure than this are counted and left out of the data: the probability of the preferred
    /// side. Default 0.5, which leaves out exact ties only.
    #[schemars(range(min = 0.5, max = 1.0))]
    pub min_confidence: f64,
}

impl Default for Pairs {
    fn default() -> Self {
        Self { per_prompt: 3, strategy: PairStrategy::Random, max_similarity: 0.95, min_confidence: 0.5 }
    }
}

/// How pairs are chosen.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum PairStrategy {
    /// Seeded draws without repetition.
    #[default]
    Random,
}

/// In which order a pair is shown. Only Pairwise judges have an order.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Order {
    /// Both asks each pair twice; Sampled asks a share twice; Single asks once in an order drawn by hash. Default Both.
    pub policy: OrderPolicy,
    /// Share asked in both orders, under Sampled only. Default 0.2.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sample_fraction: f64,
    /// Of pairs that are asked in both orders: Logits averages log-odds, Probabilities averages probabilities, AgreeOnly drops pairs whose orders disagree.
    /// Default Logits.
    pub combine: OrderCombination,
}

impl Default for Order {
    fn default() -> Self {
        Self { policy: OrderPolicy::Both, sample_fraction: 0.2, combine: OrderCombination::Logits }
    }
}

/// How many orders are asked.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum OrderPolicy {
    /// Both orders of each pair.
    #[default]
    Both,
    /// Both orders of a sample, one of the rest.
    Sampled,
    /// One order.
    Single,
}

/// How two orders become one label.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum OrderCombination {
    /// Mean log-odds.
    #[default]
    Logits,
    /// Mean probability.
    Probabilities,
    /// The label both orders give, else none.
    AgreeOnly,
}

/// How judges become one label.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Aggregation {
    /// Weighted mean log-odds.
    #[default]
    Mean,
    /// Weighted majority.
    Majority,
    /// Dawid and Skene, 1979.
    DawidSkene,
}

/// People in the loop.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Review {
    /// Share of the pairs written to a review queue. Default 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sample_fraction: f64,
    /// Rules that send prompts to people first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub route: Vec<Route>,
    /// Labels that people gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels_from: Option<DataSource>,
}

/// A rule that sends prompts to people.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Name of the rule.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Which prompts.
    #[serde(rename = "match")]
    pub matches: RouteMatch,
    /// Where they go.
    pub to: RouteTarget,
}

/// Which prompts a rule is about.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteMatch {
    /// Prompts that carry this tag.
    #[schemars(length(min = 1, max = 63))]
    pub tag: String,
}

/// Where prompts go.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum RouteTarget {
    /// To people.
    Human,
}

/// What must hold for the dataset to be used. The defaults stop a judge that tells nothing.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DatasetGates {
    /// At least this many labelled pairs. Default: not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub min_pairs: Option<i64>,
    /// At most this share of pairs whose two orders disagree, where pairs are asked in both. Tossing a coin gives 0.5, choosing by position alone 1. Default
    /// 0.75 from 20 pairs on, as it may be chance with fewer; 1 does not check.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_conflict_rate: Option<f64>,
    /// At most this share of questions without a verdict. Default 0.5; 1 does not check.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_unparsed_rate: f64,
    /// At least this mean probability of the judge's two answers together (`label: LogProbs`): below it, what the judge would
    /// say is something else. Default 0.01; 0 does not check.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_label_mass: f64,
    /// More than this correlation of what the two orders of a pair say, where both are asked, with 95 % confidence, counting prompts. Checked from 100
    /// prompts on. Default 0, more than chance; -1 does not check.
    #[schemars(range(min = -1.0, max = 1.0))]
    pub min_order_correlation: f64,
    /// At least this agreement with people (Cohen's kappa). Default: not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1.0, max = 1.0))]
    pub min_human_kappa: Option<f64>,
}

impl Default for DatasetGates {
    fn default() -> Self {
        Self {
            min_pairs: None,
            max_conflict_rate: None,
            max_unparsed_rate: 0.5,
            min_label_mass: 0.01,
            min_order_correlation: 0.0,
            min_human_kappa: None,
        }
    }
}

/// Budget for judge requests. Unset means no limit.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Budget {
    /// Money, in the currency of the judges' prices. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1_000_000_000.0))]
    pub max_cost: Option<f64>,
    /// Requests to judges. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000_000_i64))]
    pub max_requests: Option<i64>,
}
