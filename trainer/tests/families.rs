//! A model of each family computes what transformers computes: logits and gradients of every weight, beyond windows and
//! original contexts; packed, over a cache, in half precision, saved and loaded, with an adapter.
//!
//! `tests/golden/families.json` is written by tests/parity/golden_families.py from transformers in 64 bits; weights are a
//! function of their names (tests/parity/families.py), which is repeated here.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test says no")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use plumbline_crds::training::Precision;
use plumbline_trainer::load::hugging_face::{ModelFolder, write_safetensors};
use plumbline_trainer::load::peft;
use plumbline_trainer::load::save::{ModelClass, save_model};
use plumbline_trainer::model::attention::Context;
use plumbline_trainer::model::cache::{Cache, Prefix};
use plumbline_trainer::model::config::Config;
use plumbline_trainer::model::decoder::Decoder;
use plumbline_trainer::model::heads;
use plumbline_trainer::model::linear::Adapters;
use plumbline_trainer::model::lora;
use plumbline_trainer::model::packed::Packed;
use plumbline_trainer::model::reward_model::RewardModel;
use plumbline_trainer::model::trainable::make_trainable;
use plumbline_trainer::model::weights::WeightId;
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
            _ if name.ends_with("norm.weight") || (name.contains(".ln_") && name.ends_with(".weight")) => {
                1.0 + fraction(i)
            }
            _ if ["embed_tokens", "wte", "embed_in"].iter().any(|part| name.contains(part)) => 4.0 * fraction(i),
            _ => fraction(i),
        })
        .collect();
    Tensor::from_slice(&values).view(shape)
}

/// Writes the model of a config as a folder.
fn write(raw: &Value, folder: &Path) {
    let config = config(raw);
    let weights: BTreeMap<String, Tensor> =
        config.architecture.weights().map(|(id, shape)| (config.name(id), weight(&config.name(id), &shape))).collect();
    write_safetensors(&folder.join("model.safetensors"), &weights).unwrap();
    fs::write(folder.join("config.json"), raw.to_string()).unwrap();
}

fn read(folder: &Path, precision: Precision) -> Decoder {
    ModelFolder::open(folder).unwrap().decoder(precision, Device::Cpu).unwrap()
}

/// Writes the model of a config as a folder, and loads it.
fn load(raw: &Value, folder: &Path) -> Decoder {
    write(raw, folder);
    read(folder, Precision::Float32)
}

/// What the golden file has of one model, and the text that all models read.
struct Case<'a> {
    name: &'a str,
    model: &'a Value,
    positions: Vec<i64>,
    tokens: Tensor,
    ids: Vec<i64>,
    tolerance: f64,
}

fn cases<'a>(golden: &'a Value) -> Vec<Case<'a>> {
    let integers = |key: &str| -> Vec<i64> { serde_json::from_value(golden[key].clone()).unwrap() };
    let case = |model: &'a Value| Case {
        name: model["name"].as_str().unwrap(),
        model,
        positions: integers("positions"),
        tokens: Tensor::from_slice(&integers("tokens")),
        ids: integers("ids"),
        tolerance: golden["tolerance"][0].as_f64().unwrap(),
    };
    let found: Vec<Case> = golden["models"].as_array().unwrap().iter().map(case).collect();
    assert_eq!(found.len(), 30);
    found
}

impl Case<'_> {
    /// Compares logits (`[rows, vocab]`) with those of transformers; `first` is the row of position 0.
    #[track_caller]
    fn compare(&self, what: &str, logits: &Tensor, first: i64, tolerance: f64) {
        for (position, expected) in self.positions.iter().zip(self.model["logits"].as_array().unwrap()) {
            let row = logits.get(first + position).index_select(0, &self.tokens);
            let found = difference(&row, expected);
            assert!(found < tolerance, "{}, {what}: the logits at {position} differ by {found}", self.name);
        }
    }
}

fn logits(decoder: &Decoder, batch: &Packed, context: &mut Context) -> Tensor {
    tch::no_grad(|| heads::logits(decoder, &decoder.forward(batch, context, Adapters::On)))
}

#[track_caller]
fn assert_close(found: &Tensor, expected: &Tensor, what: &str) {
    let difference = ((found - expected).abs().max() / expected.abs().max()).double_value(&[]);
    assert!(difference < 1e-4, "{what}: differs by {difference}");
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
    for case in cases(&golden) {
        let (name, tolerance) = (case.name, case.tolerance);
        let folder = tempfile::tempdir().unwrap();
        let mut decoder = load(&case.model["config"], folder.path());
        let trained = make_trainable(&mut decoder, &serde_json::from_value(json!({})).unwrap()).unwrap();
        let hidden = decoder.forward(&Packed::new(&[&case.ids]), &mut Context::Whole, Adapters::Training);
        case.compare("alone", &heads::logits(&decoder, &hidden), 0, tolerance);

        let last = case.ids.len() as i64 - 1;
        let targets = Tensor::from_slice(&case.ids[1..]);
        let loss = -heads::token_logprobs(&decoder, &hidden.narrow(0, 0, last), &targets, 1.0, None)
            .logprobs
            .mean(Kind::Float);
        let expected = case.model["loss"].as_f64().unwrap();
        assert!((loss.double_value(&[]) / expected - 1.0).abs() < tolerance, "{name}: {loss:?}");
        loss.backward();
        let gradients = case.model["gradients"].as_object().unwrap();
        assert!(trained.keys().eq(gradients.keys().collect::<std::collections::BTreeSet<_>>()), "{name}");
        let largest = gradients.values().map(|of| of["values"][0].as_f64().unwrap().abs()).fold(0.0, f64::max);
        for (weight, expected) in gradients {
            let indices: Vec<i64> = serde_json::from_value(expected["indices"].clone()).unwrap();
            let gradient = trained[weight].grad().flatten(0, -1).index_select(0, &Tensor::from_slice(&indices));
            // The same for all keys, a bias does not change attention where keys are not rotated: its gradient is zero.
            let found = if expected["values"][0].as_f64().unwrap().abs() < 1e-12 {
                gradient.abs().max().double_value(&[]) / (0.01 * largest)
            } else {
                difference(&gradient, &expected["values"])
            };
            assert!(found < tolerance, "{name}: the gradient of {weight} differs by {found}");
        }
    }
}

#[test]
fn packing_changes_no_logits_of_any_family() {
    let golden = golden();
    for case in cases(&golden) {
        let folder = tempfile::tempdir().unwrap();
        let decoder = load(&case.model["config"], folder.path());
        // Shorter than every window and original context, and longer.
        let (short, middle) = (&case.ids[..25], &case.ids[3..90]);
        let whole = |tokens: &[i64]| logits(&decoder, &Packed::new(&[tokens]), &mut Context::Whole);
        let together = logits(&decoder, &Packed::new(&[short, &case.ids, middle]), &mut Context::Whole);
        case.compare("packed", &together, 25, case.tolerance);
        assert_close(&together.narrow(0, 0, 25), &whole(short), case.name);
        assert_close(&together.narrow(0, 25 + 201, 87), &whole(middle), case.name);
    }
}

#[test]
fn sampling_over_a_cache_has_the_logits_of_whole_sequences() {
    let golden = golden();
    let mut beyond = 0;
    for case in cases(&golden) {
        let folder = tempfile::tempdir().unwrap();
        let decoder = load(&case.model["config"], folder.path());
        let architecture = &decoder.config.architecture;
        let length = architecture.sampling_context().min(case.ids.len() as i64) as usize;
        let text = &case.ids[..length];
        // A prefix of both sequences, the rest of each prompt, and then one token at a time; the second is 12 tokens behind.
        let (shared, prompt) = (20, length - 24);
        let mut layers = Vec::new();
        let mut context = Context::Prefill { prefix: None, kept: &mut layers };
        let _ = logits(&decoder, &Packed::new(&[&text[..shared]]), &mut context);
        let prefix = Prefix { tokens: text[..shared].to_vec(), layers };
        let mut kept = Vec::new();
        let mut context = Context::Prefill { prefix: Some(&prefix), kept: &mut kept };
        let rest = [&text[shared..prompt], &text[shared..prompt - 12]];
        let prefilled = logits(&decoder, &Packed::starting_at(&rest, shared as i64), &mut context);
        let expected = logits(&decoder, &Packed::new(&[text]), &mut Context::Whole);
        let at = |position: usize| expected.get(position as i64);
        let lengths = rest.map(|rest| rest.len() as i64);
        assert_close(&prefilled.get(lengths[0] - 1), &at(prompt - 1), case.name);
        assert_close(&prefilled.get(lengths[0] + lengths[1] - 1), &at(prompt - 13), case.name);

        let mut cache = Cache::new(architecture, 2, length as i64, Kind::Float, Device::Cpu);
        cache.admit(Some(&prefix), &kept, 0, lengths[0]);
        cache.admit(Some(&prefix), &kept, lengths[0], lengths[1]);
        for next in prompt..length {
            let batch = Packed::new(&[[text[next]], [text[next - 12]]]).at_positions(cache.lengths());
            let step = cache.step(Kind::Float);
            let found = logits(&decoder, &batch, &mut Context::Decode { cache: &cache, step: &step });
            assert_close(&found.get(0), &at(next), case.name);
            assert_close(&found.get(1), &at(next - 12), case.name);
            if next == case.ids.len() - 1 {
                let last = case.model["logits"].as_array().unwrap().last().unwrap();
                let found = difference(&found.get(0).index_select(0, &case.tokens), last);
                assert!(found < case.tolerance, "{}: {found}", case.name);
                beyond += 1;
            }
        }
    }
    // The others have frequencies that depend on the length of the whole sequence.
    assert_eq!(beyond, 27);
}

#[test]
fn in_bfloat16_each_family_is_as_close_as_transformers_is() {
    let golden = golden();
    for case in cases(&golden) {
        let folder = tempfile::tempdir().unwrap();
        write(&case.model["config"], folder.path());
        let decoder = read(folder.path(), Precision::BFloat16);
        let found = logits(&decoder, &Packed::new(&[&case.ids]), &mut Context::Whole);
        case.compare("in BFloat16", &found, 0, case.model["bfloat16"].as_f64().unwrap());
    }
}

#[test]
fn a_saved_model_of_any_family_is_read_back_equal_and_so_is_a_classifier() {
    let golden = golden();
    for case in cases(&golden) {
        let [source, saved, classifier] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let decoder = load(&case.model["config"], source.path());
        let expected = logits(&decoder, &Packed::new(&[&case.ids]), &mut Context::Whole);
        let (weights, config) = (lora::merged_weights(&decoder), &decoder.config);
        save_model(saved.path(), &weights, Kind::Float, config, ModelClass::CausalLm).unwrap();
        let again = read(saved.path(), Precision::Float32);
        assert_eq!(logits(&again, &Packed::new(&[&case.ids]), &mut Context::Whole), expected, "{}", case.name);

        let mut of_scorer = weights;
        of_scorer.remove(&config.name(WeightId::Head));
        let hidden = config.architecture.hidden_size;
        of_scorer.insert("score.weight".into(), Tensor::ones([1, hidden], (Kind::Float, Device::Cpu)));
        save_model(classifier.path(), &of_scorer, Kind::Float, config, ModelClass::SequenceClassification).unwrap();
        let scorer = RewardModel::load(classifier.path(), Precision::Float32, Device::Cpu).unwrap();
        let whole = tch::no_grad(|| decoder.forward(&Packed::new(&[&case.ids]), &mut Context::Whole, Adapters::On));
        let expected = whole.get(case.ids.len() as i64 - 1).sum(Kind::Float).double_value(&[]);
        let found = scorer.score(&[&case.ids])[0];
        assert!((found - expected).abs() < 1e-3 * expected.abs().max(1.0), "{}: {found} {expected}", case.name);
    }
}

#[test]
fn adapters_of_any_family_are_saved_under_names_that_select_them_again() {
    let golden = golden();
    for case in cases(&golden) {
        let folder = tempfile::tempdir().unwrap();
        for targets in ["Attention", "Mlp", "All"] {
            let mut tuned = load(&case.model["config"], folder.path());
            let adapter = serde_json::from_value(json!({"rank": 2, "alpha": 4, "targets": [targets]})).unwrap();
            lora::attach(&mut tuned, &adapter, 3).unwrap();
            for (name, b) in lora::parameters(&tuned) {
                if name.contains("lora_B") {
                    tch::no_grad(|| b.shallow_clone().copy_(&(Tensor::randn_like(&b) * 0.1)));
                }
            }
            let text = Packed::new(&[&case.ids[..40]]);
            let expected = logits(&tuned, &text, &mut Context::Whole);
            peft::save(&tuned, &adapter, "hf://org/base", folder.path()).unwrap();
            let config = folder.path().join("adapter_config.json");
            let saved: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
            fs::remove_file(config.clone()).unwrap();
            let mut base = read(folder.path(), Precision::Float32);
            let before = logits(&base, &text, &mut Context::Whole);
            fs::write(config, saved.to_string()).unwrap();
            peft::attach(&mut base, folder.path()).unwrap();
            assert_eq!(logits(&base, &text, &mut Context::Whole), expected, "{} {targets}", case.name);
            let change = (before - &expected).abs().max().double_value(&[]);
            assert!(change > 1e-3, "{} {targets}: the adapter must matter", case.name);
            // Merged, it is the same model.
            let merged = tempfile::tempdir().unwrap();
            let weights = lora::merged_weights(&tuned);
            save_model(merged.path(), &weights, Kind::Float, &tuned.config, ModelClass::CausalLm).unwrap();
            let merged = read(merged.path(), Precision::Float32);
            assert_close(&logits(&merged, &text, &mut Context::Whole), &expected, case.name);
            fs::remove_file(folder.path().join("adapter_config.json")).unwrap();
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

#[test]
fn settings_of_published_configs_are_read() {
    let golden = golden();
    let changed = |name: &str, changes: Value| {
        let mut raw = cases(&golden).into_iter().find(|case| case.name == name).unwrap().model["config"].clone();
        raw.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        Config::from_json(raw.as_object().unwrap().clone())
    };
    let code = |class: &str| json!({"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": class, "AutoTokenizer": "Xenova/gpt-4o"});
    for (name, changes) in [
        (
            "phi3",
            json!({"auto_map": code("modeling_phi3.Phi3ForCausalLM"), "sliding_window": 262_144, "mlp_bias": false}),
        ),
        (
            "smollm3",
            json!({"pretraining_tp": 2, "max_window_layers": 28, "rope_scaling": null, "sliding_window": null}),
        ),
        ("gemma", json!({"hidden_activation": null})),
        ("gemma", json!({"hidden_activation": "gelu_pytorch_tanh", "rope_scaling": null})),
        ("gemma2", json!({"cache_implementation": "hybrid", "eos_token_id": [1, 2], "attn_logit_softcapping": null})),
        ("gemma3", json!({"attn_logit_softcapping": null, "final_logit_softcapping": null, "rope_scaling": null})),
        ("gpt2", json!({"n_ctx": 256, "summary_type": "cls_index", "hidden_size": 32})),
        ("opt", json!({"_remove_final_layer_norm": false, "prefix": "</s>", "layer_norm_elementwise_affine": true})),
        ("gpt_neox", json!({"rope_theta": 10_000, "attention_dropout": 0.0})),
    ] {
        let found = changed(name, changes.clone());
        assert!(found.is_ok(), "{name} {changes}: {}", found.unwrap_err());
    }
    for (name, changes, key) in [
        ("phi3", json!({"auto_map": code("modeling_other.OtherForCausalLM")}), "auto_map.AutoModelForCausalLM"),
        ("phi3", json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), "type"),
        ("gemma2", json!({"hidden_act": "silu"}), "hidden_act"),
        ("gemma2", json!({"use_bidirectional_attention": true}), "use_bidirectional_attention"),
        ("gemma3", json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping"),
        ("gemma3", json!({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}), "rope_parameters"),
        ("gpt2", json!({"scale_attn_by_inverse_layer_idx": true}), "scale_attn_by_inverse_layer_idx"),
        ("gpt2", json!({"add_cross_attention": true}), "add_cross_attention"),
        ("gpt2", json!({"hidden_size": 64}), "hidden_size"),
        ("opt", json!({"word_embed_proj_dim": 16}), "word_embed_proj_dim"),
        ("opt", json!({"layer_norm_elementwise_affine": false}), "layer_norm_elementwise_affine"),
        ("gpt_neox", json!({"rope_theta": 5e5}), "rope_theta"),
        ("gpt_neox", json!({"rotary_pct": 0.2}), "rotary_pct"),
    ] {
        let said = changed(name, changes.clone()).map_or_else(|error| error.to_string(), |_| "read".to_owned());
        assert!(said.contains(&format!("`{key}`")) || said.contains(&format!(".{key}`")), "{name} {changes}: {said}");
    }
}
