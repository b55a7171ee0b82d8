//! PEFT directories of LoRA adapters (`adapter_config.json`, `adapter_model.safetensors`): reading and writing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use plumbline_crds::training::Adapter;
use serde_json::{Map, Value};
use tch::{Kind, Tensor};

use crate::load::hugging_face::read_object;
use crate::load::tensor_file::{TensorFile, write_safetensors};
use crate::model::config::Config;
use crate::model::decoder::Decoder;
use crate::model::linear::LowRank;
use crate::model::lora;
use crate::model::weights::Projection;
use crate::{Error, Result};

/// Describes the adapter; its presence identifies a PEFT directory.
pub const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Attaches the adapter of a PEFT directory to the decoder, in Float32 and without gradients. The decoder must have the
/// weights that the adapter was trained on, and no adapter yet.
///
/// # Errors
/// [`Error::Config`] when the adapter requests an unsupported computation, with its key in `adapter_config.json`;
/// [`Error::Data`] when a file or a tensor is missing, unexpected or does not match the decoder.
pub fn attach(decoder: &mut Decoder, folder: &Path) -> Result<()> {
    let path = folder.join(CONFIG);
    let config = PeftConfig::from_json(&read_object(&path)?, &decoder.config)
        .map_err(|e| Error::Config(format!("{}: {e}", path.display())))?;
    let file = TensorFile::open(&folder.join(WEIGHTS))?;
    let mut left_over: BTreeSet<&str> = file.names().collect();
    for &layer in &config.layers {
        for &target in &config.targets {
            let [a, b] = lora::adapter_names(&decoder.config, layer, target);
            let Some(projection) = decoder.layers[layer].projection_mut(target) else { continue };
            let (device, (out, inputs)) = (projection.weight.device(), projection.features());
            let mut take = |name: &str, shape: [i64; 2]| {
                left_over.remove(name);
                Ok::<_, Error>(file.weight(name, &shape, Kind::Float)?.to_device(device))
            };
            projection.adapter = Some(LowRank {
                a: take(&a, [config.rank, inputs])?,
                b: take(&b, [out, config.rank])?,
                scale: config.alpha / config.rank as f64,
                dropout: config.dropout,
            });
        }
    }
    match left_over.first() {
        None => Ok(()),
        Some(name) => Err(Error::Data(format!(
            "{}: '{name}' and {} more tensors match no projection that {CONFIG} names",
            file.path().display(),
            left_over.len() - 1
        ))),
    }
}

/// Writes the decoder's adapter as a PEFT directory that `PeftModel` loads onto the base model. `base_model`: its URI.
pub fn save(decoder: &Decoder, adapter: &Adapter, base_model: &str, folder: &Path) -> Result<()> {
    let named: BTreeMap<String, Tensor> =
        lora::parameters(decoder).into_iter().map(|(name, t)| (name, t.detach())).collect();
    write_safetensors(&folder.join(WEIGHTS), &named)?;
    // transformers names repositories and paths without a scheme.
    let name = ["hf://", "file://"].iter().find_map(|scheme| base_model.strip_prefix(scheme)).unwrap_or(base_model);
    let config = lora::peft_config(decoder, adapter, name, "CAUSAL_LM")?;
    let path = folder.join(CONFIG);
    let text = serde_json::to_vec_pretty(&config).map_err(|e| Error::Failed(format!("{}: {e}", path.display())))?;
    fs::write(&path, text).map_err(|e| Error::disk(&path, e))
}

/// The supported part of an adapter's config.
struct PeftConfig {
    rank: i64,
    alpha: f64,
    dropout: f64,
    targets: BTreeSet<Projection>,
    layers: BTreeSet<usize>,
}

/// Keys of PEFT's `LoraConfig` that do not change what a saved adapter computes on a decoder.
const WITHOUT_EFFECT: [&str; 9] = [
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "peft_version",
    "megatron_core",
    "qalora_group_size",
    "eva_config",
    "runtime_config",
];

/// Initialisations of A and B that do not change the base model's weights.
const DRAWN: [&str; 3] = ["gaussian", "orthogonal", "eva"];

impl PeftConfig {
    /// Parses a config for a model. Unknown keys that are set are rejected: they may change the result.
    fn from_json(raw: &Map<String, Value>, model: &Config) -> Result<Self, String> {
        for (key, value) in raw {
            let computed = match key.as_str() {
                "peft_type" => value == "LORA",
                "task_type" => value.is_null() || value == "CAUSAL_LM",
                "bias" => value == "none",
                "layers_pattern" => is_unset(value) || value == "layers",
                // How the base model stores its weights; PEFT corrects a wrong value.
                "fan_in_fan_out" => is_unset(value) || model.architecture.transposed_projections,
                "init_lora_weights" => {
                    value.is_null() || value.is_boolean() || DRAWN.iter().any(|known| value == known)
                }
                "r" | "lora_alpha" | "lora_dropout" | "target_modules" | "layers_to_transform" => true,
                key => WITHOUT_EFFECT.contains(&key) || is_unset(value),
            };
            if !computed {
                return Err(format!(
                    "`{key}` is {value}, which is not supported; merge the adapter into its base model with PEFT"
                ));
            }
        }
        let number = |key: &str, most: f64| {
            let value = raw.get(key).unwrap_or(&Value::Null);
            let within = value.as_f64().filter(|x| (0.0..=most).contains(x));
            within.ok_or_else(|| format!("expected a number from 0 to {most} in `{key}`, found {value}"))
        };
        if !raw.contains_key("peft_type") {
            return Err("expected `peft_type` LORA, found none".into());
        }
        let rank = raw.get("r").and_then(Value::as_i64).filter(|r| *r > 0);
        Ok(Self {
            rank: rank.ok_or("expected a positive integer in `r`")?,
            alpha: number("lora_alpha", 1e6)?,
            dropout: if raw.contains_key("lora_dropout") { number("lora_dropout", 1.0)? } else { 0.0 },
            targets: targets(raw.get("target_modules").unwrap_or(&Value::Null), model)?,
            layers: layers(
                raw.get("layers_to_transform").unwrap_or(&Value::Null),
                model.architecture.num_hidden_layers as usize,
            )?,
        })
    }
}

/// Whether a value means the same as an absent key.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::Number(_) | Value::String(_) => false,
    }
}

fn targets(value: &Value, model: &Config) -> Result<BTreeSet<Projection>, String> {
    let names = value.as_array().filter(|names| !names.is_empty());
    let names = names.ok_or_else(|| format!("expected a list of projections in `target_modules`, found {value}"))?;
    let modules: Vec<lora::Module> = lora::modules(model).collect();
    let mut found = BTreeSet::new();
    for name in names {
        let named = |module: &&lora::Module| name.as_str().is_some_and(|name| module.is_named(name));
        let matched: Vec<Projection> = modules.iter().filter(named).map(|module| module.projection).collect();
        if matched.is_empty() {
            let known = lora::known_modules(model);
            return Err(format!("`target_modules` names {name}; adapters are computed on {known}"));
        }
        found.extend(matched);
    }
    Ok(found)
}

/// The layers with adapters, from `layers_to_transform`: all, one, or a list.
fn layers(value: &Value, count: usize) -> Result<BTreeSet<usize>, String> {
    let listed = match value {
        Value::Null => return Ok((0..count).collect()),
        Value::Array(items) => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    listed
        .iter()
        .map(|item| {
            let layer = item.as_u64().map(|n| n as usize).filter(|n| *n < count);
            layer.ok_or_else(|| {
                format!("`layers_to_transform` names {item}; the base model has layers 0 to {}", count - 1)
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::hugging_face::ModelFolder;
    use crate::load::tensor_file::read_safetensors;
    use crate::model::attention::Context;
    use crate::model::decoder::tests::random;
    use crate::model::heads;
    use crate::model::linear::Adapters;
    use crate::model::packed::Packed;
    use plumbline_crds::training::Precision;
    use serde_json::json;
    use tch::Device;

    /// Saves the decoder with its adapter merged as a model directory, and loads it again.
    fn written(decoder: &Decoder, folder: &Path) -> Decoder {
        fs::create_dir_all(folder).unwrap();
        write_safetensors(&folder.join("model.safetensors"), &lora::merged_weights(decoder)).unwrap();
        fs::write(folder.join("config.json"), Value::Object(decoder.config.raw.clone()).to_string()).unwrap();
        ModelFolder::open(folder).unwrap().decoder(Precision::Float32, Device::Cpu).unwrap()
    }

    /// A decoder with a trained adapter, saved as a PEFT directory, and its base model.
    fn saved(adapter: &Value, folder: &Path) -> (Decoder, Decoder) {
        let adapter: Adapter = serde_json::from_value(adapter.clone()).unwrap();
        let mut tuned = random(11);
        let base = written(&tuned, &folder.join("base"));
        lora::attach(&mut tuned, &adapter, 5).unwrap();
        for (name, b) in lora::parameters(&tuned) {
            if name.contains("lora_B") {
                tch::no_grad(|| b.shallow_clone().copy_(&(Tensor::randn_like(&b) * 0.3)));
            }
        }
        save(&tuned, &adapter, "hf://org/base", folder).unwrap();
        (tuned, base)
    }

    fn logits(decoder: &Decoder, adapters: Adapters) -> Tensor {
        let batch = Packed::new(&[&[3i64, 1, 4, 1, 5, 9, 2, 6], &[2, 7, 1, 8, 2, 8, 1, 8]]);
        tch::no_grad(|| heads::logits(decoder, &decoder.forward(&batch, &mut Context::Whole, adapters)))
    }

    fn difference(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn a_saved_adapter_equals_the_tuned_model_and_its_merged_weights() {
        for adapter in [
            json!({"rank": 3, "alpha": 5.0}),
            json!({"rank": 2, "alpha": 4.0, "targets": ["Attention", "up_proj"]}),
            json!({"rank": 2, "alpha": 4.0, "dropout": 0.5, "targets": ["down_proj", "q_proj"], "lastLayers": 1}),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (tuned, mut base) = saved(&adapter, folder.path());
            let (expected, before) = (logits(&tuned, Adapters::On), logits(&base, Adapters::On));
            assert!(difference(&expected, &before) > 0.1, "the adapter must matter");
            attach(&mut base, folder.path()).unwrap();
            assert_eq!(logits(&base, Adapters::On), expected);
            assert_eq!(logits(&base, Adapters::Off), before, "the base model is left as it was");

            let merged = written(&tuned, &folder.path().join("merged"));
            let found = difference(&logits(&merged, Adapters::Off), &expected);
            assert!(found < 1e-5, "{adapter}: differs by {found}");
        }
    }

    #[test]
    fn the_base_model_is_named_as_in_transformers() {
        let folder = tempfile::tempdir().unwrap();
        let (tuned, _) = saved(&json!({}), folder.path());
        let name = || read_object(&folder.path().join(CONFIG)).unwrap()["base_model_name_or_path"].clone();
        assert_eq!(name(), "org/base");
        let adapter: Adapter = serde_json::from_value(json!({})).unwrap();
        for (uri, expected) in [("file:///models/base", "/models/base"), ("../base", "../base")] {
            save(&tuned, &adapter, uri, folder.path()).unwrap();
            assert_eq!(name(), expected);
        }
    }

    /// The error for a directory after a change of its config.
    fn refusal(key: &str, value: Value) -> String {
        let folder = tempfile::tempdir().unwrap();
        let (_, mut base) = saved(&json!({"rank": 2, "targets": ["q_proj"]}), folder.path());
        let path = folder.path().join(CONFIG);
        let mut config = read_object(&path).unwrap();
        config.insert(key.into(), value);
        fs::write(&path, Value::Object(config).to_string()).unwrap();
        attach(&mut base, folder.path()).map_or_else(|e| e.to_string(), |()| "attached".to_owned())
    }

    #[test]
    fn unsupported_settings_are_rejected_by_name() {
        for (key, value) in [
            ("peft_type", json!("IA3")),
            ("task_type", json!("SEQ_CLS")),
            ("bias", json!("all")),
            ("use_rslora", json!(true)),
            ("use_dora", json!(true)),
            ("lora_bias", json!(true)),
            ("fan_in_fan_out", json!(true)),
            ("modules_to_save", json!(["lm_head"])),
            ("rank_pattern", json!({"q_proj": 4})),
            ("alpha_pattern", json!({"q_proj": 4})),
            ("exclude_modules", json!(["k_proj"])),
            ("layer_replication", json!([[0, 1]])),
            ("init_lora_weights", json!("pissa")),
            ("target_modules", json!(["q_proj", "lm_head"])),
            ("target_modules", json!("all-linear")),
            ("layers_to_transform", json!([1, 2])),
            ("layers_pattern", json!("blocks")),
            ("r", json!(0)),
            ("lora_alpha", json!("16")),
            ("lora_alpha", json!(-16)),
            ("lora_dropout", json!(1.5)),
            ("lora_dropout", json!("0.1")),
            ("lora_dropout", Value::Null),
            ("a_key_of_tomorrow", json!("on")),
        ] {
            let said = refusal(key, value.clone());
            assert!(said.contains(CONFIG) && said.contains(&format!("`{key}`")), "{key} {value}: {said}");
        }
    }

    #[test]
    fn settings_without_effect_are_accepted() {
        for (key, value) in [
            ("use_rslora", json!(false)),
            ("modules_to_save", json!([])),
            ("rank_pattern", json!({})),
            ("peft_version", json!("0.21.2")),
            ("runtime_config", json!({"ephemeral_gpu_offload": false})),
            ("qalora_group_size", json!(16)),
            ("megatron_core", json!("megatron.core")),
            ("init_lora_weights", json!("gaussian")),
            ("layers_to_transform", json!([1, 0])),
        ] {
            assert_eq!(refusal(key, value), "attached", "{key}");
        }
    }

    #[test]
    fn missing_unexpected_and_misshapen_tensors_are_named() {
        for (key, value, expected) in [
            ("target_modules", json!(["q_proj", "v_proj"]), "v_proj.lora_A.weight' is missing"),
            ("layers_to_transform", json!(1), "layers.0.self_attn.q_proj.lora_A.weight' and 1 more tensors"),
            ("target_modules", json!(["k_proj"]), "k_proj.lora_A.weight' is missing"),
            ("r", json!(3), "q_proj.lora_A.weight' has shape [2, 16]; expected [3, 16]"),
        ] {
            let said = refusal(key, value);
            assert!(said.contains(WEIGHTS) && said.contains(expected), "{said}");
        }
        let folder = tempfile::tempdir().unwrap();
        let (_, mut base) = saved(&json!({"rank": 2, "targets": ["q_proj"]}), folder.path());
        let path = folder.path().join(WEIGHTS);
        let mut tensors = read_safetensors(&path).unwrap();
        let _ = tensors.values_mut().next().unwrap().get(1).fill_(f64::NAN);
        write_safetensors(&path, &tensors).unwrap();
        let said = attach(&mut base, folder.path()).unwrap_err().to_string();
        assert!(said.contains(WEIGHTS) && said.contains("not finite"), "{said}");
        let folder = tempfile::tempdir().unwrap();
        let missing = attach(&mut random(11), folder.path()).unwrap_err().to_string();
        assert!(missing.contains(CONFIG), "{missing}");
    }
}
