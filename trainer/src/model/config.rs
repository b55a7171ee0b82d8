//! `config.json` in Hugging Face's format: the model's family, its architecture and the raw JSON. Pure.

use serde_json::Value;

use crate::Result;
use crate::model::architecture::Architecture;
use crate::model::family::Family;
use crate::model::weights::{LayerWeight, Projection, WeightId};

pub(in crate::model) mod keys;
pub(in crate::model) mod rope;

use keys::Keys;

/// A checked config.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The family named by `model_type`.
    pub family: &'static Family,
    /// What the decoder computes.
    pub architecture: Architecture,
    /// The unmodified file, so that it can be written back.
    pub raw: serde_json::Map<String, Value>,
}

impl Config {
    /// Parses a config. Values of a wrong type, out of range or not supported are rejected by key; absent keys have the
    /// defaults of transformers.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) with the key, what was expected and what was found.
    pub fn from_json(raw: serde_json::Map<String, Value>) -> Result<Self> {
        let keys = Keys::new(&raw);
        let family = Family::of(&keys)?;
        keys::refuse_not_computed(&keys, family.reads)?;
        let architecture = (family.architecture)(&keys)?;
        check_token_ids(&keys, architecture.vocab_size)?;
        Ok(Self { family, architecture, raw })
    }

    /// The smaller of `max_length` and the model's context length, in tokens.
    pub fn longest(&self, max_length: i64) -> usize {
        max_length.min(self.architecture.max_position_embeddings) as usize
    }

    /// The smaller of `max_length` and the length up to which the model can sample, in tokens.
    pub fn longest_sampled(&self, max_length: i64) -> usize {
        max_length.min(self.architecture.sampling_context()) as usize
    }

    /// The name of a weight in a Hugging Face checkpoint.
    pub fn name(&self, weight: WeightId) -> String {
        (self.family.name)(weight)
    }

    /// The name of a projection's module in a Hugging Face model (`model.layers.0.self_attn.q_proj`).
    pub fn module(&self, layer: usize, projection: Projection) -> String {
        let name = self.name(WeightId::Layer(layer, LayerWeight::Weight(projection)));
        name.strip_suffix(".weight").map(str::to_owned).unwrap_or(name)
    }
}

fn check_token_ids(keys: &Keys, vocabulary: i64) -> Result<()> {
    keys.token_ids("eos_token_id", vocabulary)?;
    // transformers counts a negative padding token from the end.
    for (key, least, most) in [("bos_token_id", 0, i64::MAX), ("pad_token_id", -vocabulary, vocabulary - 1)] {
        if keys.set(key).is_some() {
            keys.whole(key, least, most)?;
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::architecture::{AttentionBias, QkNorm};
    use crate::model::rotary::scaling::Scaling;

    /// A two-layer config, small enough to compute by hand or in a test.
    pub(crate) fn tiny() -> Config {
        tiny_of("llama")
    }

    /// The same for another family.
    pub(crate) fn tiny_of(family: &str) -> Config {
        parse(serde_json::json!({
            "model_type": family, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
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
    fn smollm2_135m_has_135_million_parameters() {
        let config = parse(serde_json::json!({
            "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192,
            "tie_word_embeddings": true
        }))
        .unwrap();
        assert_eq!(config.architecture.parameters(), 134_515_008);
        assert_eq!(config.architecture.head_dim, 64);
    }

    /// The error for the tiny config with some keys changed; the value "absent" removes a key.
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
    fn unsupported_options_are_rejected_by_name() {
        for (key, value) in [
            ("model_type", json!("gptj")),
            ("model_type", json!("qwen3_moe")),
            ("model_type", json!(3)),
            ("num_local_experts", json!(8)),
            ("hidden_act", json!("quick_gelu")),
            ("hidden_act", Value::Null),
            ("sliding_window", json!(32)),
            ("layer_types", json!(["full_attention", "sliding_attention"])),
            ("layer_types", json!("full_attention")),
            ("layer_types", json!([3])),
            ("rope_scaling", json!({"rope_type": "yarn"})),
            ("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0, "a_setting_of_tomorrow": 1.0})),
            ("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0, "beta_fast": 0.5})),
            ("rope_scaling", json!({"rope_type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [1.0]})),
            ("rope_scaling", json!({"rope_type": "proportional", "factor": 4.0})),
            ("rope_scaling", json!({"rope_type": 3})),
            ("rope_scaling", json!({"type": "linear"})),
            ("rope_scaling", json!({"type": "linear", "factor": 1e300})),
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
            let known = [key, "max_position_embeddings"].into_iter().any(|key| said.contains(key));
            assert!(known && said.contains("config.json: "), "{key} {value}: {said}");
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
    fn absent_and_null_keys_have_the_defaults_of_transformers() {
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
        // The family's defaults are 8 key-value heads and windows of 4096 tokens.
        read("mistral", json!({"num_attention_heads": 8, "num_key_value_heads": "absent"}));
        read("mistral", json!({"sliding_window": "absent"}));
        assert!(said("mistral", &json!({"num_key_value_heads": null})).contains("num_key_value_heads"));
    }

    #[test]
    fn an_unknown_family_is_rejected_with_a_list_of_supported_ones() {
        let said = said("gpt_oss", &json!({}));
        assert_eq!(
            said,
            "config.json: unsupported `model_type` \"gpt_oss\" (a mixture of experts); supported are llama, smollm3, mistral, \
             qwen2, qwen3, gemma, gemma2, gemma3_text, phi3, olmo2, gpt2, gpt_neox, opt"
        );
    }

    /// The window of each layer of the tiny config with some keys changed.
    fn windows(family: &str, changes: &Value) -> Vec<Option<i64>> {
        let mut raw = tiny().raw;
        raw.insert("model_type".into(), json!(family));
        raw.extend(changes.as_object().unwrap().clone());
        Config::from_json(raw).unwrap().architecture.layers.iter().map(|layer| layer.window).collect()
    }

    #[test]
    fn windows_apply_to_the_layers_to_which_transformers_applies_them() {
        let listed = json!(["full_attention", "sliding_attention"]);
        for family in ["qwen2", "qwen3"] {
            let on = |more: Value| {
                let mut changes = json!({"use_sliding_window": true, "sliding_window": 32, "max_window_layers": 1});
                changes.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                windows(family, &changes)
            };
            assert_eq!(on(json!({})), [None, Some(32)]);
            assert_eq!(on(json!({"layer_types": ["sliding_attention", "full_attention"]})), [Some(32), None]);
            for none in [
                // As Qwen2.5 and Qwen3 are published: with the sliding window switched off.
                json!({"use_sliding_window": false}),
                json!({"max_window_layers": 2}),
                json!({"sliding_window": 64}),
                json!({"sliding_window": null}),
                json!({"layer_types": ["full_attention", "full_attention"]}),
            ] {
                assert_eq!(on(none.clone()), [None, None], "{none}");
            }
            for (changes, key) in [
                (json!({"layer_types": listed}), "layer_types"),
                (json!({"layer_types": ["full_attention"]}), "layer_types"),
                (json!({"use_sliding_window": "true"}), "use_sliding_window"),
                (json!({"use_sliding_window": null}), "use_sliding_window"),
                (json!({"max_window_layers": null}), "max_window_layers"),
                (json!({"max_window_layers": -1}), "max_window_layers"),
                (json!({"sliding_window": 1.5}), "sliding_window"),
            ] {
                let said = said(family, &changes);
                assert!(said.contains(&format!("`{key}`")), "{family} {changes}: {said}");
            }
        }
        assert_eq!(windows("mistral", &json!({"sliding_window": 32})), [Some(32); 2]);
        assert!(said("mistral", &json!({"sliding_window": 32, "layer_types": listed})).contains("`layer_types`"));
        assert!(said("mistral", &json!({"layer_types": listed})).contains("`layer_types`"));
        // Every other layer, the first included; and all but every second.
        assert_eq!(windows("gemma2", &json!({"sliding_window": 32})), [Some(32), None]);
        let gemma3 = json!({"sliding_window": 32, "sliding_window_pattern": 2});
        assert_eq!(windows("gemma3_text", &gemma3), [Some(32), None]);
        assert!(said("llama", &json!({"use_sliding_window": true})).contains("`use_sliding_window`"));
    }

    #[test]
    fn rotary_scaling_extends_the_context() {
        let context = |family: &str, scaling: Value| {
            let mut raw = tiny().raw;
            raw.insert("model_type".into(), json!(family));
            raw.insert("rope_scaling".into(), scaling);
            let architecture = Config::from_json(raw).unwrap().architecture;
            (architecture.max_position_embeddings, architecture.sampling_context())
        };
        assert_eq!(context("llama", json!({"type": "linear", "factor": 4.0})), (256, 256));
        assert_eq!(context("llama", json!({"type": "dynamic", "factor": 4.0})), (256, 64));
        let yarn = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32});
        assert_eq!(context("qwen2", yarn), (128, 128));
        let factors = json!([1.0, 2.0]);
        let long = json!({"type": "longrope", "short_factor": factors, "long_factor": factors,
            "original_max_position_embeddings": 32});
        assert_eq!(context("llama", long.clone()), (64, 32));
        let mut raw = tiny().raw;
        raw.insert("rope_scaling".into(), long);
        let config = Config::from_json(raw).unwrap();
        assert_eq!((config.longest(50), config.longest_sampled(50), config.longest_sampled(20)), (50, 32, 20));
    }

    #[test]
    fn each_family_has_the_weights_that_transformers_gives_it() {
        let architecture = |family: &str, changes: Value| {
            let mut raw = tiny().raw;
            raw.insert("model_type".into(), json!(family));
            raw.extend(changes.as_object().unwrap().clone());
            Config::from_json(raw).unwrap().architecture
        };
        let llama = architecture("llama", json!({}));
        let qwen2 = architecture("qwen2", json!({}));
        assert_eq!(qwen2, Architecture { attention_bias: AttentionBias::QueryKeyValue, ..llama.clone() });
        assert_eq!(qwen2.parameters() - llama.parameters(), 2 * (16 + 8 + 8));
        // The head width defaults to 128.
        let qwen3 = architecture("qwen3", json!({}));
        assert_eq!(
            qwen3,
            Architecture { qk_norm: QkNorm::PerHead, head_dim: 128, rotary: qwen3.rotary.clone(), ..llama.clone() }
        );
        let biased = architecture("qwen3", json!({"attention_bias": true, "head_dim": 6}));
        assert_eq!((biased.attention_bias, biased.head_dim), (AttentionBias::All, 6));
        assert!(said("qwen2", &json!({"attention_bias": true})).contains("`attention_bias`"));
        // The default of 32 key-value heads cannot be shared by 4 query heads.
        assert!(said("qwen2", &json!({"num_key_value_heads": "absent"})).contains("found 32"));
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
            Config::from_json(raw).map(|config| {
                let rotary = &config.architecture.rotary[0];
                (rotary.theta, rotary.scaling != Scaling::None)
            })
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
