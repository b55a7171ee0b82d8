//! Low-rank adapters of a decoder (Hu et al., 2021): attaching, naming, merging, and the PEFT folder.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use plumbline_crds::training::{Adapter, AdapterTarget};

use crate::model::decoder::Decoder;
use crate::model::linear::LowRank;

/// Gives the decoder's projections adapters, drawn from `seed`. `A` is uniform in +-1/sqrt(in), as PEFT draws it
/// (Kaiming with a = sqrt 5); `B` is zero, so the model computes what it did.
pub fn attach(decoder: &mut Decoder, adapter: &Adapter, seed: u64) {
    let first = first_layer(decoder.layers.len(), adapter);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for layer in &mut decoder.layers[first..] {
        for target in targets(adapter) {
            let projection = layer.projection_mut(target);
            let (size, device) = (projection.weight.size(), projection.weight.device());
            let (out, inputs) = (size[0], size[1]);
            let bound = (inputs as f32).sqrt().recip();
            let draws: Vec<f32> = (0..adapter.rank * inputs).map(|_| rng.random_range(-1.0f32..1.0) * bound).collect();
            projection.adapter = Some(LowRank {
                a: Tensor::from_slice(&draws).view([adapter.rank, inputs]).to_device(device).set_requires_grad(true),
                b: Tensor::zeros([out, adapter.rank], (Kind::Float, device)).set_requires_grad(true),
                scale: adapter.alpha / adapter.rank as f64,
                dropout: adapter.dropout,
            });
        }
    }
}

/// The lowest layer that has an adapter.
pub fn first_layer(layers: usize, adapter: &Adapter) -> usize {
    adapter.last_layers.map_or(0, |n| layers.saturating_sub(n as usize))
}

/// The adapters' weights under PEFT's names.
pub fn parameters(decoder: &Decoder) -> BTreeMap<String, Tensor> {
    let mut named = BTreeMap::new();
    for (i, layer) in decoder.layers.iter().enumerate() {
        for target in AdapterTarget::ALL {
            if let Some(low_rank) = &layer.projection(target).adapter {
                let [a, b] = adapter_names(i, target);
                named.insert(a, low_rank.a.shallow_clone());
                named.insert(b, low_rank.b.shallow_clone());
            }
        }
    }
    named
}

/// `adapter_config.json` of a PEFT folder. `base_model`: as transformers names it.
pub fn peft_config(adapter: &Adapter, layers: usize, base_model: &str, task: &str) -> Value {
    let names: Vec<&str> = targets(adapter).into_iter().map(AdapterTarget::name).collect();
    let first = first_layer(layers, adapter);
    json!({
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base_model,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": names,
        "layers_to_transform": if first == 0 { Value::Null } else { json!((first..layers).collect::<Vec<_>>()) },
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "modules_to_save": Value::Null,
    })
}

/// Every weight of the decoder in Float32 under Hugging Face's names, adapters added in; without the head's. On the CPU: a
/// GPU that holds the model has no room for another in Float32.
pub fn merged_weights(decoder: &Decoder) -> BTreeMap<String, Tensor> {
    tch::no_grad(|| {
        let float = |t: &Tensor| t.detach().to_device(Device::Cpu).to_kind(Kind::Float);
        let mut named = BTreeMap::from([
            ("model.embed_tokens.weight".to_owned(), float(&decoder.embedding)),
            ("model.norm.weight".to_owned(), float(&decoder.norm)),
        ]);
        for (i, layer) in decoder.layers.iter().enumerate() {
            named.insert(format!("model.layers.{i}.input_layernorm.weight"), float(&layer.input_norm));
            named.insert(format!("model.layers.{i}.post_attention_layernorm.weight"), float(&layer.post_norm));
            for target in AdapterTarget::ALL {
                named.insert(weight_name(i, target), layer.projection(target).merged().to_device(Device::Cpu));
            }
        }
        if let Some(head) = &decoder.lm_head {
            named.insert("lm_head.weight".to_owned(), float(head));
        }
        named
    })
}

/// The targets in the order of the forward pass, each once.
fn targets(adapter: &Adapter) -> Vec<AdapterTarget> {
    AdapterTarget::ALL.into_iter().filter(|t| adapter.targets.contains(t)).collect()
}

/// The name of a projection's weight in a checkpoint.
pub fn weight_name(layer: usize, target: AdapterTarget) -> String {
    format!("{}.weight", projection_name(layer, target))
}

/// PEFT's names of a projection's adapter: of A and of B.
pub fn adapter_names(layer: usize, target: AdapterTarget) -> [String; 2] {
    let name = projection_name(layer, target);
    ["lora_A", "lora_B"].map(|part| format!("base_model.model.{name}.{part}.weight"))
}

fn projection_name(layer: usize, target: AdapterTarget) -> String {
    let block = match target {
        AdapterTarget::QProj | AdapterTarget::KProj | AdapterTarget::VProj | AdapterTarget::OProj => "self_attn",
        AdapterTarget::GateProj | AdapterTarget::UpProj | AdapterTarget::DownProj => "mlp",
    };
    format!("model.layers.{layer}.{block}.{}", target.name())
}
