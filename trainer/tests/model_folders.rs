//! Model folders as other programs leave them: each is read as transformers reads it, or refused with the name of what
//! does not fit.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test says no")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use plumbline_crds::training::Precision;
use plumbline_feedback::Error;
use plumbline_trainer::load::hugging_face::{ModelFolder, read_safetensors, write_safetensors};
use plumbline_trainer::model::attention::Context;
use plumbline_trainer::model::heads;
use plumbline_trainer::model::linear::Adapters;
use plumbline_trainer::model::packed::Packed;
use plumbline_trainer::model::reward_model::RewardModel;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

type Weights = BTreeMap<String, Tensor>;

/// A copy of the tiny model, to change.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for file in ["config.json", "model.safetensors"] {
            fs::copy(tiny().join(file), folder.at(file)).unwrap();
        }
        folder
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Changes the weights of `model.safetensors`.
    fn weights(self, change: impl FnOnce(&mut Weights)) -> Self {
        let mut weights = read_safetensors(&self.at("model.safetensors")).unwrap();
        change(&mut weights);
        write_safetensors(&self.at("model.safetensors"), &weights).unwrap();
        self
    }

    /// Sets keys of config.json.
    fn config(self, keys: &Value) -> Self {
        let mut config: Value = serde_json::from_slice(&fs::read(self.at("config.json")).unwrap()).unwrap();
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        fs::write(self.at("config.json"), config.to_string()).unwrap();
        self
    }

    /// Puts weights into shards, by the number of the shard, with an index.
    fn shards(self, weights: &Weights, shard_of: impl Fn(&str) -> usize, map: impl Fn(&str) -> Value) -> Self {
        let mut shards: BTreeMap<usize, Weights> = BTreeMap::new();
        for (name, tensor) in weights {
            shards.entry(shard_of(name)).or_default().insert(name.clone(), tensor.shallow_clone());
        }
        for (number, held) in &shards {
            write_safetensors(&self.at(&shard(*number)), held).unwrap();
        }
        let map: serde_json::Map<String, Value> = weights.keys().map(|name| (name.clone(), map(name))).collect();
        let index = json!({"metadata": {}, "weight_map": map});
        fs::write(self.at("model.safetensors.index.json"), index.to_string()).unwrap();
        self
    }

    fn read(&self) -> Result<Tensor, Error> {
        let decoder = ModelFolder::open(self.0.path())?.decoder(Precision::Float32, Device::Cpu)?;
        let batch = Packed::new(&[&[3i64, 141, 59, 265, 358, 979]]);
        Ok(tch::no_grad(|| {
            heads::logits(&decoder, &decoder.forward(&batch, &mut Context::Whole, Adapters::On))
                .log_softmax(-1, Kind::Float)
        }))
    }

    /// What is said of the folder, as input data that trying again does not mend.
    #[track_caller]
    fn refused(&self, words: &[&str]) {
        let error = self.read().unwrap_err();
        assert!(matches!(error, Error::Data(_)), "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "expected `{word}`: {error}");
        }
    }
}

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny")
}

fn shard(number: usize) -> String {
    format!("model-{:05}-of-00002.safetensors", number + 1)
}

fn half(name: &str) -> usize {
    usize::from(name > "model.layers.2")
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

/// The tensor with noise of half its own spread.
fn noisy(tensor: &Tensor, seed: i64) -> Tensor {
    tch::manual_seed(seed);
    let float = tensor.to_kind(Kind::Float);
    (&float + float.randn_like() * float.std(true) * 0.5).to_kind(tensor.kind())
}

#[test]
fn one_file_comes_before_an_index_as_in_transformers() {
    let usual = Folder::new().read().unwrap();
    let old: Weights = read_safetensors(&tiny().join("model.safetensors"))
        .unwrap()
        .into_iter()
        .map(|(name, tensor)| (name, noisy(&tensor, 1)))
        .collect();
    let both = Folder::new().shards(&old, half, |name| json!(shard(half(name))));
    assert_eq!(both.read().unwrap(), usual);
    fs::remove_file(both.at("model.safetensors")).unwrap();
    assert!(difference(&both.read().unwrap(), &usual) > 1.0, "the shards hold another model");
}

#[test]
fn what_the_shards_hold_counts_and_not_what_the_index_says_of_them() {
    let usual = Folder::new().read().unwrap();
    let weights = read_safetensors(&tiny().join("model.safetensors")).unwrap();
    let wrong = Folder::new().shards(&weights, half, |name| json!(shard(1 - half(name))));
    fs::remove_file(wrong.at("model.safetensors")).unwrap();
    assert_eq!(wrong.read().unwrap(), usual);
}

#[test]
fn shards_that_contradict_each_other_or_are_missing_are_named() {
    let weights = read_safetensors(&tiny().join("model.safetensors")).unwrap();
    let cut = |map: &dyn Fn(&str) -> Value| {
        let folder = Folder::new().shards(&weights, half, map);
        fs::remove_file(folder.at("model.safetensors")).unwrap();
        folder
    };
    let usual = |name: &str| json!(shard(half(name)));
    let twice = cut(&usual);
    let mut second = read_safetensors(&twice.at(&shard(1))).unwrap();
    second.insert("model.norm.weight".into(), Tensor::ones([96], (Kind::Half, Device::Cpu)));
    second.insert("model.embed_tokens.weight".into(), weights["model.embed_tokens.weight"].shallow_clone());
    write_safetensors(&twice.at(&shard(1)), &second).unwrap();
    twice.refused(&["model-00002-of-00002", "'model.embed_tokens.weight'", "model-00001-of-00002", "each weight once"]);
    let missing = cut(&usual);
    fs::remove_file(missing.at(&shard(1))).unwrap();
    missing.refused(&["model-00002-of-00002.safetensors"]);
    for file in [
        json!(3),
        json!(".hidden.safetensors"),
        json!("../other.safetensors"),
        json!("a/b.safetensors"),
        json!(""),
        json!(".."),
        Value::Null,
    ] {
        cut(&|_: &str| file.clone())
            .refused(&["model.safetensors.index.json", "expected the name of a file in this directory"]);
    }
    let empty = cut(&usual);
    fs::write(empty.at("model.safetensors.index.json"), "{\"weight_map\": {}}").unwrap();
    empty.refused(&["model.safetensors.index.json", "weight_map"]);
    fs::remove_file(empty.at("model.safetensors.index.json")).unwrap();
    empty.refused(&["model.safetensors: no such file", "model.safetensors.index.json"]);
}

#[test]
fn what_is_no_model_folder_is_refused_as_a_whole_and_not_for_one_missing_file() {
    let folder = Folder::new();
    fs::remove_file(folder.at("config.json")).unwrap();
    folder.refused(&["expected a Hugging Face model directory, found no config.json in it"]);
    for (path, found) in
        [(folder.at("absent"), "found nothing there"), (folder.at("model.safetensors"), "found a file")]
    {
        let error = ModelFolder::open(&path).err().unwrap();
        assert!(matches!(&error, Error::Data(text) if text.contains(found) && text.contains("import")), "{error}");
    }
}

#[test]
fn a_head_that_was_trained_apart_is_used_whatever_the_config_says_of_it() {
    let usual = Folder::new().read().unwrap();
    let embedding = |weights: &Weights| weights["model.embed_tokens.weight"].shallow_clone();
    let apart = |weights: &mut Weights| {
        let head = noisy(&embedding(weights), 3);
        weights.insert("lm_head.weight".into(), head);
    };
    let tied = Folder::new().weights(apart);
    let untied = Folder::new().weights(apart).config(&json!({"tie_word_embeddings": false}));
    let expected = untied.read().unwrap();
    assert_eq!(tied.read().unwrap(), expected);
    assert!(difference(&expected, &usual) > 1.0, "the head must matter");
    let decoder = ModelFolder::open(tied.0.path()).unwrap().decoder(Precision::Float32, Device::Cpu).unwrap();
    assert_eq!(decoder.config.raw["tie_word_embeddings"], json!(false), "what is saved of it says so");

    let same = Folder::new().weights(|weights| {
        let head = embedding(weights);
        weights.insert("lm_head.weight".into(), head);
    });
    assert_eq!(same.read().unwrap(), usual);
    let decoder = ModelFolder::open(same.0.path()).unwrap().decoder(Precision::Float32, Device::Cpu).unwrap();
    assert!(decoder.lm_head.is_none(), "an equal head is the embedding");
    Folder::new().config(&json!({"tie_word_embeddings": false})).refused(&["'lm_head.weight' is missing"]);
}

#[test]
fn a_weight_that_nothing_computes_with_is_refused_by_name() {
    let vector = |n: i64| Tensor::ones([n], (Kind::Half, Device::Cpu));
    let layer = |part: &str| format!("model.layers.1.{part}");
    for (name, tensor) in [
        (layer("self_attn.q_proj.bias"), vector(96)),
        (layer("self_attn.o_proj.bias"), vector(96)),
        (layer("mlp.up_proj.bias"), vector(256)),
        (layer("self_attn.q_norm.weight"), vector(24)),
        (layer("self_attn.k_norm.weight"), vector(24)),
        (layer("self_attn.q_proj.weight_scale"), vector(1)),
        (layer("pre_feedforward_layernorm.weight"), vector(96)),
        (layer("self_attn.q_proj.lora_A.weight"), vector(96)),
        ("model.layers.4.input_layernorm.weight".to_owned(), vector(96)),
        ("model.norm.bias".to_owned(), vector(96)),
        ("lm_head.bias".to_owned(), vector(1024)),
        ("score.weight".to_owned(), Tensor::ones([1, 96], (Kind::Half, Device::Cpu))),
        ("v_head.summary.weight".to_owned(), Tensor::ones([1, 96], (Kind::Half, Device::Cpu))),
        ("vision_tower.weight".to_owned(), vector(3)),
    ] {
        let folder = Folder::new().weights(|weights| {
            weights.insert(name.clone(), tensor);
        });
        let what = if name == "score.weight" { "a reward model" } else { "does not use" };
        folder.refused(&[&format!("the tensor '{name}'"), what]);
    }
    let biases = Folder::new().weights(|weights| {
        for i in 0..4 {
            for part in ["q", "k", "v"] {
                weights.insert(format!("model.layers.{i}.self_attn.{part}_proj.bias"), vector(48));
            }
        }
    });
    biases.refused(&["12 tensors", "'model.layers.0.self_attn.k_proj.bias'"]);
    // Two of four layers: the others are left over.
    let fewer = Folder::new().config(&json!({"num_hidden_layers": 2}));
    fewer.refused(&["18 tensors", "'model.layers.2."]);
    let old = Folder::new().weights(|weights| {
        weights.insert(
            "model.layers.1.self_attn.rotary_emb.inv_freq".into(),
            Tensor::ones([12], (Kind::Float, Device::Cpu)),
        );
    });
    assert_eq!(old.read().unwrap(), Folder::new().read().unwrap(), "what every version of transformers ignores");
}

#[test]
fn names_are_read_with_and_without_their_prefix() {
    let usual = Folder::new().read().unwrap();
    let renamed = |rename: fn(&str) -> String| {
        Folder::new().weights(|weights| {
            *weights = std::mem::take(weights).into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect();
        })
    };
    let bare = renamed(|name| name.trim_start_matches("model.").to_owned());
    assert_eq!(bare.read().unwrap(), usual);
    let mixed = renamed(|name| name.replacen("model.layers.2", "layers.2", 1));
    assert_eq!(mixed.read().unwrap(), usual);
    renamed(|name| format!("module.{name}")).refused(&["'model.embed_tokens.weight' is missing", "'module.model."]);
    let twice = Folder::new().weights(|weights| {
        weights.insert("norm.weight".into(), Tensor::zeros([96], (Kind::Half, Device::Cpu)));
    });
    twice.refused(&["tensor 'norm.weight'", "'model.norm.weight'", "each weight once"]);
}

#[test]
fn a_weight_that_is_not_finite_is_refused_by_file_and_name() {
    for value in [f64::NAN, f64::INFINITY] {
        let broken = Folder::new().weights(|weights| {
            let _ = weights.get_mut("model.layers.2.mlp.up_proj.weight").unwrap().get(3).get(5).fill_(value);
        });
        let words =
            ["model.safetensors", "'model.layers.2.mlp.up_proj.weight'", "1 values that are not finite", "[3, 5]"];
        broken.refused(&words);
        let reward = RewardModel::load(broken.0.path(), Precision::Float32, Device::Cpu);
        assert!(reward.is_err(), "a missing head or a broken weight");
    }
}

#[test]
fn a_reward_model_uses_its_head_and_nothing_else_beside_the_decoder() {
    let score = |weights: &mut Weights| {
        weights.insert("score.weight".into(), Tensor::ones([1, 96], (Kind::Float, Device::Cpu)) * 0.1);
    };
    let load = |folder: &Folder| RewardModel::load(folder.0.path(), Precision::Float32, Device::Cpu).map(|_| ());
    load(&Folder::new().weights(score)).unwrap();
    let said = |folder: &Folder| load(folder).unwrap_err().to_string();
    assert!(said(&Folder::new()).contains("'score.weight' is missing"));
    let with = |name: &str, value: f64| {
        Folder::new().weights(score).weights(|weights| {
            weights.insert(name.into(), Tensor::full([1, 96], value, (Kind::Float, Device::Cpu)));
        })
    };
    assert!(said(&with("v_head.summary.weight", 1.0)).contains("'v_head.summary.weight'"));
    assert!(said(&with("score.weight", f64::NAN)).contains("'score.weight' has 96 values that are not finite"));
    assert!(said(&with("score.bias", 1.0)).contains("'score.bias'"));
}

#[test]
fn an_adapter_is_no_model() {
    let folder = Folder::new();
    fs::write(folder.at("adapter_config.json"), "{\"peft_type\": \"LORA\"}").unwrap();
    folder.refused(&["adapter_config.json", "adapter of another model"]);
}

#[test]
fn a_header_of_very_many_tensors_is_read_once() {
    let folder = Folder::new();
    let bytes = fs::read(folder.at("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    for i in 0..200_000 {
        header.insert(format!("empty.{i}"), json!({"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}));
    }
    let text = serde_json::to_vec(&header).unwrap();
    let mut whole = (text.len() as u64).to_le_bytes().to_vec();
    whole.extend(text);
    whole.extend(&bytes[8 + length..]);
    fs::write(folder.at("model.safetensors"), whole).unwrap();
    let start = std::time::Instant::now();
    folder.refused(&["200000 tensors ('empty.0'"]);
    // Once takes a second or two without optimisation; once a tensor took minutes.
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}
