//! A model of each family computes what transformers computes: logits and gradients of every weight.
//!
//! `tests/golden/families.json` is written by tests/parity/golden_families.py from transformers in 64 bits; weights are a
//! function of their names (tests/parity/families.py), which is repeated here.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test says no")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use plumbline_crds::training::Precision;
use plumbline_trainer::load::hugging_face::{ModelFolder, write_safetensors};
use plumbline_trainer::model::attention::Context;
use plumbline_trainer::model::config::Config;
use plumbline_trainer::model::decoder::Decoder;
use plumbline_trainer::model::heads;
use plumbline_trainer::model::linear::Adapters;
use plumbline_trainer::model::packed::Packed;
use plumbline_trainer::model::trainable::make_trainable;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

fn golden() -> Value {
    serde_json::from_str(include_str!("../../tests/golden/families.json")).unwrap()
}

fn config(value: &Value) -> Config {
    Config::from_json(value.as_object().unwrap().clone()).unwrap()
}

/// The numbers of a weight.
fn weight(name: &str, shape: &[i64]) -> Tensor {
    let seed = name.bytes().fold(2_166_136_261u32, |h, byte| (h ^ u32::from(byte)).wrapping_mul(16_777_619));
    let fraction = |i: u32| {
        let mut x = i.wrapping_mul(0x9E37_79B9).wrapping_add(seed);
        x ^= x >> 16;
        x = x.wrapping_mul(0x7FEB_352D);
        x ^= x >> 15;
        x = x.wrapping_mul(0x846C_A68B);
        x ^= x >> 16;
        (x >> 8) as f32 / 16_777_216.0 - 0.5
    };
    let values: Vec<f32> = (0..shape.iter().product::<i64>() as u32)
        .map(|i| match name {
            _ if name.ends_with("norm.weight") => 1.0 + fraction(i),
            _ if name.contains("embed_tokens") => 4.0 * fraction(i),
            _ => fraction(i),
        })
        .collect();
    Tensor::from_slice(&values).view(shape)
}

/// Writes the model of a config as a folder, and loads it.
fn load(raw: &Value, folder: &Path) -> Decoder {
    let config = config(raw);
    let weights: BTreeMap<String, Tensor> =
        config.architecture.weights().map(|(id, shape)| (config.name(id), weight(&config.name(id), &shape))).collect();
    write_safetensors(&folder.join("model.safetensors"), &weights).unwrap();
    fs::write(folder.join("config.json"), raw.to_string()).unwrap();
    ModelFolder::open(folder).unwrap().decoder(Precision::Float32, Device::Cpu).unwrap()
}

/// The largest difference of some numbers, as a fraction of the largest of those expected.
fn difference(found: &Tensor, expected: &Value) -> f64 {
    let numbers: Vec<f64> = serde_json::from_value(expected.clone()).unwrap();
    let expected = Tensor::from_slice(&numbers);
    ((found.to_kind(Kind::Double) - &expected).abs().max() / expected.abs().max()).double_value(&[])
}

#[test]
fn each_family_has_the_logits_and_gradients_of_transformers() {
    let golden = golden();
    let tolerance = golden["tolerance"][0].as_f64().unwrap();
    let ids: Vec<i64> = serde_json::from_value(golden["ids"].clone()).unwrap();
    let models = golden["models"].as_array().unwrap();
    assert_eq!(models.len(), 7);
    for model in models {
        let name = model["name"].as_str().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut decoder = load(&model["config"], folder.path());
        let trained = make_trainable(&mut decoder, &serde_json::from_value(json!({})).unwrap()).unwrap();
        let hidden = decoder.forward(&Packed::new(&[&ids]), &mut Context::Whole, Adapters::Training);

        let logits = heads::logits(&decoder, &hidden);
        for (position, expected) in
            golden["positions"].as_array().unwrap().iter().zip(model["logits"].as_array().unwrap())
        {
            let found = difference(&logits.get(position.as_i64().unwrap()), expected);
            assert!(found < tolerance, "{name}: the logits at {position} differ by {found}");
        }

        let last = ids.len() as i64 - 1;
        let targets = Tensor::from_slice(&ids[1..]);
        let loss = -heads::token_logprobs(&decoder, &hidden.narrow(0, 0, last), &targets, 1.0, None)
            .logprobs
            .mean(Kind::Float);
        assert!((loss.double_value(&[]) / model["loss"].as_f64().unwrap() - 1.0).abs() < tolerance, "{name}: {loss:?}");
        loss.backward();
        let gradients = model["gradients"].as_object().unwrap();
        assert!(trained.keys().eq(gradients.keys().collect::<std::collections::BTreeSet<_>>()), "{name}");
        for (weight, expected) in gradients {
            let indices: Vec<i64> = serde_json::from_value(expected["indices"].clone()).unwrap();
            let gradient = trained[weight].grad().flatten(0, -1).index_select(0, &Tensor::from_slice(&indices));
            let found = difference(&gradient, &expected["values"]);
            assert!(found < tolerance, "{name}: the gradient of {weight} differs by {found}");
        }
    }
}

#[test]
fn configs_of_transformers_4_and_5_describe_the_same_model() {
    for model in golden()["models"].as_array().unwrap() {
        let (four, five) = (config(&model["config"]), config(&model["config_5"]));
        assert_eq!((four.family, &four.architecture), (five.family, &five.architecture), "{}", model["name"]);
    }
}
