//! Damaged and hostile model files: a few thousand small changes of a good model, the same ones each time. Each is refused
//! with an error, or read as the same model, or as the other model that a key of config.json describes. None ends in a
//! panic, takes long or takes much memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test says no")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plumbline_crds::training::Precision;
use plumbline_feedback::{Error, Result};
use plumbline_trainer::load::hugging_face::{ModelFolder, write_safetensors};
use plumbline_trainer::model::attention::Context;
use plumbline_trainer::model::config::Config;
use plumbline_trainer::model::heads;
use plumbline_trainer::model::linear::Adapters;
use plumbline_trainer::model::packed::Packed;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

const SLOWEST: Duration = Duration::from_secs(20);
const MOST_MEMORY_KB: u64 = 2 << 20;

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny")
}

/// What a folder is read as: its config and the log-probabilities of some tokens.
fn read(folder: &Path) -> Result<(Config, Tensor)> {
    let decoder = ModelFolder::open(folder)?.decoder(Precision::Float32, Device::Cpu)?;
    let batch = Packed::new(&[&[3i64, 14, 15, 92, 65, 35]]);
    let logits = tch::no_grad(|| heads::logits(&decoder, &decoder.forward(&batch, &mut Context::Whole, Adapters::On)));
    Ok((Config { raw: Map::new(), ..decoder.config }, logits.log_softmax(-1, Kind::Float)))
}

/// The same, where a panic is a failure of the test that names what was read.
#[track_caller]
fn tried(folder: &Path, what: &str) -> Result<(Config, Tensor)> {
    let start = Instant::now();
    let found = catch_unwind(AssertUnwindSafe(|| read(folder)));
    assert!(start.elapsed() < SLOWEST, "{what}: took {:?}", start.elapsed());
    let found = found.unwrap_or_else(|_| panic!("{what}: panicked"));
    if let Err(error) = &found {
        assert!(matches!(error, Error::Config(_) | Error::Data(_)), "{what}: {error}");
        assert!(error.to_string().contains(folder.to_str().unwrap()), "{what}: no file is named: {error}");
    }
    found
}

fn assert_memory_is_bounded() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < MOST_MEMORY_KB, "{peak} kB");
}

/// A copy of the tiny model without its tokenizer.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(tiny().join(file), folder.path().join(file)).unwrap();
    }
    folder
}

/// Keys that the decoder computes from, or that say it would have to compute something else.
const KEYS: [&str; 31] = [
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "hidden_act",
    "sliding_window",
    "use_sliding_window",
    "max_window_layers",
    "layer_types",
    "model_type",
    "pretraining_tp",
    "quantization_config",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "logits_scaling",
    "residual_multiplier",
    "embedding_multiplier",
    "is_causal",
    "auto_map",
];

fn values() -> Vec<Value> {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64});
    let mut values = vec![Value::Null, json!(u64::MAX), json!(i64::MIN), llama3.clone(), json!({}), json!([])];
    values.extend([true, false].map(|b| json!(b)));
    values.extend(
        [-1i64, 0, 1, 2, 3, 4, 8, 24, 25, 96, 97, 256, 1024, 5000, 1 << 24, 1 << 31, 1 << 53, 1 << 62]
            .map(|n| json!(n)),
    );
    values.extend([-1.5, 0.0, 1e-300, 1e-5, 0.5, 1.0, 24.0, 1e4, 5e5, 1e38, 1e308].map(|x| json!(x)));
    values.extend(
        ["", "0", "24", "10000.0", "true", "silu", "gelu", "llama", "mistral", "qwen2", "qwen3", "none"]
            .map(|s| json!(s)),
    );
    let factors = json!([1.0, 2.0, 4.0, 8.0]);
    values.extend([
        json!({"type": "linear", "factor": 2.0}),
        json!({"type": "dynamic", "factor": 2.0}),
        json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}),
        json!({"type": "longrope", "short_factor": factors, "long_factor": factors}),
    ]);
    values.extend([
        json!([1, 0]),
        json!([0]),
        json!(["full_attention"]),
        json!(["sliding_attention"]),
        json!({"type": "linear"}),
    ]);
    for (key, value) in
        [("factor", json!(0.0)), ("factor", json!("8")), ("low_freq_factor", json!(-1)), ("rope_type", json!(3))]
    {
        let mut changed = llama3.clone();
        changed[key] = value;
        values.push(changed);
    }
    values
}

/// Whether a value of a key says what a tiny model's config says without it.
fn says_nothing(key: &str, value: &Value, base: &Map<String, Value>) -> bool {
    let number = value.as_f64();
    let family = base["model_type"].as_str().unwrap();
    if is_foreign(key, family) {
        return true;
    }
    let as_before = base.get(key).is_some_and(|old| old == value || (number.is_some() && old.as_f64() == number));
    as_before
        || value.is_null()
        || match key {
            "pretraining_tp"
            | "partial_rotary_factor"
            | "logits_scaling"
            | "residual_multiplier"
            | "embedding_multiplier" => number == Some(1.0),
            // A window is of use where it is switched on, is shorter than the context and has a layer.
            "use_sliding_window" => value.is_boolean(),
            "max_window_layers" => value.is_u64(),
            "sliding_window" if base["model_type"] != "llama" => value.as_i64().is_some_and(|window| window > 0),
            "is_causal"
            | "scale_attn_weights"
            | "do_layer_norm_before"
            | "enable_bias"
            | "layer_norm_elementwise_affine"
            | "use_parallel_residual" => *value == json!(true),
            "attention_bias" => *value == json!(family == "gpt_neox"),
            "mlp_bias" | "_remove_final_layer_norm" | "scale_attn_by_inverse_layer_idx" => *value == json!(false),
            "rotary_pct" => number == Some(0.25),
            // A head that the file has is used either way.
            "tie_word_embeddings" => match family {
                "opt" => *value == json!(true),
                "gpt_neox" => value.is_boolean(),
                _ => false,
            },
            "rope_theta" | "rope_local_base_freq" => number == Some(1e4),
            "layer_norm_epsilon" | "layer_norm_eps" => number == Some(1e-5),
            // The other names of sizes of GPT-2; and a default of Gemma.
            "num_attention_heads" => number == Some(4.0),
            "num_hidden_layers" => number == Some(2.0),
            "hidden_size" => number == Some(32.0),
            "max_position_embeddings" | "query_pre_attn_scalar" => number == Some(256.0),
            // Of use where a model has that many layers, and scaled positions.
            "no_rope_layer_interval" | "sliding_window_pattern" => value.as_i64().is_some_and(|every| every > 2),
            "original_max_position_embeddings" => value.as_i64().is_some_and(|original| original > 1),
            "sliding_window" => value.as_i64().is_some_and(|window| window >= 256),
            "rope_scaling" | "rope_parameters" | "auto_map" => *value == json!({}),
            "layer_types" => *value == json!([]) || *value == json!(["full_attention"]),
            _ => false,
        }
}

#[test]
fn a_config_with_any_value_is_refused_or_is_the_model_that_it_describes() {
    let families = ["qwen2", "qwen3", "smollm3", "gemma2", "gemma3_text", "phi3", "olmo2", "gpt2", "opt", "gpt_neox"];
    for (seed, family) in families.into_iter().enumerate() {
        try_configs(random(family, seed as i64).path(), own_keys(family));
    }
    try_configs(copy().path(), &[]);
    assert_memory_is_bounded();
}

/// Keys that this family reads beside those of all.
fn own_keys(family: &str) -> &'static [&'static str] {
    match family {
        "smollm3" => &["no_rope_layers", "no_rope_layer_interval"],
        "gemma2" => &["query_pre_attn_scalar", "hidden_activation"],
        "gemma3_text" => {
            &["query_pre_attn_scalar", "hidden_activation", "rope_local_base_freq", "sliding_window_pattern"]
        }
        "phi3" => &["original_max_position_embeddings"],
        "gpt2" => &[
            "n_embd",
            "n_head",
            "n_layer",
            "n_positions",
            "n_inner",
            "activation_function",
            "layer_norm_epsilon",
            "scale_attn_weights",
            "scale_attn_by_inverse_layer_idx",
        ],
        "opt" => &[
            "ffn_dim",
            "word_embed_proj_dim",
            "do_layer_norm_before",
            "_remove_final_layer_norm",
            "layer_norm_elementwise_affine",
            "enable_bias",
            "activation_function",
        ],
        "gpt_neox" => &["rotary_pct", "rotary_emb_base", "use_parallel_residual", "layer_norm_eps"],
        _ => &[],
    }
}

/// Keys that no reader of this family's configs has.
fn is_foreign(key: &str, family: &str) -> bool {
    let learned = ["gpt2", "opt"].contains(&family);
    match key {
        "max_window_layers" => !family.starts_with("qwen"),
        "pretraining_tp" => family == "smollm3",
        "rms_norm_eps" | "num_key_value_heads" | "head_dim" => learned || family == "gpt_neox",
        "rope_theta" | "rope_scaling" | "rope_parameters" | "hidden_act" | "intermediate_size" => learned,
        _ => false,
    }
}

/// A small model of a family with random weights.
fn random(family: &str, seed: i64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let activation = if family.starts_with("gemma") { "gelu_pytorch_tanh" } else { "silu" };
    let raw = match family {
        "gpt2" => json!({
            "model_type": family, "n_embd": 32, "n_inner": 48, "n_layer": 2, "n_head": 4, "n_positions": 256,
            "activation_function": "gelu_new", "vocab_size": 96, "tie_word_embeddings": true,
        }),
        "opt" => json!({
            "model_type": family, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "activation_function": "relu", "vocab_size": 96, "max_position_embeddings": 256,
        }),
        "gpt_neox" => json!({
            "model_type": family, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "hidden_act": "gelu",
            "num_attention_heads": 4, "vocab_size": 96, "max_position_embeddings": 256, "rotary_emb_base": 1e4,
        }),
        _ => json!({
            "model_type": family, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96, "rms_norm_eps": 1e-5,
            "hidden_act": activation, "rope_theta": 1e4, "max_position_embeddings": 256, "tie_word_embeddings": true,
            "attention_bias": false, "mlp_bias": false,
        }),
    };
    let config = Config::from_json(raw.as_object().unwrap().clone()).unwrap();
    tch::manual_seed(seed);
    let weight = |(id, shape): (_, Vec<i64>)| (config.name(id), Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.3);
    let weights = config.architecture.weights().map(weight).collect();
    write_safetensors(&folder.path().join("model.safetensors"), &weights).unwrap();
    fs::write(folder.path().join("config.json"), raw.to_string()).unwrap();
    folder
}

fn try_configs(folder: &Path, own_keys: &[&'static str]) {
    let path = folder.join("config.json");
    let base: Map<String, Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let (usual, expected) = read(folder).unwrap();
    let (mut same, mut other, mut refused) = (0, 0, 0);
    let mut try_changes = |changes: &[(&str, Value)]| {
        let mut config = base.clone();
        config.extend(changes.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        fs::write(&path, Value::Object(config).to_string()).unwrap();
        let what = format!("{changes:?}");
        match tried(folder, &what) {
            Err(_) => refused += 1,
            Ok((config, found)) if config == usual => {
                assert_eq!(found, expected, "{what}: another result under the same config");
                for (key, value) in changes {
                    assert!(says_nothing(key, value, &base), "{what}: `{key}` was passed over");
                }
                same += 1;
            }
            Ok((_, found)) => {
                assert!(bool::try_from(found.isfinite().all()).unwrap(), "{what}: not finite");
                other += 1;
            }
        }
    };
    let values = values();
    let keys: Vec<&str> = KEYS.iter().chain(own_keys).copied().collect();
    for &key in &keys {
        for value in &values {
            try_changes(&[(key, value.clone())]);
        }
    }
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    for _ in 0..300 {
        let change = |rng: &mut ChaCha8Rng| (*keys.choose(rng).unwrap(), values.choose(rng).unwrap().clone());
        let (first, second) = (change(&mut rng), change(&mut rng));
        if first.0 != second.0 {
            try_changes(&[first, second]);
        }
    }
    assert!(same > 20 && other > 3 && refused > 500, "{same} the same, {other} another, {refused} refused");
}

/// The parts of a safetensors file: the header's text and the data.
fn parts(bytes: &[u8]) -> (String, &[u8]) {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (String::from_utf8(bytes[8..8 + length].to_vec()).unwrap(), &bytes[8 + length..])
}

fn whole(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

#[test]
fn a_safetensors_file_with_any_header_is_refused_or_is_the_same_model() {
    let folder = copy();
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let (_, expected) = read(folder.path()).unwrap();
    let (mut same, mut refused) = (0, 0);
    let mut try_bytes = |changed: &[u8], what: &str| {
        // A file of its own each time: the one before may still be mapped.
        fs::remove_file(&path).unwrap();
        fs::write(&path, changed).unwrap();
        match tried(folder.path(), what) {
            Err(_) => refused += 1,
            Ok((_, found)) => {
                assert_eq!(found, expected, "{what}: another result");
                same += 1;
            }
        }
    };
    let (header, data) = parts(&bytes);
    let mut rng = ChaCha8Rng::seed_from_u64(13);
    for i in 0..800 {
        let mut changed = bytes.clone();
        let at = rng.random_range(0..8 + header.len());
        changed[at] = rng.random();
        try_bytes(&changed, &format!("byte {at}, change {i}"));
    }
    for length in [0, 1, 7, 8, 100, header.len(), 8 + header.len(), bytes.len() - 1] {
        try_bytes(&bytes[..length], &format!("cut at {length}"));
    }
    for length in [0, 1, 100, header.len() as u64 + 1, 1 << 32, 1 << 63, u64::MAX] {
        let mut changed = bytes.clone();
        changed[..8].copy_from_slice(&length.to_le_bytes());
        try_bytes(&changed, &format!("header of {length}"));
    }
    let entries: Map<String, Value> = serde_json::from_str(&header).unwrap();
    let names: Vec<&String> = entries.keys().filter(|name| *name != "__metadata__").collect();
    let pool = [
        json!(null),
        json!(-1),
        json!(0),
        json!(1),
        json!(u64::MAX),
        json!(1i64 << 62),
        json!("F16"),
        json!([]),
        json!([0, 0]),
        json!([0, 1i64 << 62]),
        json!([96]),
        json!([96, 1]),
        json!([1i64 << 32, 1i64 << 32]),
        json!({}),
        json!("F32"),
        json!("I8"),
        json!("F8_E4M3"),
        json!("BOOL"),
        json!("f16"),
    ];
    for i in 0..600 {
        let mut changed = entries.clone();
        let name = (*names.choose(&mut rng).unwrap()).clone();
        let field = *["dtype", "shape", "data_offsets", "extra"].choose(&mut rng).unwrap();
        let what = match rng.random_range(0..4) {
            0 => {
                let other = (*names.choose(&mut rng).unwrap()).clone();
                let (a, b) = (changed[&name][field].clone(), changed[&other][field].clone());
                // Two weights of one size, each in the other's place, are another model, and a whole one.
                let bytes = |name: &String| {
                    let ends = entries[name]["data_offsets"].as_array().unwrap();
                    ends[1].as_u64().unwrap() - ends[0].as_u64().unwrap()
                };
                let whole_swap = field == "data_offsets" && bytes(&name) == bytes(&other);
                if field == "extra" || whole_swap {
                    continue;
                }
                changed[&name][field] = b;
                changed[&other][field] = a;
                format!("{field} of {name} and {other}")
            }
            1 => {
                let value = pool.choose(&mut rng).unwrap().clone();
                let what = format!("{field} of {name} is {value}");
                changed[&name][field] = value;
                what
            }
            2 => {
                let entry = changed.remove(&name).unwrap();
                let renamed = format!("{name}{}", rng.random_range(0..10));
                let what = format!("{name} is {renamed}");
                changed.insert(renamed, entry);
                what
            }
            _ => {
                changed[&name].as_object_mut().unwrap().remove(field);
                format!("no {field} of {name}")
            }
        };
        try_bytes(&whole(Value::Object(changed).to_string().as_bytes(), data), &format!("{what}, change {i}"));
    }
    // The same name twice: of an empty tensor and of a weight.
    let double =
        header.replacen('{', "{\"model.norm.weight\":{\"dtype\":\"F16\",\"shape\":[0],\"data_offsets\":[0,0]},", 1);
    try_bytes(&whole(double.as_bytes(), data), "a name twice");
    assert!(same > 20 && refused > 900, "{same} the same, {refused} refused");
    assert_memory_is_bounded();
}
