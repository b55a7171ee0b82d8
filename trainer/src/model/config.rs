//! `config.json` of the Llama family (Touvron et al., 2023), under Hugging Face's names. Pure.

use serde_json::Value;

use crate::{Error, Result};

mod keys;
mod rope;

use keys::{Keys, Range};

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
#[derive(Clone, Debug, PartialEq)]
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

    /// Reads a config. What is of a wrong type, out of range or not computed is refused by its key; what transformers has a
    /// default for has the same default.
    ///
    /// # Errors
    /// [`Error::Config`] with the key, what was expected and what was found.
    pub fn from_json(raw: serde_json::Map<String, Value>) -> Result<Self> {
        let keys = Keys::new(&raw);
        let family = raw.get("model_type").and_then(Value::as_str).unwrap_or("(none)");
        if !matches!(family, "llama" | "mistral") {
            return Err(Error::Config(format!(
                "config.json: expected model_type 'llama' or 'mistral', found '{family}'; other families are not built yet"
            )));
        }
        let mistral = family == "mistral";
        keys::refuse_not_computed(&keys)?;
        let hidden_size = keys.required("hidden_size", 1, WIDEST)?;
        let heads = keys.required("num_attention_heads", 1, WIDEST)?;
        if !mistral && hidden_size % heads != 0 {
            return Err(keys.wrong(
                "hidden_size",
                &format!("a multiple of `num_attention_heads` ({heads})"),
                &hidden_size.into(),
            ));
        }
        let max_position_embeddings = keys.required("max_position_embeddings", 2, LONGEST_CONTEXT)?;
        refuse_sliding_window(&keys, mistral, max_position_embeddings)?;
        let vocab_size = keys.required("vocab_size", 1, LARGEST_VOCABULARY)?;
        keys.token_ids("eos_token_id", vocab_size)?;
        // transformers counts a negative padding token from the end.
        for (key, least, most) in [("bos_token_id", 0, i64::MAX), ("pad_token_id", -vocab_size, vocab_size - 1)] {
            if keys.set(key).is_some() {
                keys.whole(key, least, most)?;
            }
        }
        let (rope_theta, rope_scaling) = rope::read(&keys)?;
        Ok(Self {
            hidden_size,
            intermediate_size: keys.required("intermediate_size", 1, WIDEST)?,
            num_hidden_layers: keys.required("num_hidden_layers", 1, DEEPEST)?,
            num_attention_heads: heads,
            num_key_value_heads: key_value_heads(&keys, mistral, heads)?,
            head_dim: head_dim(&keys, hidden_size, heads)?,
            vocab_size,
            rms_norm_eps: keys.number("rms_norm_eps", Range::Positive)?.unwrap_or(1e-6),
            rope_theta,
            rope_scaling,
            max_position_embeddings,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?,
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

/// Bounds of what a file may say, far beyond every model there is: no product of sizes overflows, and no damaged number asks
/// for more memory than a machine has before a tensor's shape contradicts it.
const WIDEST: i64 = 1 << 20;
const DEEPEST: i64 = 1 << 12;
const LARGEST_VOCABULARY: i64 = 1 << 24;
const LONGEST_CONTEXT: i64 = 1 << 24;
/// The sliding window that transformers gives a Mistral whose config has none.
const MISTRAL_WINDOW: i64 = 4096;

/// The key and value heads, a divisor of the query heads. Without the key transformers takes as many as there are query
/// heads, and 8 in the Mistral family.
fn key_value_heads(keys: &Keys, mistral: bool, heads: i64) -> Result<i64> {
    let found = match keys.get("num_key_value_heads") {
        Some(Value::Null) if !mistral => heads,
        None => {
            if mistral {
                8
            } else {
                heads
            }
        }
        Some(_) => keys.required("num_key_value_heads", 1, WIDEST)?,
    };
    if heads % found != 0 {
        let expected = format!("a divisor of `num_attention_heads` ({heads})");
        return Err(keys.wrong("num_key_value_heads", &expected, &found.into()));
    }
    Ok(found)
}

/// The width of a head. Rotary positions turn pairs of its numbers.
fn head_dim(keys: &Keys, hidden_size: i64, heads: i64) -> Result<i64> {
    let found = match keys.set("head_dim") {
        None => hidden_size / heads,
        Some(_) => keys.required("head_dim", 1, WIDEST)?,
    };
    if found < 2 || found % 2 != 0 || heads * found > WIDEST {
        let expected = format!("an even number of at least 2, {heads} times which is at most {WIDEST},");
        return Err(keys.wrong("head_dim", &expected, &found.into()));
    }
    Ok(found)
}

/// Refuses a window that hides tokens of the context. Without the key the Mistral family of transformers has one of 4096.
fn refuse_sliding_window(keys: &Keys, mistral: bool, context: i64) -> Result<()> {
    let stated = match keys.set("sliding_window") {
        None => None,
        Some(_) => keys.whole("sliding_window", 1, i64::MAX)?,
    };
    match stated {
        Some(window) if window < context => Err(keys.not_computed("sliding_window", &window.into())),
        None if mistral && keys.get("sliding_window").is_none() && MISTRAL_WINDOW < context => {
            Err(Error::Config(format!(
                "config.json: `sliding_window` is absent, which means {MISTRAL_WINDOW} in this family, and \
                 `max_position_embeddings` is {context}; the decoder does not support sliding windows: set it to null \
                 if the model has none"
            )))
        }
        _ => Ok(()),
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
    use serde_json::json;

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

    /// What is said of the tiny config with some keys changed; a key is taken out where its value is the text "absent".
    fn said(family: &str, changes: &Value) -> String {
        let mut raw = tiny().raw;
        raw.insert("model_type".into(), json!(family));
        if family == "mistral" {
            raw.insert("sliding_window".into(), Value::Null);
        }
        for (key, value) in changes.as_object().unwrap() {
            if value == "absent" {
                raw.remove(key);
            } else {
                raw.insert(key.clone(), value.clone());
            }
        }
        Config::from_json(raw).map_or_else(|e| e.to_string(), |_| "read".to_owned())
    }

    #[test]
    fn what_the_decoder_does_not_compute_is_refused_by_name() {
        for (key, value) in [
            ("model_type", json!("gpt2")),
            ("model_type", json!(3)),
            ("attention_bias", json!(true)),
            ("mlp_bias", json!(true)),
            ("hidden_act", json!("gelu")),
            ("hidden_act", Value::Null),
            ("sliding_window", json!(32)),
            ("layer_types", json!(["full_attention", "sliding_attention"])),
            ("layer_types", json!("full_attention")),
            ("layer_types", json!([3])),
            ("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0})),
            ("rope_scaling", json!({"rope_type": 3})),
            ("rope_scaling", json!({"type": "linear", "factor": 2.0})),
            ("rope_scaling", json!({"factor": 4.0})),
            ("rope_scaling", json!([])),
            ("rope_parameters", json!({"full_attention": {"rope_type": "default", "rope_theta": 5e5}})),
            ("partial_rotary_factor", json!(0.5)),
            ("rope_interleaved", json!(true)),
            ("pretraining_tp", json!(2)),
            ("attn_logit_softcapping", json!(50.0)),
            ("final_logit_softcapping", json!(30.0)),
            ("logits_scaling", json!(8.0)),
            ("embedding_multiplier", json!(12.0)),
            ("attention_multiplier", json!(0.5)),
            ("use_sliding_window", json!(true)),
            ("is_causal", json!(false)),
            ("quantization_config", json!({"quant_method": "gptq", "bits": 4})),
            ("quantization_config", json!({"quant_method": "bitsandbytes", "load_in_4bit": true})),
            ("quantization_config", json!({})),
            ("compression_config", json!({"format": "pack-quantized"})),
            ("transformers_weights", json!("other.safetensors")),
            ("auto_map", json!({"AutoModelForCausalLM": "modeling_other.Other"})),
        ] {
            let said = said("llama", &json!({key: value}));
            assert!(said.contains(&format!("`{key}")) || said.contains(key), "{key} {value}: {said}");
            assert_ne!(said, "read", "{key} {value}");
        }
        let gptq = said("llama", &json!({"quantization_config": {"quant_method": "gptq"}}));
        assert!(gptq.contains("quantised (gptq)"), "{gptq}");
    }

    #[test]
    fn a_value_of_a_wrong_type_or_out_of_range_is_an_error_and_never_a_default() {
        let llama3 = |key: &str, value: Value| {
            let mut scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
            scaling[key] = value;
            json!({"rope_scaling": scaling})
        };
        let sizes = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"];
        let mut cases: Vec<(String, Value)> = Vec::new();
        for key in sizes.into_iter().chain(["max_position_embeddings"]) {
            for value in [json!("16"), json!(-1), json!(0), json!(16.0), json!(true), json!([16]), Value::Null] {
                cases.push((key.to_owned(), json!({key: value})));
            }
            cases.push((key.to_owned(), json!({key: 1i64 << 62})));
            cases.push((key.to_owned(), json!({key: u64::MAX})));
            cases.push((key.to_owned(), json!({key: "absent"})));
        }
        for (key, values) in [
            ("max_position_embeddings", json!([1])),
            ("hidden_size", json!([17])),
            ("rope_theta", json!(["500000.0", 0, -1, 0.5, true, null, [1e4], {}])),
            ("head_dim", json!(["32", -24, 0, 3, 1, 24.5, true, 1_048_576])),
            ("rms_norm_eps", json!(["x", "1e-5", -1, 0, true, null, [1e-5]])),
            ("num_key_value_heads", json!(["2", -2, 0, 3, 8, 2.5, true])),
            ("attention_bias", json!(["true", 1, null])),
            ("mlp_bias", json!(["false", 0, null])),
            ("tie_word_embeddings", json!(["true", 1, null])),
            ("eos_token_id", json!(["0", -5, 32, 1_000_000_000_000i64, 1.5, [0, 128_009], [0, null], true])),
            ("bos_token_id", json!(["1", 1.5, -1, [1], true])),
            ("pad_token_id", json!(["1", 1.5, 32, -33, [1]])),
            ("sliding_window", json!(["8", 8.5, -1, 0])),
            ("rope_scaling", json!(["x", true, 2.0])),
            ("rope_parameters", json!(["x", [], {"rope_theta": "1e4"}, {"rope_type": "default", "rope_theta": 0}])),
        ] {
            cases.extend(values.as_array().unwrap().iter().map(|value| (key.to_owned(), json!({key: value}))));
        }
        for key in ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"] {
            for value in [json!(0.0), json!(-8.0), json!("8"), Value::Null] {
                cases.push((key.to_owned(), llama3(key, value)));
            }
        }
        cases.push(("high_freq_factor".to_owned(), llama3("low_freq_factor", json!(4.0))));
        for (key, changes) in cases {
            let said = said("llama", &changes);
            assert!(
                said.contains("config.json: ") && said.contains(&key) && said.contains("found"),
                "{changes}: {said}"
            );
        }
    }

    #[test]
    fn what_is_absent_or_null_is_what_transformers_takes_it_for() {
        let read = |family: &str, changes: Value| assert_eq!(said(family, &changes), "read", "{family} {changes}");
        let nullable = ["head_dim", "sliding_window", "rope_scaling", "rope_parameters", "pretraining_tp"];
        for key in nullable.into_iter().chain(["eos_token_id", "bos_token_id", "pad_token_id"]) {
            read("llama", json!({key: null}));
            read("llama", json!({key: "absent"}));
        }
        for key in ["num_key_value_heads", "rms_norm_eps", "rope_theta", "tie_word_embeddings", "quantization_config"] {
            read("llama", json!({key: "absent"}));
        }
        read("llama", json!({"num_key_value_heads": null}));
        read(
            "llama",
            json!({"rope_scaling": {}, "layer_types": ["full_attention", "full_attention"], "sliding_window": 4096}),
        );
        read(
            "llama",
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
        );
        // A Mistral of 8 key-value heads and windows of 4096 is what the family has by default.
        read("mistral", json!({"num_attention_heads": 8, "num_key_value_heads": "absent"}));
        read("mistral", json!({"sliding_window": "absent"}));
        let wide = json!({"sliding_window": "absent", "max_position_embeddings": 8192});
        assert!(said("mistral", &wide).contains("`sliding_window` is absent, which means 4096"));
        assert!(said("mistral", &json!({"num_key_value_heads": null})).contains("num_key_value_heads"));
    }

    #[test]
    fn the_rotary_settings_of_both_forms_must_agree() {
        let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64});
        let mut both = llama3.clone();
        both["rope_theta"] = json!(5e5);
        let theta = |changes: Value| {
            let mut raw = tiny().raw;
            raw.extend(changes.as_object().unwrap().clone());
            Config::from_json(raw).map(|config| (config.rope_theta, config.rope_scaling.is_some()))
        };
        let old = json!({"rope_theta": 5e5, "rope_scaling": llama3});
        assert_eq!(theta(old.clone()).unwrap(), (5e5, true));
        assert_eq!(theta(json!({"rope_parameters": both})).unwrap(), (5e5, true));
        assert_eq!(
            theta(json!({"rope_theta": 5e5, "rope_scaling": llama3, "rope_parameters": both})).unwrap(),
            (5e5, true)
        );
        let error = theta(json!({"rope_theta": 1e4, "rope_scaling": llama3, "rope_parameters": both})).unwrap_err();
        assert!(error.to_string().contains("rope_parameters"), "{error}");
        let outside = theta(json!({"rope_parameters": both, "original_max_position_embeddings": 32})).unwrap_err();
        assert!(outside.to_string().contains("`original_max_position_embeddings`"), "{outside}");
    }
}
