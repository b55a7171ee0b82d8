//! Hugging Face model folders: `config.json`, `model.safetensors` (or shards under `model.safetensors.index.json`).
//! Reads by mmap; every tensor's name and shape is checked before it is used.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use plumbline_torch::Mmap;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, View};
use serde_json::{Map, Value};
use tch::{Device, Kind, Tensor};

use plumbline_crds::training::Precision;

use crate::model::config::Config;
use crate::model::decoder::{Decoder, Layer};
use crate::model::linear::Linear;
use crate::{Error, Result, alive};

/// An open model folder.
pub struct ModelFolder {
    path: PathBuf,
    /// The checked config.
    pub config: Config,
    shards: Vec<(PathBuf, Mmap)>,
    /// Which shard holds a tensor.
    index: BTreeMap<String, usize>,
}

impl ModelFolder {
    /// Opens a folder and reads the list of its tensors.
    pub fn open(path: &Path) -> Result<Self> {
        let config = Config::from_json(read_object(&path.join("config.json"))?)
            .map_err(|e| Error::Config(format!("{}: {e}", path.display())))?;
        let mut folder = Self { path: path.to_owned(), config, shards: Vec::new(), index: BTreeMap::new() };
        for file in shard_files(path)? {
            let map = plumbline_torch::map_file(&file)
                .map_err(|e| Error::Data(format!("{}: {e}; a model folder holds model.safetensors", file.display())))?;
            let names: Vec<String> = parse(&file, &map)?.names().into_iter().map(ToOwned::to_owned).collect();
            let shard = folder.shards.len();
            folder.index.extend(names.into_iter().map(|name| (name, shard)));
            folder.shards.push((file, map));
        }
        Ok(folder)
    }

    /// Whether the folder has a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// A tensor of a given shape, in a given kind, on a device.
    pub fn tensor(&self, name: &str, shape: &[i64], kind: Kind, device: Device) -> Result<Tensor> {
        alive::beat();
        let Some(&shard) = self.index.get(name) else {
            return Err(Error::Data(format!(
                "{}: tensor '{name}' is missing; the folder does not hold the model its config.json describes",
                self.path.display()
            )));
        };
        let (file, map) = &self.shards[shard];
        let tensors = parse(file, map)?;
        let view = tensors.tensor(name).map_err(|e| Error::Data(format!("{}: '{name}': {e}", file.display())))?;
        let found: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
        if found != shape {
            return Err(Error::Data(format!(
                "{}: tensor '{name}' has shape {found:?} where config.json asks for {shape:?}",
                file.display()
            )));
        }
        let tensor = to_tensor(&view, kind).map_err(|e| Error::Data(format!("{}: '{name}': {e}", file.display())))?;
        Ok(tensor.f_to_device(device)?)
    }

    /// The decoder on a device, without gradients. Names may have a `model.` prefix or none.
    pub fn decoder(&self, precision: Precision, device: Device) -> Result<Decoder> {
        let kind = match precision {
            Precision::Float32 => Kind::Float,
            Precision::BFloat16 => Kind::BFloat16,
        };
        let c = &self.config;
        let (d, ff) = (c.hidden_size, c.intermediate_size);
        let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
        let get = |name: String, shape: &[i64]| self.tensor(&name, shape, kind, device);
        let layers = (0..c.num_hidden_layers)
            .map(|i| {
                let name = |part: &str| format!("model.layers.{i}.{part}.weight");
                Ok(Layer {
                    input_norm: get(name("input_layernorm"), &[d])?,
                    q_proj: Linear::new(get(name("self_attn.q_proj"), &[q, d])?),
                    k_proj: Linear::new(get(name("self_attn.k_proj"), &[kv, d])?),
                    v_proj: Linear::new(get(name("self_attn.v_proj"), &[kv, d])?),
                    o_proj: Linear::new(get(name("self_attn.o_proj"), &[d, q])?),
                    post_norm: get(name("post_attention_layernorm"), &[d])?,
                    gate_proj: Linear::new(get(name("mlp.gate_proj"), &[ff, d])?),
                    up_proj: Linear::new(get(name("mlp.up_proj"), &[ff, d])?),
                    down_proj: Linear::new(get(name("mlp.down_proj"), &[d, ff])?),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let lm_head = if c.tie_word_embeddings || !self.has("lm_head.weight") {
            None
        } else {
            Some(get("lm_head.weight".into(), &[c.vocab_size, d])?)
        };
        if !c.tie_word_embeddings && lm_head.is_none() && !self.has("score.weight") {
            return Err(Error::Data(format!(
                "{}: tensor 'lm_head.weight' is missing and config.json does not tie it to the embedding",
                self.path.display()
            )));
        }
        Ok(Decoder::new(
            c.clone(),
            get("model.embed_tokens.weight".into(), &[c.vocab_size, d])?,
            layers,
            get("model.norm.weight".into(), &[d])?,
            lm_head,
            kind,
        ))
    }
}

/// Writes tensors as one safetensors file, in order of name, each in its own kind. One tensor's bytes are in memory at a
/// time.
pub fn write_safetensors(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    alive::beat();
    let saved = tensors
        .iter()
        .map(|(name, t)| {
            let (dtype, size) = match t.kind() {
                Kind::Float => (Dtype::F32, 4),
                Kind::BFloat16 => (Dtype::BF16, 2),
                Kind::Half => (Dtype::F16, 2),
                Kind::Int64 => (Dtype::I64, 8),
                Kind::Uint8 => (Dtype::U8, 1),
                kind => return Err(Error::Failed(format!("'{name}': tensors of kind {kind:?} are not saved"))),
            };
            let shape = t.size().iter().map(|&n| n as usize).collect();
            Ok((name.clone(), Saved { tensor: t, dtype, shape, bytes: t.numel() * size }))
        })
        .collect::<Result<Vec<_>>>()?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let store = |e: std::io::Error| Error::store(path, &e);
    // The library writes aside, a file for its owner alone; who serves a model is often another user. Opened without
    // truncating: the old file may be mapped.
    let usual = File::options().create(true).append(true).open(path).and_then(|file| file.metadata()).map_err(store)?;
    safetensors::serialize_to_file(saved, Some(metadata), path)
        .map_err(|e| Error::Store(format!("{}: {e}", path.display())))?;
    fs::set_permissions(path, usual.permissions()).map_err(store)
}

/// A tensor on its way into a file.
struct Saved<'a> {
    tensor: &'a Tensor,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: usize,
}

impl View for Saved<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut data = vec![0u8; self.bytes];
        self.tensor.detach().contiguous().copy_data_u8(&mut data, self.tensor.numel());
        data.into()
    }

    fn data_len(&self) -> usize {
        self.bytes
    }
}

/// Every tensor of a safetensors file, in the kind it is stored in.
pub fn read_safetensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let map = plumbline_torch::map_file(path).map_err(|e| Error::Data(format!("{}: {e}", path.display())))?;
    let tensors = parse(path, &map)?;
    tensors
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let kind = kind_of(view.dtype()).ok_or_else(|| {
                Error::Data(format!("{}: '{name}' has dtype {:?}, which is not read", path.display(), view.dtype()))
            })?;
            Ok((name.clone(), to_tensor(&view, kind)?))
        })
        .collect()
}

/// Files of a model folder that belong to its tokenizer and its way of writing.
const TOKENIZER_FILES: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
];

/// Copies the tokenizer of a model folder into another.
pub fn copy_tokenizer(from: &Path, to: &Path) -> Result<()> {
    for name in TOKENIZER_FILES {
        let (source, target) = (from.join(name), to.join(name));
        if source.exists() {
            fs::copy(&source, &target).map_err(|e| Error::store(&target, &e))?;
        }
    }
    Ok(())
}

/// A JSON object from a file.
pub fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let text = fs::read(path).map_err(|e| Error::Data(format!("{}: {e}", path.display())))?;
    serde_json::from_slice(&text).map_err(|e| Error::Data(format!("{}: {e}", path.display())))
}

fn shard_files(path: &Path) -> Result<Vec<PathBuf>> {
    let index = path.join("model.safetensors.index.json");
    if !index.exists() {
        return Ok(vec![path.join("model.safetensors")]);
    }
    let object = read_object(&index)?;
    let map = object
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| Error::Data(format!("{}: expected an object `weight_map`", index.display())))?;
    let mut files: Vec<&str> = map.values().filter_map(Value::as_str).collect();
    files.sort_unstable();
    files.dedup();
    if let Some(outside) = files.iter().find(|f| f.contains('/') || f.contains("..")) {
        return Err(Error::Data(format!("{}: '{outside}' is outside the folder", index.display())));
    }
    Ok(files.into_iter().map(|f| path.join(f)).collect())
}

fn parse<'a>(file: &Path, map: &'a Mmap) -> Result<SafeTensors<'a>> {
    SafeTensors::deserialize(map).map_err(|e| {
        Error::Data(format!("{}: not a whole safetensors file: {e}; fetch or make it again", file.display()))
    })
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::U8 => Kind::Uint8,
        _ => return None,
    })
}

fn to_tensor(view: &TensorView, kind: Kind) -> Result<Tensor> {
    let stored = kind_of(view.dtype()).ok_or_else(|| Error::Data(format!("dtype {:?} is not read", view.dtype())))?;
    let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
    let tensor = Tensor::f_from_data_size(view.data(), &shape, stored)?;
    Ok(if stored == kind { tensor } else { tensor.to_kind(kind) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_may_read_other_files_of_a_folder_may_read_its_weights() {
        let folder = tempfile::tempdir().unwrap();
        let (weights, other) = (folder.path().join("model.safetensors"), folder.path().join("config.json"));
        fs::write(&other, "{}").unwrap();
        let tensors = [("a".to_owned(), Tensor::ones([2, 3], (Kind::Float, Device::Cpu)))].into();
        for _ in 0..2 {
            write_safetensors(&weights, &tensors).unwrap();
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions();
            assert_eq!(mode(&weights), mode(&other));
        }
        assert_eq!(read_safetensors(&weights).unwrap()["a"], tensors["a"]);
    }
}
