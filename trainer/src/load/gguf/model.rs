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
use crate::model::weights::{LayerWeight, Projection, WeightId};

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
    set("architectures", json!([format!("{}ForCausalLM", family.class)]));
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
        WeightId::FinalNorm => "output_norm.weight".to_owned(),
        WeightId::Head => "output.weight".to_owned(),
        WeightId::Layer(layer, weight) => {
            let (module, what) = match weight {
                LayerWeight::InputNorm => ("attn_norm", "weight"),
                LayerWeight::QueryNorm => ("attn_q_norm", "weight"),
                LayerWeight::KeyNorm => ("attn_k_norm", "weight"),
                LayerWeight::PostNorm => ("ffn_norm", "weight"),
                LayerWeight::Weight(p) => (gguf_projection(p), "weight"),
                LayerWeight::Bias(p) => (gguf_projection(p), "bias"),
            };
            format!("blk.{layer}.{module}.{what}")
        }
    }
}

fn gguf_projection(projection: Projection) -> &'static str {
    match projection {
        Projection::Query => "attn_q",
        Projection::Key => "attn_k",
        Projection::Value => "attn_v",
        Projection::Output => "attn_output",
        Projection::Gate => "ffn_gate",
        Projection::Up => "ffn_up",
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
pub(crate) mod tests {
    use super::super::header::tests::Writer;
    use super::*;

    /// A model of one layer: hidden 4, 2 heads of 2 over 1 key-value head, feed-forward 3, 5 tokens.
    pub(crate) fn metadata() -> Writer {
        Writer::default()
            .str("general.architecture", "llama")
            .u32("llama.block_count", 1)
            .u32("llama.context_length", 16)
            .u32("llama.embedding_length", 4)
            .u32("llama.feed_forward_length", 3)
            .u32("llama.attention.head_count", 2)
            .u32("llama.attention.head_count_kv", 1)
            .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
            .u32("tokenizer.ggml.eos_token_id", 2)
    }

    pub(crate) fn tensors(mut writer: Writer) -> Writer {
        for (name, shape) in [
            ("token_embd", [5, 4].as_slice()),
            ("output_norm", &[4]),
            ("blk.0.attn_norm", &[4]),
            ("blk.0.attn_q", &[4, 4]),
            ("blk.0.attn_k", &[2, 4]),
            ("blk.0.attn_v", &[2, 4]),
            ("blk.0.attn_output", &[4, 4]),
            ("blk.0.ffn_norm", &[4]),
            ("blk.0.ffn_gate", &[3, 4]),
            ("blk.0.ffn_up", &[3, 4]),
            ("blk.0.ffn_down", &[4, 3]),
        ] {
            let values: Vec<f32> = (0..shape.iter().product::<u64>()).map(|i| i as f32 / 8.0).collect();
            writer = writer.f32s(&format!("{name}.weight"), shape, &values);
        }
        writer
    }

    /// A model of one layer of another family: hidden 4, 2 heads of 6 over 1 key-value head.
    fn qwen(family: &str, more: &[(&str, &[u64])]) -> Vec<u8> {
        let key = |name: &str| format!("{family}.{name}");
        let mut writer = Writer::default()
            .str("general.architecture", family)
            .u32(&key("block_count"), 1)
            .u32(&key("context_length"), 16)
            .u32(&key("embedding_length"), 4)
            .u32(&key("feed_forward_length"), 3)
            .u32(&key("attention.head_count"), 2)
            .u32(&key("attention.head_count_kv"), 1)
            .u32(&key("attention.key_length"), 6)
            .u32(&key("attention.value_length"), 6)
            .f32(&key("attention.layer_norm_rms_epsilon"), 1e-6)
            .f32(&key("rope.freq_base"), 1e6);
        let usual: [(&str, &[u64]); 11] = [
            ("token_embd.weight", &[5, 4]),
            ("output_norm.weight", &[4]),
            ("blk.0.attn_norm.weight", &[4]),
            ("blk.0.attn_q.weight", &[12, 4]),
            ("blk.0.attn_k.weight", &[6, 4]),
            ("blk.0.attn_v.weight", &[6, 4]),
            ("blk.0.attn_output.weight", &[4, 12]),
            ("blk.0.ffn_norm.weight", &[4]),
            ("blk.0.ffn_gate.weight", &[3, 4]),
            ("blk.0.ffn_up.weight", &[3, 4]),
            ("blk.0.ffn_down.weight", &[4, 3]),
        ];
        for (name, shape) in usual.iter().chain(more) {
            writer = writer.f32s(name, shape, &vec![0.5; shape.iter().product::<u64>() as usize]);
        }
        writer.finish()
    }

    #[test]
    fn qwen_files_have_biases_and_head_norms_and_rows_in_order() {
        let biases: [(&str, &[u64]); 3] =
            [("blk.0.attn_q.bias", &[12]), ("blk.0.attn_k.bias", &[6]), ("blk.0.attn_v.bias", &[6])];
        let norms: [(&str, &[u64]); 2] = [("blk.0.attn_q_norm.weight", &[6]), ("blk.0.attn_k_norm.weight", &[6])];
        for (family, more, name) in [
            ("qwen2", biases.as_slice(), "model.layers.0.self_attn.k_proj.bias"),
            ("qwen3", norms.as_slice(), "model.layers.0.self_attn.k_norm.weight"),
        ] {
            let model = read_bytes(&qwen(family, more)).unwrap();
            assert_eq!((&model.config["model_type"], &model.config["head_dim"]), (&json!(family), &json!(6)));
            assert_eq!(model.config["rope_theta"], json!(1e6));
            assert_eq!(model.tensors.len(), 11 + more.len());
            assert!(model.tensors.iter().any(|tensor| tensor.name == name), "{family}");
            assert!(model.tensors.iter().all(|tensor| tensor.interleaved_heads.is_none()), "{family}");
            let missing = read_bytes(&qwen(family, &more[1..])).unwrap_err().to_string();
            assert!(missing.contains(&format!("the tensor {} is missing", more[0].0)), "{missing}");
        }
        // A Qwen3 with biases is rejected because of its tensors, as its metadata does not mention biases.
        let biased =
            read_bytes(&qwen("qwen3", &[norms.as_slice(), biases.as_slice()].concat())).unwrap_err().to_string();
        assert!(biased.contains("blk.0.attn_k.bias"), "{biased}");
    }

    fn read_bytes(bytes: &[u8]) -> Result<GgufModel, ModelError> {
        read(&Header::parse(&mut &bytes[..], bytes.len() as u64).unwrap())
    }

    #[test]
    fn a_file_without_an_output_layer_has_tied_embeddings() {
        let llama = read_bytes(&tensors(metadata()).finish()).unwrap();
        assert_eq!(llama.config["tie_word_embeddings"], json!(true));
        assert_eq!(llama.config["rms_norm_eps"], json!(1e-5));
        assert_eq!(llama.config["head_dim"], json!(2));
        assert_eq!(llama.config["eos_token_id"], json!(2));
        assert!(!llama.config.contains_key("bos_token_id"));
        assert_eq!(llama.tensors.len(), 11);
        let output = tensors(metadata()).f32s("output.weight", &[5, 4], &[0.0; 20]).finish();
        let llama = read_bytes(&output).unwrap();
        assert_eq!(llama.config["tie_word_embeddings"], json!(false));
        assert_eq!(llama.tensors[11].name, "lm_head.weight");
    }

    #[test]
    fn only_queries_and_keys_are_interleaved() {
        let llama = read_bytes(&tensors(metadata()).finish()).unwrap();
        let interleaved: Vec<(&str, usize)> =
            llama.tensors.iter().filter_map(|t| Some((t.name.as_str(), t.interleaved_heads?))).collect();
        assert_eq!(
            interleaved,
            [("model.layers.0.self_attn.q_proj.weight", 2), ("model.layers.0.self_attn.k_proj.weight", 1)]
        );
    }

    #[test]
    fn rows_of_a_pair_move_half_a_head_apart() {
        // Two heads of four rows, one column. In the file the two halves of each head are interleaved.
        let file = [0.0, 2.0, 1.0, 3.0, 10.0, 12.0, 11.0, 13.0];
        assert_eq!(unpermute(&file, 2, 1), [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0]);
        let wide: Vec<f32> = file.iter().flat_map(|x| [*x, -x]).collect();
        assert_eq!(unpermute(&wide, 2, 2)[2..6], [1.0, -1.0, 2.0, -2.0]);
    }

    #[test]
    fn an_absurd_size_is_rejected_before_it_is_used() {
        let with = |key: &str, value: u64| {
            let mut writer = Writer::default()
                .str("general.architecture", "llama")
                .f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
            for (name, usual) in [
                ("llama.block_count", 1),
                ("llama.context_length", 16),
                ("llama.embedding_length", 4),
                ("llama.feed_forward_length", 3),
                ("llama.attention.head_count", 2),
                ("llama.attention.head_count_kv", 1),
                ("llama.attention.key_length", 2),
                ("llama.rope.dimension_count", 2),
            ] {
                writer = writer.u64(name, if name == key { value } else { usual });
            }
            read_bytes(&tensors(writer).finish())
        };
        assert!(with("none", 0).is_ok());
        for key in [
            "llama.block_count",
            "llama.context_length",
            "llama.embedding_length",
            "llama.feed_forward_length",
            "llama.attention.head_count",
            "llama.attention.head_count_kv",
            "llama.attention.key_length",
            "llama.rope.dimension_count",
        ] {
            for value in [0, (1 << 62) + 2, (1 << 63) + 16, u64::MAX, 1 << 32, (1 << 32) + 2] {
                assert!(with(key, value).is_err(), "{key} {value}");
            }
        }
    }

    #[test]
    fn inconsistent_sizes_are_rejected() {
        let usual = |epsilon: f32, base: f32| {
            let writer = Writer::default()
                .str("general.architecture", "llama")
                .u32("llama.block_count", 1)
                .u32("llama.context_length", 16)
                .u32("llama.embedding_length", 4)
                .u32("llama.feed_forward_length", 3)
                .u32("llama.attention.head_count", 2)
                .u32("llama.attention.head_count_kv", 1)
                .f32("llama.attention.layer_norm_rms_epsilon", epsilon)
                .f32("llama.rope.freq_base", base);
            read_bytes(&tensors(writer).finish())
        };
        assert!(usual(1e-5, 1e4).is_ok());
        for bad in [f32::NAN, f32::INFINITY, -1.0, 0.0] {
            assert!(usual(bad, 1e4).unwrap_err().to_string().contains("rms_norm_eps"));
            assert!(usual(1e-5, bad).unwrap_err().to_string().contains("rope_theta"));
        }
    }

    #[test]
    fn models_that_would_be_imported_incorrectly_are_rejected_by_name() {
        let refusal = |bytes: Vec<u8>| read_bytes(&bytes).unwrap_err().to_string();
        let experts = Writer::default().str("general.architecture", "qwen2moe").finish();
        assert!(refusal(experts).contains("unsupported architecture qwen2moe; supported are llama"));
        let experts = tensors(metadata().u32("llama.expert_count", 8)).finish();
        assert!(refusal(experts).contains("8 experts"));
        let scaled = tensors(metadata().str("llama.rope.scaling.type", "yarn")).finish();
        assert!(refusal(scaled).contains("scaled (yarn)"));
        let partial = tensors(metadata().u32("llama.rope.dimension_count", 1)).finish();
        assert!(refusal(partial).contains("cover 1 of 2"));
        let bias = tensors(metadata()).f32s("blk.0.attn_q.bias", &[4], &[0.0; 4]).finish();
        assert!(refusal(bias).contains("blk.0.attn_q.bias"));
        let missing = metadata().f32s("token_embd.weight", &[5, 4], &[0.0; 20]).finish();
        assert!(refusal(missing).contains("blk.0.attn_norm.weight is missing"));
        let misshapen = metadata().f32s("token_embd.weight", &[5, 3], &[0.0; 15]).finish();
        assert!(refusal(misshapen).contains("has shape [5, 3]; the metadata specifies [5, 4]"));
        let split = tensors(metadata().entry("split.count", 2, &3u16.to_le_bytes())).finish();
        assert!(refusal(split).contains("one of 3 files of a split model (split.count)"));
        let unknown = tensors(metadata().f32("llama.rope.scale_linear", 4.0)).finish();
        assert!(refusal(unknown).contains("llama.rope.scale_linear"));
        let rows = tensors(metadata().u32("llama.vocab_size", 6)).finish();
        assert!(refusal(rows).contains("llama.vocab_size is 6 and token_embd.weight has 5 rows"));
        let tokens = tensors(metadata().strs("tokenizer.ggml.tokens", &["a", "b", "c", "d", "e", "f"])).finish();
        assert!(refusal(tokens).contains("token 5 (\"f\") is outside the vocabulary"));
        let odd = Writer::default().str("general.architecture", "llama").str("llama.embedding_length", "four").finish();
        assert!(refusal(odd).contains("llama.embedding_length should be a non-negative integer"));
    }
}
