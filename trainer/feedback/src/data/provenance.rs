//! The provenance of a label: judges, models and templates. Computes only.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of the format of [`Provenance`]. Version 1, which was not recorded, had one judge.
pub const VERSION: u32 = 2;

/// The provenance of a pair's label.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Format version: [`VERSION`].
    pub version: u32,
    /// The judges with a verdict on the pair, in the order of the spec.
    pub judges: Vec<JudgeLabel>,
    /// Hash of the prompt and both responses.
    pub pair_id: String,
    /// Hash of the prompt and the chosen response.
    pub chosen_id: String,
    /// Hash of the prompt and the rejected response.
    pub rejected_id: String,
}

/// One judge's label of a pair.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct JudgeLabel {
    /// Name of the judge.
    pub judge: String,
    /// Its model.
    pub model: String,
    /// Name of the question template with the hash of its text.
    pub template: String,
    /// Its weight in the label.
    pub weight: f64,
    /// Probability that `chosen` is better according to this judge, 0..=1.
    pub p: f64,
    /// Number of orders that were judged: 2 or 1; 0 for a pointwise judge.
    pub orders: i32,
    /// Whether the two orders favour different responses; none unless there are two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<bool>,
    /// Total probability of the judge's two answers, mean over its replies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_mass: Option<f64>,
}

impl Provenance {
    /// Parses the field of a record.
    ///
    /// # Errors
    /// For another version, and for an invalid format.
    pub fn read(value: Value) -> Result<Self, String> {
        let version = value.get("version").map_or(Some(1), Value::as_u64);
        if version != Some(u64::from(VERSION)) {
            let found = version.map_or_else(|| value["version"].to_string(), |version| version.to_string());
            return Err(format!(
                "`provenance`: expected version {VERSION}, found {found}, which another release of Plumbline writes; label the \
                 prompts again with this release, or remove `provenance` from the records"
            ));
        }
        serde_json::from_value(value).map_err(|e| format!("`provenance`: {e}"))
    }
}
