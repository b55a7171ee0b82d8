//! `config.json` of the Llama family (Touvron et al., 2023), under Hugging Face's names. Pure.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Result};

/// Sizes and constants of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width inside the MLP.
    pub intermediate_size: i64,
    /// Layers.
    pub num_hidden_layers: i64,
    /// Query heads.
    pub num_attention_heads: i64,
    /// Key and value heads; a divisor of `num_attention_heads`.
    pub num_key_value_heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Rows of the embedding.
    pub vocab_size: i64,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Llama 3.1's frequency scaling, when the model has it.
    pub rope_scaling: Option<Llama3Scaling>,
    /// Longest sequence in tokens.
    pub max_position_embeddings: i64,
    /// Whether the head's weight is the embedding's.
    pub tie_word_embeddings: bool,
    /// The file itself: what we write back is what we read.
    pub raw: serde_json::Map<String, Value>,
}

/// Frequency scaling of Llama 3.1.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct Llama3Scaling {
    /// Wavelengths beyond the low-frequency bound are stretched by this.
    pub factor: f64,
    /// `original / low_freq_factor` is the wavelength from which frequencies are stretched in full.
    pub low_freq_factor: f64,
    /// `original / high_freq_factor` is the wavelength up to which frequencies stay.
    pub high_freq_factor: f64,
    /// Context that the model was first trained with.
    pub original_max_position_embeddings: f64,
}

impl Config {
    /// The longest sequence, in tokens, that is both within a limit and within the model's context.
    pub fn longest(&self, max_length: i64) -> usize {
        max_length.min(self.max_position_embeddings) as usize
    }

    /// Reads a config and refuses, by name, what the decoder does not compute.
    pub fn from_json(raw: serde_json::Map<String, Value>) -> Result<Self> {
        let family = raw.get("model_type").and_then(Value::as_str).unwrap_or("(none)");
        if !matches!(family, "llama" | "mistral") {
            return Err(Error::Config(format!(
                "config.json: expected model_type 'llama' or 'mistral', found '{family}'; other families are not built yet"
            )));
        }
        let refuse = |key: &str, found: &Value| {
            Error::Config(format!("config.json: `{key}` is {found}, which the decoder does not compute"))
        };
        for key in ["attention_bias", "mlp_bias"] {
            if let Some(found) = raw.get(key).filter(|v| v.as_bool() == Some(true)) {
                return Err(refuse(key, found));
            }
        }
        if let Some(found) = raw.get("hidden_act").filter(|v| v.as_str() != Some("silu")) {
            return Err(refuse("hidden_act", found));
        }
        if let Some(found) = raw.get("sliding_window").filter(|v| !v.is_null()) {
            return Err(refuse("sliding_window", found));
        }
        let size = |key: &str| match raw.get(key).and_then(Value::as_i64) {
            Some(n) if n > 0 => Ok(n),
            _ => Err(Error::Config(format!(
                "config.json: expected a positive integer in `{key}`, found {}",
                raw.get(key).unwrap_or(&Value::Null)
            ))),
        };
        let number = |key: &str, default: f64| raw.get(key).and_then(Value::as_f64).unwrap_or(default);
        let (hidden_size, heads) = (size("hidden_size")?, size("num_attention_heads")?);
        let key_value_heads = size("num_key_value_heads").unwrap_or(heads);
        if heads % key_value_heads != 0 {
            return Err(Error::Config(format!(
                "config.json: `num_attention_heads` ({heads}) must be a multiple of `num_key_value_heads` ({key_value_heads})"
            )));
        }
        // transformers 5 writes the rotary settings as one object, earlier versions as two keys.
        let rope = raw.get("rope_parameters").filter(|v| v.is_object());
        let scaling = rope.or_else(|| raw.get("rope_scaling").filter(|v| v.is_object()));
        let rope_type = scaling.and_then(|s| s.get("rope_type").or_else(|| s.get("type"))).and_then(Value::as_str);
        let rope_scaling = match (scaling, rope_type) {
            (None, _) | (_, None | Some("default")) => None,
            (Some(s), Some("llama3")) => Some(
                serde_json::from_value(s.clone())
                    .map_err(|e| Error::Config(format!("config.json: `rope_scaling`: {e}")))?,
            ),
            (Some(s), Some(_)) => return Err(refuse("rope_scaling", s)),
        };
        let rope_theta = rope.and_then(|r| r.get("rope_theta")).and_then(Value::as_f64);
        Ok(Self {
            hidden_size,
            intermediate_size: size("intermediate_size")?,
            num_hidden_layers: size("num_hidden_layers")?,
            num_attention_heads: heads,
            num_key_value_heads: key_value_heads,
            head_dim: size("head_dim").unwrap_or(hidden_size / heads),
            vocab_size: size("vocab_size")?,
            rms_norm_eps: number("rms_norm_eps", 1e-6),
            rope_theta: rope_theta.unwrap_or_else(|| number("rope_theta", 10_000.0)),
            rope_scaling,
            max_position_embeddings: size("max_position_embeddings")?,
            tie_word_embeddings: raw.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
            raw,
        })
    }

    /// Rotary frequencies, one for each pair of a head's dimensions: `theta^(-2i/d)`, scaled as the config says.
    pub fn rotary_frequencies(&self) -> Vec<f64> {
        let dim = self.head_dim as f64;
        (0..self.head_dim / 2)
            .map(|i| {
                let frequency = self.rope_theta.powf(-2.0 * i as f64 / dim);
                self.rope_scaling.as_ref().map_or(frequency, |s| s.scale(frequency))
            })
            .collect()
    }

    /// Number of weights, the head's counted once when it is tied.
    pub fn parameters(&self) -> i64 {
        let (d, q, kv) =
            (self.hidden_size, self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let layer = d * (2 * q + 2 * kv) + 3 * d * self.intermediate_size + 2 * d;
        let embeddings = self.vocab_size * d * if self.tie_word_embeddings { 1 } else { 2 };
        embeddings + self.num_hidden_layers * layer + d
    }
}

impl Llama3Scaling {
    fn scale(&self, frequency: f64) -> f64 {
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        let original = self.original_max_position_embeddings;
        if wavelength < original / self.high_freq_factor {
            frequency
        } else if wavelength > original / self.low_freq_factor {
            frequency / self.factor
        } else {
            let smooth =
                (original / wavelength - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
            (1.0 - smooth) * frequency / self.factor + smooth * frequency
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A two-layer config, small enough to compute by hand or in a test.
    pub(crate) fn tiny() -> Config {
        parse(serde_json::json!({
            "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "max_position_embeddings": 64, "tie_word_embeddings": true
        }))
        .unwrap()
    }

    fn parse(value: Value) -> Result<Config> {
        let Value::Object(map) = value else { panic!("an object") };
        Config::from_json(map)
    }

    #[test]
    fn the_parameter_count_of_smollm2_135m_is_its_name() {
        let config = parse(serde_json::json!({
            "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192,
            "tie_word_embeddings": true
        }))
        .unwrap();
        assert_eq!(config.parameters(), 134_515_008);
        assert_eq!(config.head_dim, 64);
    }

    #[test]
    fn what_the_decoder_does_not_compute_is_refused_by_name() {
        for (key, value) in [
            ("model_type", serde_json::json!("gpt2")),
            ("attention_bias", serde_json::json!(true)),
            ("hidden_act", serde_json::json!("gelu")),
            ("sliding_window", serde_json::json!(4096)),
            ("rope_scaling", serde_json::json!({"rope_type": "yarn", "factor": 4.0})),
            ("hidden_size", serde_json::json!(-1)),
        ] {
            let mut raw = tiny().raw;
            raw.insert(key.into(), value);
            let error = Config::from_json(raw).unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
    }
}
