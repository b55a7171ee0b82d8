//! Where inputs come from and where outputs go: models, prompts, datasets, references to other objects.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What Kubernetes takes for the name of most objects (a DNS subdomain, RFC 1123).
pub const OBJECT_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// What Kubernetes takes for a key of a ConfigMap or Secret, which becomes the name of a file.
pub const OBJECT_KEY: &str = r"^([-_a-zA-Z0-9]|\.[-_a-zA-Z0-9])[-._a-zA-Z0-9]*$";

/// The name of another Plumbline resource in the same namespace.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NameRef {
    /// Name of the resource.
    #[schemars(length(min = 1, max = 52), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
}

/// A Secret in the same namespace.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub name: String,
}

/// One key of a Secret or ConfigMap in the same namespace.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub name: String,
    /// Key in the object's data.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_KEY))]
    pub key: String,
}

impl KeyRef {
    /// The environment variable in which the operator passes the key of a Secret to the trainer, on a cluster and locally:
    /// `PLUMBLINE_SECRET_<NAME>_<KEY>`, upper case, `-` and `.` as `_`.
    pub fn variable(&self) -> String {
        format!("PLUMBLINE_SECRET_{}_{}", self.name, self.key).to_uppercase().replace(['-', '.'], "_")
    }
}

/// A causal language model: a Hugging Face folder (config.json, safetensors, tokenizer.json).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelSource {
    /// `hf://org/name`, `s3://bucket/key`; on a cluster `pvc://claim/path`, elsewhere `file:///path` or relative.
    #[schemars(length(min = 1, max = 1024))]
    pub uri: String,
    /// Revision (branch, tag or commit) of a hub repository. Only with `hf://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub revision: Option<String>,
}

/// Preferences or texts that were not made by a PreferenceDataset resource.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DataSource {
    /// A file of JSON Lines, a JSON array or Parquet, the first two also in gzip or zstd; or a folder with such files in
    /// `data/`, named by their split (`train-00000-of-00002.parquet`): an artifact of Plumbline, verified by its
    /// manifest.json, or a dataset of Hugging Face.
    #[schemars(length(min = 1, max = 1024))]
    pub uri: String,
}

/// Prompts: exactly one of `inline`, `uri`, `configMapRef`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PromptSource {
    /// The prompts themselves, as plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000), inner(length(min = 1, max = 8192)))]
    pub inline: Option<Vec<String>>,
    /// Records with `prompt` (text) or `messages` (a conversation that ends with the user) as JSON Lines, a JSON array or
    /// Parquet, or a `.txt` file with one prompt a line; all but Parquet also in gzip or zstd. A folder is read as that of a
    /// dataset, its `train` split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub uri: Option<String>,
    /// A key of a ConfigMap that holds JSON Lines (`.jsonl`) or text (`.txt`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<KeyRef>,
    /// Use at most this many prompts, the first ones. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub limit: Option<i64>,
    /// Share of the prompts kept out of training for validation, split by prompt and never by pair. Default 0.05.
    #[serde(default = "default_validation_fraction")]
    #[schemars(range(min = 0.0, max = 0.9))]
    pub validation_fraction: f64,
}

/// The share of prompts that is kept for validation where a resource names none.
pub(crate) fn default_validation_fraction() -> f64 {
    0.05
}

/// How text is sampled.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Sampling {
    /// Softmax temperature; 0 is greedy. Default 1.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub temperature: f64,
    /// Nucleus: keep the most likely tokens whose probabilities sum to this. 1 keeps all. Default 1.
    #[schemars(range(min = 0.000_001, max = 1.0))]
    pub top_p: f64,
    /// Keep this many of the most likely tokens; 0 keeps all. Default 0.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub top_k: i64,
    /// Keep tokens at least this likely relative to the most likely one; 0 keeps all. Default 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_p: f64,
    /// Maximum number of new tokens per response. Default 256.
    #[schemars(range(min = 1, max = 131_072))]
    pub max_new_tokens: i64,
    /// The model's end token is not sampled before this many new tokens; `maxNewTokens` makes all responses equally long.
    /// Default 0.
    #[schemars(range(min = 0, max = 131_072))]
    pub min_new_tokens: i64,
    /// A response ends before the first of these strings. Default none (only the model's end token).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 64)))]
    pub stop: Vec<String>,
    /// Seed: the same seed gives the same text. Default 42.
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub seed: i64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            max_new_tokens: 256,
            min_new_tokens: 0,
            stop: Vec::new(),
            seed: 42,
        }
    }
}

/// Where the artifact goes.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Output {
    /// Folder to write. Default: a folder of this resource under the installation's artifact root (locally, under
    /// the work dir).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub uri: Option<String>,
    /// Secret whose keys become environment variables (`AWS_ACCESS_KEY_ID`, ...).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_of_a_secret_is_named_as_documented() {
        let reference = KeyRef { name: "my.judge-1".into(), key: "api-key".into() };
        assert_eq!(reference.variable(), "PLUMBLINE_SECRET_MY_JUDGE_1_API_KEY");
    }
}
