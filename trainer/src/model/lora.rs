//! Low-rank adapters of a decoder (Hu et al., 2021): attaching, naming, merging, and the config of a PEFT directory.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use plumbline_crds::training::{Adapter, AdapterTarget};

use crate::model::config::Config;
use crate::model::decoder::Decoder;
use crate::model::linear::LowRank;
use crate::model::weights::{LayerWeight, Projection, WeightId};
use crate::{Error, Result};

/// Attaches adapters to the decoder's projections, initialised from `seed`. `A` is uniform in +-1/sqrt(in), as in PEFT
/// (Kaiming with a = sqrt 5); `B` is zero, so the model's output does not change.
///
/// # Errors
/// Those of [`projections`].
pub fn attach(decoder: &mut Decoder, adapter: &Adapter, seed: u64) -> Result<()> {
    let targets = projections(&decoder.config, &adapter.targets)?;
    let first = first_layer(decoder.layers.len(), adapter);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for layer in &mut decoder.layers[first..] {
        for &target in &targets {
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
    Ok(())
}

/// The projections selected by targets, in the order of the forward pass, without duplicates.
///
/// # Errors
/// [`Error::Config`] for a name that the model does not have.
pub fn projections(config: &Config, targets: &[AdapterTarget]) -> Result<Vec<Projection>> {
    let named: Vec<(Projection, String)> = existing(config).collect();
    for (index, target) in targets.iter().enumerate() {
        if let AdapterTarget::Module(name) = target
            && named.iter().all(|(_, known)| known != name)
        {
            let known = named.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(Error::Config(format!(
                "spec.training.adapter.targets[{index}]: a {} model has no projection `{name}`; expected Attention, Mlp, All, or one of {known}",
                config.family.model_type
            )));
        }
    }
    let is_target = |(projection, name): &(Projection, String)| {
        targets.iter().any(|target| match target {
            AdapterTarget::All => true,
            AdapterTarget::Attention => projection.is_attention(),
            AdapterTarget::Mlp => !projection.is_attention(),
            AdapterTarget::Module(module) => module == name,
        })
    };
    Ok(named.into_iter().filter(is_target).map(|(projection, _)| projection).collect())
}

/// The projections of a model and the names of their modules within a block (`q_proj`), in the order of the forward pass.
pub fn existing(config: &Config) -> impl Iterator<Item = (Projection, String)> {
    let has = |p: &Projection| config.architecture.has(WeightId::Layer(0, LayerWeight::Weight(*p)));
    Projection::ALL.into_iter().filter(has).map(|p| {
        let module = config.module(0, p);
        (p, module.rsplit('.').next().unwrap_or(&module).to_owned())
    })
}

/// Index of the lowest layer that has an adapter.
pub fn first_layer(layers: usize, adapter: &Adapter) -> usize {
    adapter.last_layers.map_or(0, |n| layers.saturating_sub(n as usize))
}

/// The adapters' weights under PEFT's names.
pub fn parameters(decoder: &Decoder) -> BTreeMap<String, Tensor> {
    let mut named = BTreeMap::new();
    for (i, layer) in decoder.layers.iter().enumerate() {
        for projection in Projection::ALL {
            if let Some(low_rank) = &layer.projection(projection).adapter {
                let [a, b] = adapter_names(&decoder.config, i, projection);
                named.insert(a, low_rank.a.shallow_clone());
                named.insert(b, low_rank.b.shallow_clone());
            }
        }
    }
    named
}

/// `adapter_config.json` of a PEFT directory. `base_model`: its name in transformers.
///
/// # Errors
/// Those of [`projections`].
pub fn peft_config(decoder: &Decoder, adapter: &Adapter, base_model: &str, task: &str) -> Result<Value> {
    let targets = projections(&decoder.config, &adapter.targets)?;
    let names: Vec<String> =
        existing(&decoder.config).filter(|(p, _)| targets.contains(p)).map(|(_, name)| name).collect();
    let layers = decoder.layers.len();
    let first = first_layer(layers, adapter);
    Ok(json!({
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
    }))
}

/// Every weight of the decoder except the head's, in Float32 under Hugging Face's names, with adapters merged. On the
/// CPU: a GPU that contains the model has no room for a second copy in Float32.
pub fn merged_weights(decoder: &Decoder) -> BTreeMap<String, Tensor> {
    tch::no_grad(|| {
        let float = |t: &Tensor| t.detach().to_device(Device::Cpu).to_kind(Kind::Float);
        let whole = |(id, weight): (WeightId, &Tensor)| {
            let value = match id {
                WeightId::Layer(i, LayerWeight::Weight(projection)) => {
                    decoder.layers[i].projection(projection).merged().to_device(Device::Cpu)
                }
                _ => float(weight),
            };
            (decoder.config.name(id), value)
        };
        decoder.weights().map(whole).collect()
    })
}

/// PEFT's names of a projection's adapter weights, A and B.
pub fn adapter_names(config: &Config, layer: usize, projection: Projection) -> [String; 2] {
    let module = config.module(layer, projection);
    ["lora_A", "lora_B"].map(|part| format!("base_model.model.{module}.{part}.weight"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::tests::tiny_of;

    fn targets(names: &[&str]) -> Result<Vec<Projection>> {
        let targets: Vec<AdapterTarget> = names.iter().map(|name| (*name).to_owned().into()).collect();
        projections(&tiny_of("qwen3"), &targets)
    }

    #[test]
    fn roles_and_names_select_each_projection_once_in_forward_order() {
        assert_eq!(targets(&["All"]).unwrap(), Projection::ALL);
        assert_eq!(targets(&["Attention"]).unwrap(), Projection::ALL[..4]);
        assert_eq!(targets(&["Mlp"]).unwrap(), Projection::ALL[4..]);
        let mixed = [Projection::Query, Projection::Gate, Projection::Up, Projection::Down];
        assert_eq!(targets(&["down_proj", "Mlp", "q_proj"]).unwrap(), mixed);
    }

    #[test]
    fn an_unknown_target_is_rejected_with_a_list_of_known_ones() {
        let error = targets(&["q_proj", "c_attn"]).unwrap_err();
        assert!(matches!(error, Error::Config(_)));
        assert_eq!(
            error.to_string(),
            "spec.training.adapter.targets[1]: a qwen3 model has no projection `c_attn`; expected Attention, Mlp, All, or \
             one of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
        );
        // Names of roles are case-sensitive: `Attention`.
        assert!(targets(&["attention"]).is_err());
    }
}
