//! Maps a GGUF file to a Hugging Face model. Pure: header in, config and tensor names out.
//!
//! The converter that wrote the file made two changes that are undone here. It renamed tensors: `blk.0.attn_q` is
//! `model.layers.0.self_attn.q_proj`. And for some families it interleaved the rows of the query and key projections so
//! that the two dimensions of a rotated pair are neighbours; transformers stores them half a head apart (see
//! [`unpermute`]).

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::dequantize::Encoding;
use super::header::{Header, TensorInfo};
use super::metadata::{Metadata, MetadataError, Value as Entry};
use crate::model::architecture::Architecture;
use crate::model::config::Config;
use crate::model::family::{FAMILIES, Family, Gguf};
use crate::model::weights::{LayerWeight, NormSite, Projection, WeightId};

/// A model in the form of a Hugging Face directory.
#[derive(Debug)]
pub struct GgufModel {
    /// The content of `config.json`, without `torch_dtype`.
    pub config: Map<String, Value>,
    /// Every tensor of the model.
    pub tensors: Vec<Tensor>,
}

/// A tensor of the model.
#[derive(Debug)]
pub struct Tensor {
    /// Name in the Hugging Face directory.
    pub name: String,
    /// Its location in the GGUF file. The shape has been checked against the config.
    pub source: TensorInfo,
    /// Number of heads whose rows must be reordered (see [`unpermute`]); `None` if the rows are in order.
    pub interleaved_heads: Option<usize>,
}

/// Why a file is not a supported model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A metadata entry is missing or invalid.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The architecture is not supported.
    #[error(
        "unsupported architecture {found}; supported are {known} (files of SmolLM, TinyLlama and Mistral say llama)"
    )]
    Architecture {
        /// The file's architecture.
        found: String,
        /// The supported architectures.
        known: String,
    },
    /// A variant of the architecture that would be imported incorrectly.
    #[error("{0}, which is not supported; use the Hugging Face directory of this model instead")]
    Variant(String),
    /// A tensor is missing, unexpected or of the wrong shape.
    #[error("{0}")]
    Tensor(String),
}

/// Reads the config and locates every tensor.
///
/// # Errors
/// [`ModelError`], which names the key or the tensor.
pub fn read(header: &Header) -> Result<GgufModel, ModelError> {
    let (family, gguf) = family(header)?;
    let entries = Entries { header, architecture: gguf.architecture };
    refuse_unknown(&entries)?;
    let sizes = Sizes::read(&entries)?;
    refuse_variants(&entries, &sizes)?;
    let config = config(&entries, family, gguf, &sizes)?;
    // An imported model must be loadable, so the reader of config.json has to accept the config.
    let checked = Config::from_json(config.clone())
        .map_err(|e| ModelError::Variant(format!("the metadata does not describe a valid model: {e}")))?;
    Ok(GgufModel { config, tensors: find_tensors(header, gguf, &checked)? })
}

fn family(header: &Header) -> Result<(&'static Family, &'static Gguf), ModelError> {
    let found = header.metadata.text("general.architecture")?.unwrap_or("not stated");
    let readable = || FAMILIES.into_iter().filter_map(|family| Some((family, family.gguf.as_ref()?)));
    readable().find(|(_, gguf)| gguf.architecture == found).ok_or_else(|| ModelError::Architecture {
        found: found.to_owned(),
        known: readable().map(|(_, gguf)| gguf.architecture).collect::<Vec<_>>().join(", "),
    })
}

fn config(entries: &Entries, family: &Family, gguf: &Gguf, sizes: &Sizes) -> Result<Map<String, Value>, ModelError> {
    let epsilon = Metadata::required(entries.float(RMS_EPSILON)?, &entries.key(RMS_EPSILON))?;
    let tied = !entries.header.tensors.contains_key("output.weight");
    let mut config = Map::new();
    let mut set = |key: &str, value: Value| config.insert(key.to_owned(), value);
    set("architectures", json!([family.causal_lm]));
    set("model_type", json!(family.model_type));
    set("hidden_size", json!(sizes.hidden));
    set("intermediate_size", json!(sizes.feed_forward));
    set("num_hidden_layers", json!(sizes.layers));
    set("num_attention_heads", json!(sizes.heads));
    set("num_key_value_heads", json!(sizes.kv_heads));
    set("head_dim", json!(sizes.head_dim));
    set("vocab_size", json!(sizes.vocabulary));
    set("max_position_embeddings", json!(sizes.context));
    set("rms_norm_eps", json!(epsilon));
    set("rope_theta", json!(entries.float("rope.freq_base")?.unwrap_or(10_000.0)));
    set("rope_scaling", Value::Null);
    set("hidden_act", json!("silu"));
    for key in gguf.off {
        set(key, json!(false));
    }
    set("tie_word_embeddings", json!(tied));
    for (key, source) in [
        ("bos_token_id", "tokenizer.ggml.bos_token_id"),
        ("eos_token_id", "tokenizer.ggml.eos_token_id"),
        ("pad_token_id", "tokenizer.ggml.padding_token_id"),
    ] {
        if let Some(id) = entries.header.metadata.integer(source)? {
            set(key, json!(id));
        }
    }
    Ok(config)
}

/// Reorders the rows of a query or key projection `[heads * d, columns]` to the order of transformers: within a head,
/// row `2 i + j` of the file becomes row `j d/2 + i`.
pub fn unpermute(values: &[f32], heads: usize, columns: usize) -> Vec<f32> {
    let rows = values.len() / columns;
    let head_dim = rows / heads;
    let half = head_dim / 2;
    (0..rows)
        .flat_map(|row| {
            let (head, within) = (row / head_dim, row % head_dim);
            let source = head * head_dim + 2 * (within % half) + within / half;
            values[source * columns..][..columns].iter().copied()
        })
        .collect()
}

const RMS_EPSILON: &str = "attention.layer_norm_rms_epsilon";

/// The metadata entries of an architecture, whose keys are prefixed with its name (`llama.block_count`).
struct Entries<'a> {
    header: &'a Header,
    architecture: &'static str,
}

impl Entries<'_> {
    fn key(&self, entry: &str) -> String {
        format!("{}.{entry}", self.architecture)
    }

    fn integer(&self, entry: &str) -> Result<Option<u64>, MetadataError> {
        self.header.metadata.integer(&self.key(entry))
    }

    fn float(&self, entry: &str) -> Result<Option<f64>, MetadataError> {
        self.header.metadata.float(&self.key(entry))
    }
}

struct Sizes {
    layers: usize,
    hidden: usize,
    feed_forward: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    context: usize,
    vocabulary: usize,
}

impl Sizes {
    fn read(entries: &Entries) -> Result<Self, ModelError> {
        let size = |entry: &str| -> Result<usize, ModelError> {
            let key = entries.key(entry);
            match Metadata::required(entries.integer(entry)?, &key)? {
                n @ 1..=LARGEST => Ok(n as usize),
                n => Err(ModelError::Tensor(format!(
                    "the metadata entry {key} is {n}, which is not a valid model dimension"
                ))),
            }
        };
        let hidden = size("embedding_length")?;
        let heads = size("attention.head_count")?;
        let kv_heads = match entries.integer("attention.head_count_kv")? {
            Some(_) => size("attention.head_count_kv")?,
            None => heads,
        };
        let head_dim = match entries.integer("attention.key_length")? {
            Some(_) => size("attention.key_length")?,
            None => hidden / heads,
        };
        let embedding = entries
            .header
            .tensors
            .get("token_embd.weight")
            .ok_or_else(|| ModelError::Tensor("the tensor token_embd.weight is missing".to_owned()))?;
        if head_dim == 0 || !head_dim.is_multiple_of(2) || !heads.is_multiple_of(kv_heads) {
            return Err(ModelError::Tensor(format!(
                "invalid attention shape: {heads} heads, {kv_heads} key-value heads, head_dim {head_dim}"
            )));
        }
        Ok(Self {
            layers: size("block_count")?,
            hidden,
            feed_forward: size("feed_forward_length")?,
            heads,
            kv_heads,
            head_dim,
            context: size("context_length")?,
            vocabulary: vocabulary(entries, embedding)?,
        })
    }
}

/// Upper bound of sizes: no model reaches it, and the product of two does not overflow.
const LARGEST: u64 = 1 << 30;

/// Number of rows of the embedding, after checking it against the file's other entries.
fn vocabulary(entries: &Entries, embedding: &TensorInfo) -> Result<usize, ModelError> {
    let rows = embedding.shape[0];
    if let Some(n) = entries.integer("vocab_size")?
        && usize::try_from(n) != Ok(rows)
    {
        let key = entries.key("vocab_size");
        return Err(ModelError::Tensor(format!("{key} is {n} and token_embd.weight has {rows} rows")));
    }
    if let Some(Entry::Texts(tokens)) = entries.header.metadata.0.get("tokenizer.ggml.tokens")
        && tokens.len() > rows
    {
        return Err(ModelError::Tensor(format!(
            "the tokenizer has {} tokens and token_embd.weight {rows} rows: token {rows} ({:?}) is outside the vocabulary",
            tokens.len(),
            tokens[rows]
        )));
    }
    Ok(rows)
}

/// Entries of an architecture that are read, or that do not change what is computed.
const KNOWN: [&str; 19] = [
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.layer_norm_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "expert_count",
    "expert_used_count",
    "tensor_data_layout",
];

/// Rejects unsupported parts of a model, and entries that may change what it computes.
fn refuse_unknown(entries: &Entries) -> Result<(), ModelError> {
    let metadata = &entries.header.metadata;
    if let Some(n @ 2..) = metadata.integer("split.count")? {
        return Err(ModelError::Tensor(format!(
            "this is one of {n} files of a split model (split.count); join them with llama.cpp's `llama-gguf-split --merge`"
        )));
    }
    let prefix = entries.key("");
    let unknown = |key: &&String| key.strip_prefix(&prefix).is_some_and(|rest| !KNOWN.contains(&rest));
    match metadata.0.keys().find(unknown) {
        Some(key) => Err(ModelError::Variant(format!("the metadata has the entry {key}"))),
        None => Ok(()),
    }
}

/// Rejects what the config cannot express, or expresses differently in transformers.
fn refuse_variants(entries: &Entries, sizes: &Sizes) -> Result<(), ModelError> {
    let variant = |what: String| Err(ModelError::Variant(what));
    if let Some(n @ 1..) = entries.integer("expert_count")? {
        return variant(format!("the model is a mixture of {n} experts"));
    }
    if let Some(n) = entries.integer("rope.dimension_count")?
        && usize::try_from(n) != Ok(sizes.head_dim)
    {
        return variant(format!("rotary embeddings cover {n} of {} dimensions per head", sizes.head_dim));
    }
    if let Some(n) = entries.integer("attention.value_length")?
        && usize::try_from(n) != Ok(sizes.head_dim)
    {
        return variant(format!("value heads have {n} dimensions and key heads {}", sizes.head_dim));
    }
    if let Some(kind) = entries.header.metadata.text(&entries.key("rope.scaling.type"))?
        && kind != "none"
    {
        return variant(format!("rotary positions are scaled ({kind})"));
    }
    if entries.header.tensors.contains_key("rope_freqs.weight") {
        return variant("rotary positions are scaled (rope_freqs.weight)".to_owned());
    }
    Ok(())
}

/// The name of a weight in a GGUF file.
fn gguf_name(weight: WeightId) -> String {
    match weight {
        WeightId::Embedding => "token_embd.weight".to_owned(),
        WeightId::Positions => "position_embd.weight".to_owned(),
        WeightId::FinalNorm => "output_norm.weight".to_owned(),
        WeightId::FinalNormBias => "output_norm.bias".to_owned(),
        WeightId::Head => "output.weight".to_owned(),
        WeightId::Layer(layer, weight) => {
            let (module, what) = match weight {
                LayerWeight::Norm(site) => (gguf_norm(site), "weight"),
                LayerWeight::NormBias(site) => (gguf_norm(site), "bias"),
                LayerWeight::Weight(p) => (gguf_projection(p), "weight"),
                LayerWeight::Bias(p) => (gguf_projection(p), "bias"),
            };
            format!("blk.{layer}.{module}.{what}")
        }
    }
}

fn gguf_norm(site: NormSite) -> &'static str {
    match site {
        NormSite::BeforeAttention => "attn_norm",
        NormSite::Query => "attn_q_norm",
        NormSite::Key => "attn_k_norm",
        NormSite::AfterAttention => "post_attention_norm",
        NormSite::BeforeMlp => "ffn_norm",
        NormSite::AfterMlp => "post_ffw_norm",
    }
}

fn gguf_projection(projection: Projection) -> &'static str {
    match projection {
        Projection::QueryKeyValue => "attn_qkv",
        Projection::Query => "attn_q",
        Projection::Key => "attn_k",
        Projection::Value => "attn_v",
        Projection::Output => "attn_output",
        Projection::Gate => "ffn_gate",
        // llama.cpp stores a fused gate under the name of the other half.
        Projection::GateUp | Projection::Up => "ffn_up",
        Projection::Down => "ffn_down",
    }
}

fn find_tensors(header: &Header, gguf: &Gguf, config: &Config) -> Result<Vec<Tensor>, ModelError> {
    let mut tensors = Vec::new();
    for (weight, shape) in config.architecture.weights() {
        let name = gguf_name(weight);
        let missing = || ModelError::Tensor(format!("the tensor {name} is missing"));
        let source = header.tensors.get(&name).ok_or_else(missing)?.clone();
        if !source.shape.iter().map(|n| i64::try_from(*n)).eq(shape.iter().map(|n| Ok(*n))) {
            return Err(ModelError::Tensor(format!(
                "the tensor {name} has shape {:?}; the metadata specifies {shape:?}",
                source.shape
            )));
        }
        if let Encoding::Unsupported(encoding) = source.encoding {
            return Err(ModelError::Variant(format!("the tensor {name} is encoded as {encoding}")));
        }
        let interleaved_heads = if gguf.interleaved { rotated_heads(&config.architecture, weight) } else { None };
        tensors.push(Tensor { name: config.name(weight), source, interleaved_heads });
    }
    let known: BTreeSet<&str> = tensors.iter().map(|t| t.source.name.as_str()).collect();
    match header.tensors.keys().find(|name| !known.contains(name.as_str())) {
        Some(name) => Err(ModelError::Variant(format!("the model has a tensor {name}"))),
        None => Ok(tensors),
    }
}

/// Number of heads that a weight's rows belong to, if its output is rotated by position.
fn rotated_heads(architecture: &Architecture, weight: WeightId) -> Option<usize> {
    match weight {
        WeightId::Layer(_, LayerWeight::Weight(Projection::Query)) => Some(architecture.num_attention_heads as usize),
        WeightId::Layer(_, LayerWeight::Weight(Projection::Key)) => Some(architecture.num_key_value_heads as usize),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests;
