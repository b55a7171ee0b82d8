//! The decoder gives the logits that transformers gives, on a real model.
//!
//! `tests/golden/smollm2_logits.json` is written by tests/parity/golden_logits.py from transformers in 64 bits; the
//! tolerance of each text is what transformers itself loses in 32.

use std::path::Path;

use plumbline_crds::training::Precision;
use plumbline_trainer::load::hugging_face::ModelFolder;
use plumbline_trainer::model::attention::Context;
use plumbline_trainer::model::heads;
use plumbline_trainer::model::linear::Adapters;
use plumbline_trainer::model::packed::Packed;
use plumbline_trainer::stage::import::{self, ImportArgs, WeightType};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

#[test]
fn the_logits_of_smollm2_are_those_of_transformers_on_every_position_of_five_texts() {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache");
    let gguf = cache.join("inputs/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(gguf.exists(), "{} is missing; `make setup` fetches it", gguf.display());
    let folder = cache.join("models/smollm2-135m");
    import::run(&ImportArgs { gguf, out: folder.clone(), dtype: WeightType::Float32 }).unwrap();
    let decoder = ModelFolder::open(&folder).unwrap().decoder(Precision::Float32, Device::Cpu).unwrap();

    let golden: Value = serde_json::from_str(include_str!("../../tests/golden/smollm2_logits.json")).unwrap();
    let ids = |value: &Value| -> Vec<i64> { serde_json::from_value(value.clone()).unwrap() };
    let numbers = |value: &Value| -> Vec<f64> { serde_json::from_value(value.clone()).unwrap() };
    let sampled = Tensor::from_slice(&ids(&golden["sample_ids"]));
    let texts = golden["texts"].as_array().unwrap();
    assert_eq!(texts.len(), 5);
    // The five texts in one batch: packing must not change what each of them gives.
    let tokens: Vec<Vec<i64>> = texts.iter().map(|t| ids(&t["ids"])).collect();
    let batch = Packed::new(&tokens);
    let logits = tch::no_grad(|| {
        let hidden = decoder.forward(&batch, &mut Context::Whole, Adapters::Off);
        heads::logits(&decoder, &hidden)
    });
    for (text, start) in texts.iter().zip(batch.starts()) {
        let tolerance = text["tolerance"].as_f64().unwrap();
        let name = text["name"].as_str().unwrap();
        for position in 0..ids(&text["ids"]).len() {
            let row = logits.get(start + position as i64);
            let log_probs = row.log_softmax(-1, Kind::Float);
            let top = Tensor::from_slice(&ids(&text["top_ids"][position]));
            for (found, expected) in [
                (log_probs.index_select(0, &top), numbers(&text["top_log_probs"][position])),
                (row.index_select(0, &sampled), numbers(&text["sample_logits"][position])),
            ] {
                let found = Vec::<f64>::try_from(found.to_kind(Kind::Double)).unwrap();
                for (f, e) in found.iter().zip(&expected) {
                    assert!((f - e).abs() < tolerance, "{name}, position {position}: {f} where transformers has {e}");
                }
            }
        }
    }
}
