//! The parts of `config.json` that several families read alike.

use serde_json::Value;

use crate::Result;
use crate::model::architecture::{
    Activation, Architecture, AttentionBias, AttentionInputs, LayerKind, MlpKind, NormPlacement, QkNorm, Residual,
};
use crate::model::config::keys::{Keys, Range};
use crate::model::config::rope::{self, RopeForm};
use crate::model::norm::{Norm, RmsScale};
use crate::model::rotary::scaling::RotaryPositions;

/// Upper bounds of sizes, far beyond those of existing models: products of sizes cannot overflow, and a corrupt number
/// cannot exhaust memory before a tensor's shape contradicts it.
pub(super) const WIDEST: i64 = 1 << 20;
const DEEPEST: i64 = 1 << 12;
const LARGEST_VOCABULARY: i64 = 1 << 24;
const LONGEST_CONTEXT: i64 = 1 << 24;

/// Defaults of transformers that differ by family.
pub(super) struct Defaults {
    /// Number of key and value heads, from that of query heads; null means as many as those.
    pub key_value_heads: fn(i64) -> i64,
    /// Dimensions per head, from the hidden size and the number of query heads.
    pub head_dim: fn(i64, i64) -> i64,
    /// The key of the activation, and its default.
    pub activation: (&'static str, &'static str),
    /// Added to the mean square in norms.
    pub norm_eps: f64,
    /// How norms apply their scale.
    pub norm_scale: RmsScale,
    /// Whether the head is tied to the embedding.
    pub tied: bool,
}

impl Defaults {
    /// Those of Llama.
    pub(super) const LLAMA: Self = Self {
        key_value_heads: |heads| heads,
        head_dim: |hidden, heads| hidden / heads,
        activation: ("hidden_act", "silu"),
        norm_eps: 1e-6,
        norm_scale: RmsScale::Rounded,
        tied: false,
    };
}

/// Reads a decoder with Llama's structure: RMSNorm before attention and MLP, a gated MLP, no bias, one rotary embedding of
/// whole heads for all layers.
pub(super) fn read(keys: &Keys, defaults: &Defaults) -> Result<Architecture> {
    let found = without_positions(keys, defaults)?;
    let rotary = rope::read(keys, &RopeForm::usual(found.head_dim, found.max_position_embeddings))?;
    with_rotary(keys, &found, rotary)
}

/// The same without positions.
pub(super) fn without_positions(keys: &Keys, defaults: &Defaults) -> Result<Architecture> {
    let hidden_size = keys.required("hidden_size", 1, WIDEST)?;
    let heads = keys.required("num_attention_heads", 1, WIDEST)?;
    let kv_heads = match keys.get("num_key_value_heads") {
        Some(Value::Null) => heads,
        None => (defaults.key_value_heads)(heads),
        Some(_) => keys.required("num_key_value_heads", 1, WIDEST)?,
    };
    if heads % kv_heads != 0 {
        let expected = format!("a divisor of `num_attention_heads` ({heads})");
        return Err(keys.wrong("num_key_value_heads", &expected, &kv_heads.into()));
    }
    let (key, default) = defaults.activation;
    let eps = keys.number("rms_norm_eps", Range::Positive)?.unwrap_or(defaults.norm_eps);
    let layers = keys.required("num_hidden_layers", 1, DEEPEST)?;
    Ok(Architecture {
        hidden_size,
        intermediate_size: keys.required("intermediate_size", 1, WIDEST)?,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        head_dim: head_dim(keys, (defaults.head_dim)(hidden_size, heads), heads)?,
        vocab_size: vocabulary(keys)?,
        max_position_embeddings: context(keys, "max_position_embeddings")?,
        embedding_scale: None,
        learned_positions: None,
        rotary: Vec::new(),
        layers: vec![LayerKind { window: None, rotary: None }; layers as usize],
        norm: Norm::Rms { eps, scale: defaults.norm_scale },
        norm_placement: NormPlacement::Before,
        final_norm: true,
        qk_norm: QkNorm::None,
        residual: Residual::Sequential,
        attention_inputs: AttentionInputs::Separate,
        attention_bias: AttentionBias::None,
        attention_scale: None,
        attention_softcap: None,
        mlp: MlpKind::Gated,
        activation: activation(keys, key, default)?,
        mlp_bias: false,
        transposed_projections: false,
        logit_softcap: None,
        tie_word_embeddings: keys.flag_or("tie_word_embeddings", defaults.tied)?,
    })
}

/// The sizes of a decoder with the structure of GPT-2: `LayerNorm`, an MLP without gate, biases, as many key heads as query
/// heads.
pub(super) struct Plain {
    pub(super) hidden: i64,
    pub(super) heads: i64,
    pub(super) inner: i64,
    pub(super) layers: i64,
    pub(super) vocabulary: i64,
    pub(super) context: i64,
    pub(super) activation: Activation,
    pub(super) norm: Norm,
    pub(super) tied: bool,
}

impl Plain {
    /// The architecture, without positions.
    pub(super) fn architecture(&self) -> Architecture {
        Architecture {
            hidden_size: self.hidden,
            intermediate_size: self.inner,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: self.heads,
            head_dim: self.hidden / self.heads,
            vocab_size: self.vocabulary,
            max_position_embeddings: self.context,
            embedding_scale: None,
            learned_positions: None,
            rotary: Vec::new(),
            layers: vec![LayerKind { window: None, rotary: None }; self.layers as usize],
            norm: self.norm,
            norm_placement: NormPlacement::Before,
            final_norm: true,
            qk_norm: QkNorm::None,
            residual: Residual::Sequential,
            attention_inputs: AttentionInputs::Separate,
            attention_bias: AttentionBias::All,
            attention_scale: None,
            attention_softcap: None,
            mlp: MlpKind::Plain,
            activation: self.activation,
            mlp_bias: true,
            transposed_projections: false,
            logit_softcap: None,
            tie_word_embeddings: self.tied,
        }
    }
}

/// One rotary embedding for all layers, with the context that it extends.
pub(super) fn with_rotary(keys: &Keys, found: &Architecture, rotary: RotaryPositions) -> Result<Architecture> {
    let context = rotary.context(found.max_position_embeddings);
    if context > LONGEST_CONTEXT {
        let expected = format!("a context of at most {LONGEST_CONTEXT} tokens with rotary scaling");
        return Err(keys.wrong("max_position_embeddings", &expected, &context.into()));
    }
    let layers = found.layers.iter().map(|layer| LayerKind { rotary: Some(0), ..*layer }).collect();
    Ok(Architecture { max_position_embeddings: context, rotary: vec![rotary], layers, ..*found })
}

/// The number of layers.
pub(super) fn depth(keys: &Keys, key: &str) -> Result<i64> {
    keys.required(key, 1, DEEPEST)
}

/// The vocabulary's size.
pub(super) fn vocabulary(keys: &Keys) -> Result<i64> {
    keys.required("vocab_size", 1, LARGEST_VOCABULARY)
}

/// The maximum length of a sequence.
pub(super) fn context(keys: &Keys, key: &str) -> Result<i64> {
    keys.required(key, 2, LONGEST_CONTEXT)
}

/// The activation function that a key names as transformers does.
pub(super) fn activation(keys: &Keys, key: &str, absent: &str) -> Result<Activation> {
    let Some(found) = keys.get(key) else { return Ok(named(absent).unwrap_or(Activation::Silu)) };
    found.as_str().and_then(named).ok_or_else(|| keys.not_computed(key, found))
}

fn named(name: &str) -> Option<Activation> {
    match name {
        "silu" | "swish" => Some(Activation::Silu),
        "gelu" | "gelu_python" => Some(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_python_tanh" => Some(Activation::GeluTanh),
        "relu" => Some(Activation::Relu),
        _ => None,
    }
}

/// The head width; `otherwise` if the config has none. It must be even, as rotary positions rotate pairs of dimensions.
pub(super) fn head_dim(keys: &Keys, otherwise: i64, heads: i64) -> Result<i64> {
    let found = match keys.set("head_dim") {
        None => otherwise,
        Some(_) => keys.required("head_dim", 1, WIDEST)?,
    };
    if found < 2 || found % 2 != 0 || heads * found > WIDEST {
        let expected = format!("an even number of at least 2, {heads} times which is at most {WIDEST},");
        return Err(keys.wrong("head_dim", &expected, &found.into()));
    }
    Ok(found)
}

/// Rejects heads that do not fill the hidden size.
pub(super) fn require_whole_heads(keys: &Keys, key: &str, hidden: i64, heads: i64) -> Result<()> {
    if hidden % heads == 0 {
        return Ok(());
    }
    Err(keys.wrong(key, &format!("a multiple of the number of attention heads ({heads})"), &hidden.into()))
}

/// The biases of attention, which one key switches on for all projections.
pub(super) fn attention_bias(keys: &Keys) -> Result<AttentionBias> {
    Ok(if keys.flag("attention_bias")? { AttentionBias::All } else { AttentionBias::None })
}

/// Gives some layers a window; one that reaches as far as the context hides nothing, and is none.
pub(super) fn with_window(found: Architecture, window: Option<i64>, has: impl Fn(usize) -> bool) -> Architecture {
    let window = window.filter(|window| *window < found.max_position_embeddings);
    let layers = found.layers.iter().enumerate();
    let layers = layers.map(|(i, layer)| LayerKind { window: window.filter(|_| has(i)), ..*layer }).collect();
    Architecture { layers, ..found }
}

/// Which layers have a window, by `layer_types`; `None` if the key is absent or null.
pub(super) fn sliding_layers(keys: &Keys, layers: i64) -> Result<Option<Vec<bool>>> {
    keys.per_layer("layer_types", layers, |kind| match kind.as_str()? {
        "sliding_attention" => Some(true),
        "full_attention" => Some(false),
        _ => None,
    })
}

/// Rejects windows in a family whose layers have none, if they hide tokens of the context.
pub(super) fn refuse_windows(keys: &Keys, found: &Architecture) -> Result<()> {
    if sliding_layers(keys, found.num_hidden_layers)?.is_some_and(|sliding| sliding.contains(&true)) {
        return Err(keys.unsupported("layer_types"));
    }
    match keys.positive_or_null("sliding_window", None)? {
        Some(window) if window < found.max_position_embeddings => {
            Err(keys.not_computed("sliding_window", &window.into()))
        }
        _ => Ok(()),
    }
}

/// Rejects a list of layers that does not say what transformers computes in families where every layer has the window,
/// whatever the list says.
pub(super) fn refuse_other_layers(keys: &Keys, found: &Architecture, window: Option<i64>) -> Result<()> {
    let sliding = sliding_layers(keys, found.num_hidden_layers)?;
    if sliding.is_some_and(|sliding| sliding.iter().any(|sliding| *sliding != window.is_some())) {
        return Err(keys.unsupported("layer_types"));
    }
    Ok(())
}
