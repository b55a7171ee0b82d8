//! What a decoder computes, as one value: a family builds it from its `config.json`, and the decoder follows it. Each
//! choice in which families differ is a field or a variant here, with an arm in the decoder that computes it. Pure.

use crate::model::norm::Norm;
use crate::model::rotary::scaling::RotaryPositions;
use crate::model::weights::{LayerWeight, NormSite, Projection, WeightId};

/// Sizes and design choices of a decoder.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "families choose each of them independently")]
pub struct Architecture {
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width inside the MLP.
    pub intermediate_size: i64,
    /// Number of layers.
    pub num_hidden_layers: i64,
    /// Number of query heads.
    pub num_attention_heads: i64,
    /// Number of key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: i64,
    /// Dimensions per head.
    pub head_dim: i64,
    /// Vocabulary size: rows of the embedding.
    pub vocab_size: i64,
    /// Maximum sequence length, in tokens, with rotary scaling counted in.
    pub max_position_embeddings: i64,
    /// Factor of the token embeddings, rounded to the kind of activations.
    pub embedding_scale: Option<f64>,
    /// Learned embeddings of positions, added to those of tokens.
    pub learned_positions: Option<LearnedPositions>,
    /// The rotary position embeddings that layers choose from.
    pub rotary: Vec<RotaryPositions>,
    /// What each layer attends to, and how it sees positions.
    pub layers: Vec<LayerKind>,
    /// The norm of all sites.
    pub norm: Norm,
    /// Where a layer has norms.
    pub norm_placement: NormPlacement,
    /// Whether there is a norm after the last layer.
    pub final_norm: bool,
    /// The norm of queries and keys before rotation.
    pub qk_norm: QkNorm,
    /// How attention and MLP are added to the residual stream.
    pub residual: Residual,
    /// How queries, keys and values are stored.
    pub attention_inputs: AttentionInputs,
    /// Which projections of attention add a bias.
    pub attention_bias: AttentionBias,
    /// Factor of attention scores; `None` for `1 / sqrt(head_dim)`.
    pub attention_scale: Option<f64>,
    /// Attention scores become `cap * tanh(score / cap)` (Bello et al., 2016).
    pub attention_softcap: Option<f64>,
    /// The structure of the MLP.
    pub mlp: MlpKind,
    /// Activation function of the MLP; of its gate, if it has one.
    pub activation: Activation,
    /// Whether the projections of the MLP add a bias.
    pub mlp_bias: bool,
    /// Whether the projections' weights are stored as `[in, out]`.
    pub transposed_projections: bool,
    /// Logits become `cap * tanh(logit / cap)`.
    pub logit_softcap: Option<f64>,
    /// Whether the output head shares the embedding's weight.
    pub tie_word_embeddings: bool,
}

/// How one layer sees the tokens before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerKind {
    /// Number of tokens that a token attends to, itself included; `None` for all.
    pub window: Option<i64>,
    /// Index into [`Architecture::rotary`]; `None` if queries and keys are not rotated.
    pub rotary: Option<usize>,
}

/// A learned embedding per position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnedPositions {
    /// Rows of the embedding.
    pub rows: i64,
    /// The row of position 0.
    pub offset: i64,
}

/// Where a layer has norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlacement {
    /// Before attention and before the MLP.
    Before,
    /// After attention and after the MLP.
    After,
    /// Before and after each.
    Around,
}

/// The norm of queries and keys before rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// Over each head, with one scale for all heads.
    PerHead,
    /// Over all heads together.
    Whole,
}

/// How attention and MLP are added to the residual stream `x`. A norm that a layer does not have is the identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// `x + after(attention(before(x)))`, then the same with the MLP.
    Sequential,
    /// `x + attention(before(x)) + mlp(before(x))` (Wang and Komatsuzaki, 2021).
    Parallel,
    /// `after(x + attention(x))`, then the same with the MLP (Vaswani et al., 2017).
    NormOfSum,
}

/// How the projections to queries, keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionInputs {
    /// As three.
    Separate,
    /// As one: all query heads, then all key heads, then all value heads.
    Fused,
    /// As one: query, key and value of the first head, then those of the second, and so on.
    FusedByHead,
}

/// The structure of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MlpKind {
    /// `down(activation(gate(x)) * up(x))` (Shazeer, 2020).
    Gated,
    /// The same, with gate and up stored as one projection: the gate, then up.
    FusedGated,
    /// `down(activation(up(x)))`.
    Plain,
}

/// An element-wise activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * Phi(x)`, Phi being the normal distribution function.
    Gelu,
    /// The approximation of GELU by tanh.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// Which projections of attention add a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionBias {
    /// No projection.
    None,
    /// The query, key and value projections.
    QueryKeyValue,
    /// The query, key, value and output projections.
    All,
}

impl Architecture {
    /// Every weight of a model of this architecture, with its shape. A tied head is not listed separately.
    pub fn weights(&self) -> impl Iterator<Item = (WeightId, Vec<i64>)> + '_ {
        let layers = (0..self.num_hidden_layers as usize)
            .flat_map(|layer| LayerWeight::all().map(move |weight| WeightId::Layer(layer, weight)));
        let first = [WeightId::Embedding, WeightId::Positions];
        let last = [WeightId::FinalNorm, WeightId::FinalNormBias, WeightId::Head];
        let ids = first.into_iter().chain(layers).chain(last);
        ids.filter(|id| self.has(*id)).map(|id| (id, self.shape(id)))
    }

    /// Whether models of this architecture have this weight.
    pub fn has(&self, weight: WeightId) -> bool {
        match weight {
            WeightId::Embedding => true,
            WeightId::Positions => self.learned_positions.is_some(),
            WeightId::FinalNorm => self.final_norm,
            WeightId::FinalNormBias => self.final_norm && self.norm.has_bias(),
            WeightId::Head => !self.tie_word_embeddings,
            WeightId::Layer(_, weight) => match weight {
                LayerWeight::Norm(site) => self.has_norm(site),
                LayerWeight::NormBias(site) => self.has_norm(site) && self.norm.has_bias(),
                LayerWeight::Weight(projection) => self.has_projection(projection),
                LayerWeight::Bias(projection) => self.has_projection(projection) && self.has_bias(projection),
            },
        }
    }

    /// The shape of a weight that this architecture has.
    pub fn shape(&self, weight: WeightId) -> Vec<i64> {
        match weight {
            WeightId::Embedding | WeightId::Head => vec![self.vocab_size, self.hidden_size],
            WeightId::Positions => vec![self.learned_positions.map_or(0, |p| p.rows), self.hidden_size],
            WeightId::FinalNorm | WeightId::FinalNormBias => vec![self.hidden_size],
            WeightId::Layer(_, weight) => match weight {
                LayerWeight::Norm(site) | LayerWeight::NormBias(site) => vec![self.norm_width(site)],
                LayerWeight::Weight(projection) => {
                    let [out, inputs] = self.projection_shape(projection);
                    if self.transposed_projections { vec![inputs, out] } else { vec![out, inputs] }
                }
                LayerWeight::Bias(projection) => vec![self.projection_shape(projection)[0]],
            },
        }
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> i64 {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key heads together.
    pub fn key_width(&self) -> i64 {
        self.num_key_value_heads * self.head_dim
    }

    /// The windows of the layers, each once.
    pub fn windows(&self) -> Vec<Option<i64>> {
        let mut windows: Vec<Option<i64>> = self.layers.iter().map(|layer| layer.window).collect();
        windows.sort_unstable();
        windows.dedup();
        windows
    }

    /// Number of parameters; a tied head is counted once.
    pub fn parameters(&self) -> i64 {
        self.weights().map(|(_, shape)| shape.iter().product::<i64>()).sum()
    }

    /// The longest sequence that can be sampled token by token. Some rotary scalings depend on a sequence's length: past
    /// this one, each further token would change the keys of those before it.
    pub fn sampling_context(&self) -> i64 {
        let constant = self.rotary.iter().filter_map(|rotary| rotary.scaling.constant_until());
        constant.fold(self.max_position_embeddings, |most, length| most.min(length as i64))
    }

    fn has_norm(&self, site: NormSite) -> bool {
        match site {
            NormSite::BeforeAttention | NormSite::BeforeMlp => self.norm_placement != NormPlacement::After,
            NormSite::AfterAttention | NormSite::AfterMlp => self.norm_placement != NormPlacement::Before,
            NormSite::Query | NormSite::Key => self.qk_norm != QkNorm::None,
        }
    }

    fn norm_width(&self, site: NormSite) -> i64 {
        match (site, self.qk_norm) {
            (NormSite::Query, QkNorm::Whole) => self.query_width(),
            (NormSite::Key, QkNorm::Whole) => self.key_width(),
            (NormSite::Query | NormSite::Key, _) => self.head_dim,
            _ => self.hidden_size,
        }
    }

    fn has_projection(&self, projection: Projection) -> bool {
        match projection {
            Projection::QueryKeyValue => self.attention_inputs != AttentionInputs::Separate,
            Projection::Query | Projection::Key | Projection::Value => {
                self.attention_inputs == AttentionInputs::Separate
            }
            Projection::GateUp => self.mlp == MlpKind::FusedGated,
            Projection::Gate => self.mlp == MlpKind::Gated,
            Projection::Up => self.mlp != MlpKind::FusedGated,
            Projection::Output | Projection::Down => true,
        }
    }

    /// `[out, in]`.
    fn projection_shape(&self, projection: Projection) -> [i64; 2] {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (query, key_value) = (self.query_width(), self.key_width());
        match projection {
            Projection::QueryKeyValue => [query + 2 * key_value, hidden],
            Projection::Query => [query, hidden],
            Projection::Key | Projection::Value => [key_value, hidden],
            Projection::Output => [hidden, query],
            Projection::GateUp => [2 * inner, hidden],
            Projection::Gate | Projection::Up => [inner, hidden],
            Projection::Down => [hidden, inner],
        }
    }

    fn has_bias(&self, projection: Projection) -> bool {
        match projection {
            Projection::Output => self.attention_bias == AttentionBias::All,
            attention if attention.is_attention() => self.attention_bias != AttentionBias::None,
            _ => self.mlp_bias,
        }
    }
}
