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
            let Some(projection) = layer.projection_mut(target) else { continue };
            let ((out, inputs), device) = (projection.features(), projection.weight.device());
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
    let modules: Vec<Module> = modules(config).collect();
    for (index, target) in targets.iter().enumerate() {
        if let AdapterTarget::Module(name) = target
            && modules.iter().all(|module| !module.is_named(name))
        {
            return Err(Error::Config(format!(
                "spec.training.adapter.targets[{index}]: a {} model has no projection `{name}`; expected Attention, Mlp, All, or one of {}",
                config.family.model_type,
                known_modules(config)
            )));
        }
    }
    let is_target = |module: &Module| {
        targets.iter().any(|target| match target {
            AdapterTarget::All => true,
            AdapterTarget::Attention => module.projection.is_attention(),
            AdapterTarget::Mlp => !module.projection.is_attention(),
            AdapterTarget::Module(name) => module.is_named(name),
        })
    };
    Ok(modules.iter().filter(|module| is_target(module)).map(|module| module.projection).collect())
}

/// A projection of a model and its module in transformers.
pub struct Module {
    /// The projection.
    pub projection: Projection,
    /// Its path within a layer (`self_attn.q_proj`).
    path: String,
}

impl Module {
    /// Its name without the path (`q_proj`), which projections of attention and MLP may share.
    pub fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or(&self.path)
    }

    /// Whether PEFT applies a target of this name to it: the end of its path.
    pub fn is_named(&self, target: &str) -> bool {
        self.path.strip_suffix(target).is_some_and(|before| before.is_empty() || before.ends_with('.'))
    }
}

/// The projections of a model, in the order of the forward pass.
pub fn modules(config: &Config) -> impl Iterator<Item = Module> {
    let has = |p: &Projection| config.architecture.has(WeightId::Layer(0, LayerWeight::Weight(*p)));
    Projection::ALL.into_iter().filter(has).map(|projection| {
        let module = config.module(0, projection);
        let path = module.split_once(".0.").map_or(module.as_str(), |(_, path)| path).to_owned();
        Module { projection, path }
    })
}

/// The names of a model's modules, for a message.
pub fn known_modules(config: &Config) -> String {
    let mut names: Vec<String> = Vec::new();
    for module in modules(config) {
        if names.iter().all(|name| name != module.name()) {
            names.push(module.name().to_owned());
        }
    }
    names.join(", ")
}

/// The names by which PEFT finds exactly these projections.
fn peft_targets(config: &Config, targets: &[Projection]) -> Vec<String> {
    let all: Vec<Module> = modules(config).collect();
    let is_target = |module: &Module| targets.contains(&module.projection);
    let mut names: Vec<String> = Vec::new();
    for module in all.iter().filter(|module| is_target(module)) {
        let alone = all.iter().all(|other| !other.is_named(module.name()) || is_target(other));
        let name = if alone { module.name() } else { &module.path };
        if names.iter().all(|known| known != name) {
            names.push(name.to_owned());
        }
    }
    names
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
            if let Some(low_rank) = layer.projection(projection).and_then(|linear| linear.adapter.as_ref()) {
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
    let layers = decoder.layers.len();
    let first = first_layer(layers, adapter);
    Ok(json!({
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base_model,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": peft_targets(&decoder.config, &targets),
        "layers_to_transform": if first == 0 { Value::Null } else { json!((first..layers).collect::<Vec<_>>()) },
        "bias": "none",
        "fan_in_fan_out": decoder.config.architecture.transposed_projections,
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
            let projection = match id {
                WeightId::Layer(i, LayerWeight::Weight(projection)) => decoder.layers[i].projection(projection),
                _ => None,
            };
            let value = projection.map_or_else(|| float(weight), |linear| linear.merged().to_device(Device::Cpu));
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
        use Projection::{Down, Gate, Key, Output, Query, Up, Value};
        assert_eq!(targets(&["All"]).unwrap(), [Query, Key, Value, Output, Gate, Up, Down]);
        assert_eq!(targets(&["Attention"]).unwrap(), [Query, Key, Value, Output]);
        assert_eq!(targets(&["Mlp"]).unwrap(), [Gate, Up, Down]);
        assert_eq!(targets(&["down_proj", "Mlp", "q_proj"]).unwrap(), [Query, Gate, Up, Down]);
        assert_eq!(targets(&["self_attn.q_proj"]).unwrap(), [Query]);
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
