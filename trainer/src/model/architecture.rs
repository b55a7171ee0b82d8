//! What a decoder computes, as one value: a family builds it from its `config.json`, and the decoder follows it. Each
//! choice in which families differ is a field or a variant here, with an arm in the decoder that computes it. Pure.

use tch::{Kind, Tensor};

use crate::model::weights::{LayerWeight, Projection, WeightId};

/// Sizes and design choices of a decoder.
#[derive(Clone, Debug, PartialEq)]
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
    /// Maximum sequence length, in tokens.
    pub max_position_embeddings: i64,
    /// The norm used before attention, before the MLP and after the last layer.
    pub norm: Norm,
    /// Whether queries and keys are normalised per head before rotation.
    pub qk_norm: bool,
    /// Activation function of the MLP's gate.
    pub activation: Activation,
    /// Position embedding of queries and keys.
    pub rotary: RotaryPositions,
    /// Which projections of attention add a bias.
    pub attention_bias: AttentionBias,
    /// Whether the output head shares the embedding's weight.
    pub tie_word_embeddings: bool,
}

/// A normalisation of hidden states.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// `RMSNorm` (Zhang and Sennrich, 2019): `x / sqrt(mean(x^2) + eps) * scale`.
    Rms {
        /// Added to the mean square before the root.
        eps: f64,
    },
}

/// An element-wise activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
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

/// Rotary position embedding (Su et al., 2021), applied to all dimensions of a head.
#[derive(Clone, Debug, PartialEq)]
pub struct RotaryPositions {
    /// Base of the frequencies.
    pub theta: f64,
    /// Llama 3.1's frequency scaling, if the model uses it.
    pub scaling: Option<Llama3Scaling>,
}

/// Frequency scaling of Llama 3.1.
#[derive(Clone, Debug, PartialEq)]
pub struct Llama3Scaling {
    /// Factor by which wavelengths beyond the low-frequency bound are stretched.
    pub factor: f64,
    /// `original / low_freq_factor` is the wavelength above which frequencies are scaled in full.
    pub low_freq_factor: f64,
    /// `original / high_freq_factor` is the wavelength below which frequencies are unchanged.
    pub high_freq_factor: f64,
    /// Context length of the original pretraining, in tokens.
    pub original_max_position_embeddings: f64,
}

impl Architecture {
    /// Every weight of a model of this architecture, with its shape. A tied head is not listed separately.
    pub fn weights(&self) -> impl Iterator<Item = (WeightId, Vec<i64>)> + '_ {
        let layers = (0..self.num_hidden_layers as usize)
            .flat_map(|layer| LayerWeight::all().map(move |weight| WeightId::Layer(layer, weight)));
        let ids = [WeightId::Embedding].into_iter().chain(layers).chain([WeightId::FinalNorm, WeightId::Head]);
        ids.filter(|id| self.has(*id)).map(|id| (id, self.shape(id)))
    }

    /// Whether models of this architecture have this weight.
    pub fn has(&self, weight: WeightId) -> bool {
        match weight {
            WeightId::Embedding | WeightId::FinalNorm => true,
            WeightId::Head => !self.tie_word_embeddings,
            WeightId::Layer(_, weight) => match weight {
                LayerWeight::InputNorm | LayerWeight::PostNorm | LayerWeight::Weight(_) => true,
                LayerWeight::QueryNorm | LayerWeight::KeyNorm => self.qk_norm,
                LayerWeight::Bias(projection) => self.has_bias(projection),
            },
        }
    }

    /// The shape of a weight that this architecture has.
    pub fn shape(&self, weight: WeightId) -> Vec<i64> {
        match weight {
            WeightId::Embedding | WeightId::Head => vec![self.vocab_size, self.hidden_size],
            WeightId::FinalNorm => vec![self.hidden_size],
            WeightId::Layer(_, weight) => match weight {
                LayerWeight::InputNorm | LayerWeight::PostNorm => vec![self.hidden_size],
                LayerWeight::QueryNorm | LayerWeight::KeyNorm => vec![self.head_dim],
                LayerWeight::Weight(projection) => self.projection_shape(projection).to_vec(),
                LayerWeight::Bias(projection) => vec![self.projection_shape(projection)[0]],
            },
        }
    }

    /// `[out, in]`.
    fn projection_shape(&self, projection: Projection) -> [i64; 2] {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (query, key_value) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        match projection {
            Projection::Query => [query, hidden],
            Projection::Key | Projection::Value => [key_value, hidden],
            Projection::Output => [hidden, query],
            Projection::Gate | Projection::Up => [inner, hidden],
            Projection::Down => [hidden, inner],
        }
    }

    fn has_bias(&self, projection: Projection) -> bool {
        match projection {
            Projection::Query | Projection::Key | Projection::Value => self.attention_bias != AttentionBias::None,
            Projection::Output => self.attention_bias == AttentionBias::All,
            Projection::Gate | Projection::Up | Projection::Down => false,
        }
    }

    /// Number of parameters; a tied head is counted once.
    pub fn parameters(&self) -> i64 {
        self.weights().map(|(_, shape)| shape.iter().product::<i64>()).sum()
    }

    /// Rotary frequencies, one per pair of a head's dimensions: `theta^(-2i/d)`, with the architecture's scaling
    /// applied.
    pub fn rotary_frequencies(&self) -> Vec<f64> {
        let dim = self.head_dim as f64;
        (0..self.head_dim / 2)
            .map(|i| {
                let frequency = self.rotary.theta.powf(-2.0 * i as f64 / dim);
                self.rotary.scaling.as_ref().map_or(frequency, |s| s.scale(frequency))
            })
            .collect()
    }
}

impl Norm {
    /// Normalises the last dimension, computing in Float32; returns the kind of `x`. `scale`: `[width of that
    /// dimension]`.
    pub fn apply(self, x: &Tensor, scale: &Tensor) -> Tensor {
        let Self::Rms { eps } = self;
        let width = *x.size().last().unwrap_or(&1);
        let normed = x.to_kind(Kind::Float).rms_norm([width], None::<&Tensor>, eps).to_kind(x.kind());
        normed * scale.to_kind(x.kind())
    }
}

impl Activation {
    /// Applies the function to each element.
    pub fn apply(self, x: &Tensor) -> Tensor {
        match self {
            Self::Silu => x.silu(),
        }
    }
}

impl Llama3Scaling {
    fn scale(&self, frequency: f64) -> f64 {
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        let original = self.original_max_position_embeddings;
        if wavelength < original / self.high_freq_factor {
            frequency
        } else if wavelength > original / self.low_freq_factor {
            frequency / self.factor
        } else {
            let smooth =
                (original / wavelength - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
            (1.0 - smooth) * frequency / self.factor + smooth * frequency
        }
    }
}
