//! Saves a model as a Hugging Face directory: weights in a given kind, sharded if they are large, and a matching
//! config.json. The layout of shards and index is that of transformers' `save_pretrained`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use plumbline_feedback::files::write_json;
use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use super::hugging_face::{INDEX, SCORE, WEIGHTS};
use super::tensor_file::{dtype_of, write_in_kinds};
use crate::model::config::Config;
use crate::{Error, Result};

/// Maximum bytes of weights per file; the default of transformers, within the limits of model hubs.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// The largest finite 16-bit float (IEEE half).
const LARGEST_HALF: f64 = 65_504.0;

/// The transformers class that loads a saved directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelClass {
    /// `AutoModelForCausalLM`.
    CausalLm,
    /// `AutoModelForSequenceClassification` with one label.
    SequenceClassification,
}

/// Writes weights, in `kind`, and config.json. `config`: that of the model they were derived from. The head of a
/// sequence classifier stays in Float32: it is small, and every score depends on all of it.
///
/// # Errors
/// [`Error::Store`] when the directory cannot be written.
pub fn save_model(
    folder: &Path,
    weights: &BTreeMap<String, Tensor>,
    kind: Kind,
    config: &Config,
    class: ModelClass,
) -> Result<()> {
    let kind = fitting(weights, kind);
    write_weights(folder, weights, |name| if name == SCORE { Kind::Float } else { kind }, SHARD_BYTES)?;
    write_json(&folder.join("config.json"), &config_of(config, kind, class))
}

/// The kind, or Float32 if half precision would overflow a weight.
fn fitting(weights: &BTreeMap<String, Tensor>, kind: Kind) -> Kind {
    let beyond = |t: &Tensor| t.numel() > 0 && t.abs().max().double_value(&[]) > LARGEST_HALF;
    match weights.iter().find(|(_, tensor)| kind == Kind::Half && beyond(tensor)) {
        Some((name, _)) => {
            tracing::warn!(
                name,
                "a weight exceeds {LARGEST_HALF}, the maximum of float16: saving the model in float32"
            );
            Kind::Float
        }
        None => kind,
    }
}

/// Writes weights into one file, or into several of at most `most` bytes with an index. A larger weight gets a file of
/// its own. Weight files of an earlier model in the directory are removed.
pub(crate) fn write_weights(
    folder: &Path,
    weights: &BTreeMap<String, Tensor>,
    kind: impl Fn(&str) -> Kind,
    most: u64,
) -> Result<()> {
    remove_weights(folder)?;
    let sized = |(name, tensor): (&String, &Tensor)| {
        let bytes = dtype_of(kind(name)).map_or(0, |(_, size)| size) * tensor.numel();
        (name.clone(), bytes as u64)
    };
    let shards = Shards::new(weights.iter().map(sized), most);
    for (file, names) in &shards.files {
        let of_file = names.iter().filter_map(|name| Some((name.as_str(), weights.get(name)?, kind(name))));
        write_in_kinds(&folder.join(file), of_file)?;
    }
    let parameters: usize = weights.values().map(Tensor::numel).sum();
    shards.write_index(folder, parameters)
}

/// Assigns weights to files.
pub(crate) struct Shards {
    /// Files and the names of their weights, in order.
    pub(crate) files: Vec<(String, Vec<String>)>,
    bytes: u64,
}

impl Shards {
    /// Splits a list of weights and their sizes into files of at most `most` bytes.
    pub(crate) fn new(weights: impl Iterator<Item = (String, u64)>, most: u64) -> Self {
        let (mut shards, mut filled, mut total): (Vec<Vec<String>>, u64, u64) = (Vec::new(), 0, 0);
        for (name, bytes) in weights {
            match shards.last_mut() {
                Some(shard) if filled + bytes <= most => shard.push(name),
                _ => {
                    shards.push(vec![name]);
                    filled = 0;
                }
            }
            filled += bytes;
            total += bytes;
        }
        let count = shards.len();
        let file = |i: usize| match count {
            1 => WEIGHTS.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        let files = shards.into_iter().enumerate().map(|(i, names)| (file(i), names)).collect();
        Self { files, bytes: total }
    }

    /// Writes the index if there are several files.
    pub(crate) fn write_index(&self, folder: &Path, parameters: usize) -> Result<()> {
        if self.files.len() == 1 {
            return Ok(());
        }
        let map: BTreeMap<&str, &str> = self
            .files
            .iter()
            .flat_map(|(file, names)| names.iter().map(move |name| (name.as_str(), file.as_str())))
            .collect();
        let index = json!({"metadata": {"total_parameters": parameters, "total_size": self.bytes}, "weight_map": map});
        write_json(&folder.join(INDEX), &index)
    }
}

/// Removes weight files and their index: a leftover file would be read, or contradict the new ones.
fn remove_weights(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(|e| Error::disk(folder, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| Error::disk(folder, e))?;
        let name = entry.file_name();
        let stale = name.to_str().is_some_and(|name| name == WEIGHTS || name == INDEX || is_shard(name));
        if stale {
            fs::remove_file(entry.path()).map_err(|e| Error::disk(&entry.path(), e))?;
        }
    }
    Ok(())
}

fn is_shard(name: &str) -> bool {
    name.strip_prefix("model-")
        .and_then(|rest| rest.strip_suffix(".safetensors"))
        .and_then(|rest| rest.split_once("-of-"))
        .is_some_and(|(i, n)| [i, n].iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())))
}

/// Keys of a config that describe the directory it came from and do not apply to the new one.
const OF_ANOTHER_FOLDER: [&str; 8] = [
    "_name_or_path",
    "auto_map",
    "num_labels",
    "id2label",
    "label2id",
    "problem_type",
    "classifier_dropout",
    "finetuning_task",
];

/// The config of a saved directory: that of the base model, with keys that no longer apply corrected or removed.
/// `transformers_version` is preserved, as transformers reads the tokenizer's files by the rules of that version.
fn config_of(base: &Config, kind: Kind, class: ModelClass) -> Map<String, Value> {
    let mut config = base.raw.clone();
    for key in OF_ANOTHER_FOLDER {
        config.shift_remove(key);
    }
    let name = match class {
        ModelClass::CausalLm => base.family.causal_lm,
        ModelClass::SequenceClassification => base.family.classifier,
    };
    config.insert("architectures".into(), json!([name]));
    if class == ModelClass::SequenceClassification {
        config.insert("num_labels".into(), json!(1));
        config.insert("id2label".into(), json!({"0": "LABEL_0"}));
        config.insert("label2id".into(), json!({"LABEL_0": 0}));
    }
    // Every version of transformers reads the older key, and only one of the two is read: if the base's config has one
    // of them, that one is used.
    let key = if config.contains_key("dtype") && !config.contains_key("torch_dtype") { "dtype" } else { "torch_dtype" };
    for other in ["dtype", "torch_dtype"] {
        if other != key {
            config.shift_remove(other);
        }
    }
    config.insert(key.into(), json!(dtype_name(kind)));
    config
}

/// The name of a kind in config.json.
fn dtype_name(kind: Kind) -> &'static str {
    match kind {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        _ => "float32",
    }
}

#[cfg(test)]
mod tests {
    use plumbline_crds::training::Precision;
    use tch::Device;

    use super::*;
    use crate::load::hugging_face::{ModelFolder, read_object, read_safetensors};
    use crate::model::decoder::tests::random;
    use crate::model::lora;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_sharded_model_is_read_back_and_replaces_an_older_one() {
        let folder = tempfile::tempdir().unwrap();
        let decoder = random(4);
        let weights = lora::merged_weights(&decoder);
        for stale in ["model-00001-of-00007.safetensors", "model.safetensors"] {
            fs::write(folder.path().join(stale), "old").unwrap();
        }
        write_weights(folder.path(), &weights, |_| Kind::Float, 4000).unwrap();
        let config = config_of(&decoder.config, Kind::Float, ModelClass::CausalLm);
        write_json(&folder.path().join("config.json"), &config).unwrap();

        let index = read_object(&folder.path().join(INDEX)).unwrap();
        let numbers: usize = weights.values().map(Tensor::numel).sum();
        assert_eq!(index["metadata"], json!({"total_parameters": numbers, "total_size": 4 * numbers}));
        let map = index["weight_map"].as_object().unwrap();
        assert_eq!(map.len(), weights.len());
        let files: Vec<String> = names(folder.path()).into_iter().filter(|n| is_shard(n)).collect();
        assert!(files.len() > 2, "{files:?}");
        for (i, file) in files.iter().enumerate() {
            assert_eq!(*file, format!("model-{:05}-of-{:05}.safetensors", i + 1, files.len()));
            let held = read_safetensors(&folder.path().join(file)).unwrap();
            let bytes: usize = held.values().map(|t| 4 * t.numel()).sum();
            assert!(bytes <= 4000 || held.len() == 1, "{file}: {bytes}");
            assert!(held.keys().all(|name| map[name] == file.as_str()));
        }
        let read = ModelFolder::open(folder.path()).unwrap().decoder(Precision::Float32, Device::Cpu).unwrap();
        assert_eq!(lora::merged_weights(&read), weights);

        write_weights(folder.path(), &weights, |_| Kind::Float, SHARD_BYTES).unwrap();
        assert_eq!(names(folder.path()), ["config.json", "model.safetensors"], "neither shard nor index is left");
    }

    #[test]
    fn weights_are_written_in_the_requested_kind_and_the_config_names_it_once() {
        for (base, key) in [
            (json!({"torch_dtype": "float32"}), "torch_dtype"),
            (json!({"dtype": "float32"}), "dtype"),
            (json!({"dtype": "bfloat16", "torch_dtype": "float32"}), "torch_dtype"),
            (json!({}), "torch_dtype"),
        ] {
            for (kind, name) in [(Kind::BFloat16, "bfloat16"), (Kind::Half, "float16"), (Kind::Float, "float32")] {
                let folder = tempfile::tempdir().unwrap();
                let decoder = random(4);
                let mut config = decoder.config.clone();
                config.raw.extend(base.as_object().unwrap().clone());
                let weights = lora::merged_weights(&decoder);
                save_model(folder.path(), &weights, kind, &config, ModelClass::CausalLm).unwrap();
                let written = read_object(&folder.path().join("config.json")).unwrap();
                let said: Vec<(&String, &Value)> = written.iter().filter(|(key, _)| key.contains("dtype")).collect();
                assert_eq!(said, [(&key.to_owned(), &json!(name))], "{base}");
                let held = read_safetensors(&folder.path().join(WEIGHTS)).unwrap();
                assert!(held.iter().all(|(name, t)| t.kind() == kind && *t == weights[name].to_kind(kind)), "{name}");
                assert_eq!(ModelFolder::open(folder.path()).unwrap().kind().unwrap(), kind);
            }
        }
    }

    #[test]
    fn a_weight_beyond_half_precision_keeps_the_model_in_float32() {
        let folder = tempfile::tempdir().unwrap();
        let decoder = random(4);
        let mut weights = lora::merged_weights(&decoder);
        let _ = weights.get_mut("model.norm.weight").unwrap().get(3).fill_(70_000.0);
        save_model(folder.path(), &weights, Kind::Half, &decoder.config, ModelClass::CausalLm).unwrap();
        assert_eq!(read_object(&folder.path().join("config.json")).unwrap()["torch_dtype"], "float32");
        assert_eq!(read_safetensors(&folder.path().join(WEIGHTS)).unwrap(), weights);
    }

    #[test]
    fn keys_about_the_base_directory_are_not_copied() {
        let mut base = random(4).config;
        for (key, value) in [
            ("architectures", json!(["LlamaModel"])),
            ("_name_or_path", json!("/home/a/model")),
            ("auto_map", json!({"AutoConfig": "configuration_phi3.Phi3Config"})),
            ("num_labels", json!(3)),
            ("id2label", json!({"0": "a", "1": "b", "2": "c"})),
            ("problem_type", json!("regression")),
            ("rope_theta", json!(5e5)),
        ] {
            base.raw.insert(key.into(), value);
        }
        let causal = config_of(&base, Kind::Float, ModelClass::CausalLm);
        assert_eq!(causal["architectures"], json!(["LlamaForCausalLM"]));
        assert_eq!(causal["rope_theta"], json!(5e5));
        for key in OF_ANOTHER_FOLDER {
            assert!(!causal.contains_key(key), "{key}");
        }
        let classifier = config_of(&base, Kind::Float, ModelClass::SequenceClassification);
        assert_eq!(classifier["architectures"], json!(["LlamaForSequenceClassification"]));
        assert_eq!((&classifier["num_labels"], &classifier["id2label"]), (&json!(1), &json!({"0": "LABEL_0"})));
        assert!(!classifier.contains_key("problem_type"));
    }
}
