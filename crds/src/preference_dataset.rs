//! `PreferenceDataset`: prompts -> responses -> AI judges -> preference data and an audit of the judge.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::Compute;
use crate::judge::{Endpoint, Judge};
use crate::source::{DataSource, ModelSource, Output, PromptSource, Sampling};
use crate::training::Precision;

/// Desired state of a PreferenceDataset: the prompts, who writes responses, the judges that compare them, and where the
/// data goes.
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
        doc = "A PreferenceDataset is preference data labelled by AI judges, with an audit of the judges.",
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
    /// Prompts that responses are generated for and compared on.
    pub prompts: PromptSource,
    /// Model that generates the candidate responses. Exactly one of `generator` and `responses` is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator: Option<Generator>,
    /// Existing responses to import instead of generating them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub responses: Option<DataSource>,
    /// Which responses of a prompt are compared.
    #[serde(default)]
    pub pairs: Pairs,
    /// Judges that compare the responses. Each of several judges compares every pair, and `aggregation` combines them.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub judges: Vec<Judge>,
    /// Order in which the two responses of a pair are shown, and how the verdicts of both orders are combined into one
    /// label. Only Pairwise judges read it; Pointwise judges and word lists do not.
    #[serde(default)]
    pub order: Order,
    /// How the labels of several judges are combined: Mean is the mean of their probabilities by weight, Majority the weighted
    /// majority, DawidSkene the model of Dawid and Skene (1979). Defaults to Mean.
    #[serde(default)]
    pub aggregation: Aggregation,
    /// Human review: which pairs people label, and the labels they gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<Review>,
    /// Quality gates. The dataset fails if one of them is not met.
    #[serde(default)]
    pub gates: DatasetGates,
    /// Budget for the requests to all judges together. Labelling stops when it is spent.
    #[serde(default)]
    pub budget: Budget,
    /// Pods that label in parallel, each a fraction of the prompts. Defaults to 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1024))]
    pub shards: i64,
    /// Where the dataset is written.
    #[serde(default)]
    pub output: Output,
    /// Pod settings: accelerators, threads, resources, placement, retries and deadline.
    #[serde(default)]
    pub compute: Compute,
    /// Suspends the run and releases its resources. The run resumes where it stopped when this is set back to false.
    /// Defaults to false.
    #[serde(default)]
    pub suspend: bool,
}

fn one() -> i64 {
    1
}

/// Source of the candidate responses: exactly one of `model` and `endpoint`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Generator {
    /// Model that the trainer loads and samples itself, as a rule after supervised fine-tuning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelSource>,
    /// OpenAI-compatible server that generates the responses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// Responses generated per prompt. Defaults to 4.
    #[serde(default = "default_responses")]
    #[schemars(range(min = 2, max = 64))]
    pub responses_per_prompt: i64,
    /// Sampling parameters of the responses.
    #[serde(default)]
    pub sampling: Sampling,
    /// Number format of the model's weights and activations. Defaults to Float32.
    #[serde(default)]
    pub precision: Precision,
}

fn default_responses() -> i64 {
    4
}

/// Which responses of a prompt are compared.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Pairs {
    /// Pairs compared per prompt. Defaults to 3.
    #[schemars(range(min = 1, max = 2016))]
    pub per_prompt: i64,
    /// How the pairs of a prompt are chosen. Random draws them by seed without repetition. Defaults to Random.
    pub strategy: PairStrategy,
    /// Largest similarity of the two responses of a pair, as the Jaccard similarity of word bigrams. Pairs above it are
    /// not sent to judges. Defaults to 0.95.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_similarity: f64,
    /// Smallest confidence of a label: the probability of the preferred response. Pairs below it are counted and left
    /// out of the data. The default leaves out exact ties only. Defaults to 0.5.
    #[schemars(range(min = 0.5, max = 1.0))]
    pub min_confidence: f64,
}

impl Default for Pairs {
    fn default() -> Self {
        Self { per_prompt: 3, strategy: PairStrategy::Random, max_similarity: 0.95, min_confidence: 0.5 }
    }
}

/// How the pairs of a prompt are chosen.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum PairStrategy {
    /// Seeded draws without repetition.
    #[default]
    Random,
}

/// Order in which the two responses of a pair are shown. Only Pairwise judges read it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Order {
    /// Orders in which a pair is asked: Both asks each pair in both orders, Sampled asks a fraction of the pairs in
    /// both, Single asks each pair once in an order drawn by hash. Defaults to Both.
    pub policy: OrderPolicy,
    /// Fraction of pairs asked in both orders. Only policy Sampled reads it. Defaults to 0.2.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sample_fraction: f64,
    /// How the verdicts of pairs asked in both orders are combined: Logits averages log-odds, Probabilities averages
    /// probabilities, AgreeOnly drops pairs whose orders disagree. Defaults to Logits.
    pub combine: OrderCombination,
}

impl Default for Order {
    fn default() -> Self {
        Self { policy: OrderPolicy::Both, sample_fraction: 0.2, combine: OrderCombination::Logits }
    }
}

/// Orders in which a pair is asked.
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

/// How the verdicts of two orders are combined.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum OrderCombination {
    /// Mean log-odds.
    #[default]
    Logits,
    /// Mean probability.
    Probabilities,
    /// The label if both orders agree, else none.
    AgreeOnly,
}

/// How the labels of several judges are combined.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Aggregation {
    /// Mean of the probabilities, weighted by `judges[].weight`; a judge without a verdict has no vote.
    #[default]
    Mean,
    /// Majority of the preferences, weighted.
    Majority,
    /// Dawid and Skene, 1979.
    DawidSkene,
}

/// Human review.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Review {
    /// Fraction of the pairs that is written to a review queue. Defaults to 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sample_fraction: f64,
    /// Rules that route prompts to human reviewers first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub route: Vec<Route>,
    /// Labels that human reviewers gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels_from: Option<DataSource>,
}

/// Rule that routes prompts to human reviewers.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Name of the rule, unique in the list.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Prompts that the rule applies to.
    #[serde(rename = "match")]
    pub matches: RouteMatch,
    /// Destination of the prompts. Human routes them to human reviewers.
    pub to: RouteTarget,
}

/// Prompts that a rule applies to.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteMatch {
    /// Tag that the prompts carry.
    #[schemars(length(min = 1, max = 63))]
    pub tag: String,
}

/// Destination of routed prompts.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum RouteTarget {
    /// Human reviewers.
    Human,
}

/// Quality gates of a dataset. The defaults reject a judge whose verdicts carry no information.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DatasetGates {
    /// Smallest number of labelled pairs. By default it is not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub min_pairs: Option<i64>,
    /// Largest fraction of pairs whose two orders disagree, among pairs asked in both orders. Random verdicts give 0.5,
    /// verdicts by position alone 1. Defaults to 0.75 once there are 20 such pairs, since fewer may disagree by chance.
    /// 1 disables the check.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_conflict_rate: Option<f64>,
    /// Largest fraction of questions without a verdict. 1 disables the check. Defaults to 0.5.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_unparsed_rate: f64,
    /// Smallest mean probability of the judge's two answers together, for `labelSource: LogProbs`. Below it the judge
    /// would rather say something else. 0 disables the check. Defaults to 0.01.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_label_mass: f64,
    /// The correlation between the verdicts of the two orders has to exceed this value with 95 % confidence, clustered
    /// by prompt. Checked once 100 prompts are asked in both orders. 0 means better than chance, -1 disables the check.
    /// Defaults to 0.
    #[schemars(range(min = -1.0, max = 1.0))]
    pub min_order_correlation: f64,
    /// Smallest agreement with human labels, as Cohen's kappa. By default it is not checked.
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

/// Budget for judge requests. A limit that is not set does not apply.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Budget {
    /// Largest cost of all requests, in the currency of the judges' prices. It needs a `price` for every judge with an
    /// endpoint. Attempts without a reply are not counted, so a provider that charges for them costs more than this. By
    /// default there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1_000_000_000.0))]
    pub max_cost: Option<f64>,
    /// Largest number of requests that judges reply to. Attempts without a reply are not counted. By default there is no
    /// limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000_000_i64))]
    pub max_requests: Option<i64>,
}
