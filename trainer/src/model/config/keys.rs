//! Typed access to `config.json`, and the keys that are rejected because they change what a model computes. A value of
//! a wrong type or out of range is an error that states the key, what was expected and what was found; it never falls
//! back to a default. Pure.

use serde_json::{Map, Value};

use crate::{Error, Result};

/// A JSON object of the file.
pub(in crate::model) struct Keys<'a> {
    map: &'a Map<String, Value>,
    /// Prefix of keys in messages (`rope_scaling.`).
    path: &'static str,
}

impl<'a> Keys<'a> {
    /// The top-level object.
    pub(in crate::model) fn new(map: &'a Map<String, Value>) -> Self {
        Self { map, path: "" }
    }

    /// A nested object; `None` if the key is absent, null or an empty object, as in transformers.
    pub(in crate::model) fn object(&self, key: &str, path: &'static str) -> Result<Option<Keys<'a>>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) if map.is_empty() => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Keys { map, path })),
            Some(found) => Err(self.wrong(key, "an object or null", found)),
        }
    }

    /// Every key and its value.
    pub(in crate::model) fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.map.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// A value; `None` if the key is absent.
    pub(in crate::model) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key)
    }

    /// A value; `None` if the key is absent or null.
    pub(in crate::model) fn set(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// An integer from `least` to `most`; `None` if the key is absent.
    pub(in crate::model) fn whole(&self, key: &str, least: i64, most: i64) -> Result<Option<i64>> {
        let Some(found) = self.map.get(key) else { return Ok(None) };
        match found.as_i64() {
            Some(n) if (least..=most).contains(&n) => Ok(Some(n)),
            _ => Err(self.wrong(key, &format!("an integer from {least} to {most}"), found)),
        }
    }

    /// A required integer from `least` to `most`.
    pub(in crate::model) fn required(&self, key: &str, least: i64, most: i64) -> Result<i64> {
        self.whole(key, least, most)?
            .ok_or_else(|| self.wrong(key, &format!("an integer from {least} to {most}"), &Value::Null))
    }

    /// The error for a required integer that is absent.
    pub(in crate::model) fn missing(&self, key: &str) -> Error {
        self.wrong(key, "an integer", &Value::Null)
    }

    /// An integer of at least 1; `None` if the key is null, `absent` if the key is absent.
    pub(in crate::model) fn positive_or_null(&self, key: &str, absent: Option<i64>) -> Result<Option<i64>> {
        match self.map.get(key) {
            None => Ok(absent),
            Some(Value::Null) => Ok(None),
            Some(_) => self.whole(key, 1, i64::MAX),
        }
    }

    /// A finite number within `allowed`; `None` if the key is absent.
    pub(in crate::model) fn number(&self, key: &str, allowed: Range) -> Result<Option<f64>> {
        let Some(found) = self.map.get(key) else { return Ok(None) };
        match found.as_f64() {
            Some(x) if x.is_finite() && allowed.contains(x) => Ok(Some(x)),
            _ => Err(self.wrong(key, allowed.text(), found)),
        }
    }

    /// The same; `None` if the key is absent or null.
    pub(in crate::model) fn number_or_null(&self, key: &str, allowed: Range) -> Result<Option<f64>> {
        self.set(key).map_or(Ok(None), |_| self.number(key, allowed))
    }

    /// A list of `count` moderate numbers.
    pub(in crate::model) fn numbers(&self, key: &str, count: usize) -> Result<Vec<f64>> {
        let found = self.get(key).unwrap_or(&Value::Null);
        let number = |value: &Value| value.as_f64().filter(|x| Range::Moderate.contains(*x));
        let read: Option<Vec<f64>> = found.as_array().and_then(|list| list.iter().map(number).collect());
        read.filter(|list| list.len() == count).ok_or_else(|| {
            self.wrong(key, &format!("a list of {count} numbers, each {}", Range::Moderate.text()), found)
        })
    }

    /// The values of a list with one entry per layer; `None` if the key is absent or null.
    pub(in crate::model) fn per_layer<T>(
        &self,
        key: &str,
        layers: i64,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(found) = self.set(key) else { return Ok(None) };
        let listed = found
            .as_array()
            .filter(|list| list.len() as i64 == layers)
            .ok_or_else(|| self.wrong(key, &format!("a list of {layers} entries, one per layer,"), found))?;
        listed
            .iter()
            .map(|entry| read(entry).ok_or_else(|| self.not_computed(key, entry)))
            .collect::<Result<_>>()
            .map(Some)
    }

    /// A string; `None` if the key is absent or null.
    pub(in crate::model) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.set(key).map(|found| found.as_str().ok_or_else(|| self.wrong(key, "a string", found))).transpose()
    }

    /// A boolean; false if the key is absent. Null is an error.
    pub(in crate::model) fn flag(&self, key: &str) -> Result<bool> {
        self.flag_or(key, false)
    }

    /// A boolean; `absent` if the key is absent. Null is an error.
    pub(in crate::model) fn flag_or(&self, key: &str, absent: bool) -> Result<bool> {
        let Some(found) = self.map.get(key) else { return Ok(absent) };
        found.as_bool().ok_or_else(|| self.wrong(key, "true or false", found))
    }

    /// Token ids below `vocabulary`: one, a list, or an empty list if the key is absent or null.
    pub(in crate::model) fn token_ids(&self, key: &str, vocabulary: i64) -> Result<Vec<i64>> {
        let Some(found) = self.set(key) else { return Ok(Vec::new()) };
        let listed = found.as_array().map_or(std::slice::from_ref(found), Vec::as_slice);
        listed
            .iter()
            .map(|id| id.as_i64().filter(|id| (0..vocabulary).contains(id)))
            .collect::<Option<_>>()
            .ok_or_else(|| self.wrong(key, &format!("token ids from 0 to {}", vocabulary - 1), found))
    }

    /// An error that states the key, what was expected and what was found.
    pub(in crate::model) fn wrong(&self, key: &str, expected: &str, found: &Value) -> Error {
        Error::Config(format!("config.json: expected {expected} in `{}{key}`, found {}", self.path, excerpt(found)))
    }

    /// An error for a key whose value requests an unsupported computation.
    pub(in crate::model) fn unsupported(&self, key: &str) -> Error {
        self.not_computed(key, self.get(key).unwrap_or(&Value::Null))
    }

    /// An error for a value that requests an unsupported computation.
    pub(in crate::model) fn not_computed(&self, key: &str, found: &Value) -> Error {
        Error::Config(format!(
            "config.json: `{}{key}` is {}, which the decoder does not support",
            self.path,
            excerpt(found)
        ))
    }
}

/// Permitted ranges of numbers.
#[derive(Clone, Copy)]
pub(in crate::model) enum Range {
    Positive,
    FromOne,
    FromTwo,
    /// What no product of in 32 bits overflows.
    Moderate,
}

impl Range {
    fn contains(self, x: f64) -> bool {
        match self {
            Self::Positive => x > 0.0,
            Self::FromOne => x >= 1.0,
            Self::FromTwo => x >= 2.0,
            Self::Moderate => (1e-6..=1e6).contains(&x),
        }
    }

    /// The range in words, for a message.
    pub(in crate::model) fn text(self) -> &'static str {
        match self {
            Self::Positive => "a number above 0",
            Self::FromOne => "a number of at least 1",
            Self::FromTwo => "a number of at least 2",
            Self::Moderate => "a number from 0.000001 to 1000000",
        }
    }
}

/// A value as text for a message, truncated if it is long.
pub(in crate::model) fn excerpt(value: &Value) -> String {
    const LONGEST: usize = 120;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Values of a key that do not change what is computed. Absent and null are always permitted.
enum Neutral {
    Null,
    False,
    True,
    One,
}

/// Keys that change what a model computes in at least one reader of `config.json`.
const NOT_COMPUTED: [(&str, Neutral); 37] = [
    // Weights that are stored encoded.
    ("quantization_config", Neutral::Null),
    ("compression_config", Neutral::Null),
    // Weights or code from elsewhere.
    ("transformers_weights", Neutral::Null),
    ("auto_map", Neutral::Null),
    // Attention.
    ("attention_multiplier", Neutral::Null),
    ("attn_logit_softcapping", Neutral::Null),
    ("query_pre_attn_scalar", Neutral::Null),
    ("attn_scale", Neutral::Null),
    ("attention_chunk_size", Neutral::Null),
    ("alibi", Neutral::False),
    ("qk_norm", Neutral::False),
    ("use_qk_norm", Neutral::False),
    ("qkv_bias", Neutral::False),
    ("use_sliding_window", Neutral::False),
    ("use_bidirectional_attention", Neutral::False),
    ("is_causal", Neutral::True),
    ("scale_attn_weights", Neutral::True),
    ("scale_attn_by_inverse_layer_idx", Neutral::False),
    ("is_encoder_decoder", Neutral::False),
    ("add_cross_attention", Neutral::False),
    // Positions.
    ("partial_rotary_factor", Neutral::One),
    ("rotary_pct", Neutral::One),
    ("rope_interleaved", Neutral::False),
    ("no_rope_layers", Neutral::Null),
    // Scales of hidden states and logits.
    ("embedding_multiplier", Neutral::One),
    ("residual_multiplier", Neutral::One),
    ("logits_scaling", Neutral::One),
    ("logit_scale", Neutral::One),
    ("final_logit_softcapping", Neutral::Null),
    // The rest of a layer.
    ("layer_norm_elementwise_affine", Neutral::True),
    ("use_parallel_residual", Neutral::False),
    ("parallel_residual", Neutral::False),
    // Mixtures of experts.
    ("num_local_experts", Neutral::Null),
    ("num_experts", Neutral::Null),
    ("n_routed_experts", Neutral::Null),
    ("moe_intermediate_size", Neutral::Null),
    // Older versions of transformers computed projections in slices.
    ("pretraining_tp", Neutral::One),
];

/// Rejects unsupported options by key; `read`: keys that the family reads itself.
pub(in crate::model) fn refuse_not_computed(keys: &Keys, read: &[&str]) -> Result<()> {
    for key in ["attention_bias", "mlp_bias"].into_iter().filter(|key| !read.contains(key)) {
        if keys.flag(key)? {
            return Err(keys.not_computed(key, &Value::Bool(true)));
        }
    }
    for (key, neutral) in NOT_COMPUTED.iter().filter(|(key, _)| !read.contains(key)) {
        let Some(found) = keys.set(key) else { continue };
        let allowed = match neutral {
            Neutral::Null => false,
            Neutral::False => found.as_bool() == Some(false),
            Neutral::True => found.as_bool() == Some(true),
            Neutral::One => found.as_f64() == Some(1.0),
        };
        if !allowed {
            return Err(match *key {
                "quantization_config" | "compression_config" => quantised(key, found),
                _ => keys.not_computed(key, found),
            });
        }
    }
    Ok(())
}

fn quantised(key: &str, found: &Value) -> Error {
    let method = found.get("quant_method").and_then(Value::as_str).unwrap_or("an unnamed method");
    Error::Config(format!(
        "config.json: `{key}` says that the weights are quantised ({method}); expected weights in float32, float16 or \
         bfloat16: use the model before quantisation, or dequantise its weights"
    ))
}
