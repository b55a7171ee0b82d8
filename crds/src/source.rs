//! Where inputs come from and where outputs go: models, prompts, datasets, references to other objects.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Names that Kubernetes accepts for most objects (a DNS subdomain, RFC 1123).
pub const OBJECT_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// Keys that Kubernetes accepts in a ConfigMap or Secret, which become names of files.
pub const OBJECT_KEY: &str = r"^([-_a-zA-Z0-9]|\.[-_a-zA-Z0-9])[-._a-zA-Z0-9]*$";

/// Reference to another Plumbline resource in the same namespace.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NameRef {
    /// Name of the resource.
    #[schemars(length(min = 1, max = 52), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
}

/// Reference to a Secret in the same namespace.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub name: String,
}

/// Reference to a key of a Secret or ConfigMap in the same namespace.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyRef {
    /// Name of the Secret or ConfigMap.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub name: String,
    /// Key in the data of the Secret or ConfigMap.
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

/// Causal language model: a Hugging Face directory (config.json, safetensors, tokenizer.json).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelSource {
    /// URI of the model's directory: `hf://org/name` or `s3://bucket/key`; on a cluster also `pvc://claim/path`, in a
    /// local run also `file:///path` or a relative path.
    #[schemars(length(min = 1, max = 1024))]
    pub uri: String,
    /// Revision of the hub repository: a branch, tag or commit. Only an `hf://` URI has one; by default it is `main`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub revision: Option<String>,
}

/// Preferences or texts that no PreferenceDataset resource made.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DataSource {
    /// URI of a file or directory. A file contains JSON Lines, a JSON array or Parquet; the first two may be compressed
    /// with gzip or zstd. A directory has such files in `data/`, named by their split (`train-00000-of-00002.parquet`):
    /// an artifact of Plumbline, verified by its manifest.json, or a Hugging Face dataset.
    #[schemars(length(min = 1, max = 1024))]
    pub uri: String,
}

/// Prompts from exactly one of `inline`, `uri` and `configMapRef`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PromptSource {
    /// Prompts as plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000), inner(length(min = 1, max = 8192)))]
    pub inline: Option<Vec<String>>,
    /// URI of a file or directory. A file contains records with `prompt` (text) or `messages` (a conversation that ends
    /// with the user) as JSON Lines, a JSON array or Parquet, or one prompt per line in a `.txt` file; all but Parquet
    /// may be compressed with gzip or zstd. Of a dataset directory the `train` split is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub uri: Option<String>,
    /// Key of a ConfigMap that contains JSON Lines (`.jsonl`) or one prompt per line (`.txt`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<KeyRef>,
    /// Largest number of prompts; the first ones are used. By default all prompts are used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub limit: Option<i64>,
    /// Fraction of the prompts held out of training for validation, split by prompt and never by pair. Defaults to
    /// 0.05.
    #[serde(default = "default_validation_fraction")]
    #[schemars(range(min = 0.0, max = 0.9))]
    pub validation_fraction: f64,
}

/// The fraction of prompts held out for validation where a resource sets none.
pub(crate) fn default_validation_fraction() -> f64 {
    0.05
}

/// Sampling parameters.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Sampling {
    /// Softmax temperature; 0 samples greedily. Defaults to 1.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub temperature: f64,
    /// Nucleus sampling: keeps the most likely tokens whose probabilities sum to this value; 1 keeps all tokens.
    /// Defaults to 1.
    #[schemars(range(min = 0.000_001, max = 1.0))]
    pub top_p: f64,
    /// Keeps this many of the most likely tokens; 0 keeps all tokens. Defaults to 0.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub top_k: i64,
    /// Keeps tokens whose probability is at least this fraction of the most likely token's; 0 keeps all tokens.
    /// Defaults to 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_p: f64,
    /// Largest number of new tokens per response. Defaults to 256.
    #[schemars(range(min = 1, max = 131_072))]
    pub max_new_tokens: i64,
    /// Smallest number of new tokens per response: the model's end token is not sampled before. The value of
    /// `maxNewTokens` makes all responses equally long. Defaults to 0.
    #[schemars(range(min = 0, max = 131_072))]
    pub min_new_tokens: i64,
    /// Strings that end a response, which is cut before the first of them. By default only the model's end token ends
    /// it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 64)))]
    pub stop: Vec<String>,
    /// Random seed; the same seed gives the same text. Defaults to 42.
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

/// Where an artifact is written.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Output {
    /// URI of the directory to write. By default it is a directory of this resource under the installation's artifact
    /// root, or under the work directory of a local run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub uri: Option<String>,
    /// Secret whose keys become environment variables of the run, such as `AWS_ACCESS_KEY_ID`.
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
