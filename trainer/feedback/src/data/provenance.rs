//! Who labelled a pair, and how. Computes only.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of the form of [`Provenance`]. 1, which was not written down, had one judge.
pub const VERSION: u32 = 2;

/// Who labelled a pair, and how.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Version of this form: [`VERSION`].
    pub version: u32,
    /// The judges with a verdict on the pair, in the order of the spec.
    pub judges: Vec<JudgeLabel>,
    /// Hash of prompt and both responses.
    pub pair_id: String,
    /// Hash of prompt and chosen response.
    pub chosen_id: String,
    /// Hash of prompt and rejected response.
    pub rejected_id: String,
}

/// What one judge says of a pair.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct JudgeLabel {
    /// Name of the judge.
    pub judge: String,
    /// Its model.
    pub model: String,
    /// Question template and the hash of its text.
    pub template: String,
    /// Its weight in the label.
    pub weight: f64,
    /// Probability that `chosen` is better, by this judge alone, 0..=1.
    pub p: f64,
    /// In how many orders the pair was asked: 2, 1; 0 for a judge that scores each response on its own.
    pub orders: i32,
    /// Whether the two orders favoured different responses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<bool>,
    /// Probability that the judge gave to its two answers together, the mean over its replies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_mass: Option<f64>,
}

impl Provenance {
    /// Reads the field of a record.
    ///
    /// # Errors
    /// For another version, and for what is not the form of this one.
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
