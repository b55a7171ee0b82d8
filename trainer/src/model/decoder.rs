//! The decoder of the Llama family: token embedding, layers of attention and gated MLP with RMSNorm before each, a final
//! norm. It takes packed tokens and returns hidden states.

use tch::{Device, Kind, Tensor};

use plumbline_crds::training::AdapterTarget;

use crate::model::attention::{Context, attend};
use crate::model::config::Config;
use crate::model::linear::{Adapters, Linear};
use crate::model::packed::Packed;

/// A causal decoder.
#[derive(Debug)]
pub struct Decoder {
    /// Sizes and constants.
    pub config: Config,
    /// `[vocab, hidden]`.
    pub embedding: Tensor,
    /// Layers, the first read first.
    pub layers: Vec<Layer>,
    /// `[hidden]`, scale of the final norm.
    pub norm: Tensor,
    /// `[vocab, hidden]`, unless the head is tied to the embedding.
    pub lm_head: Option<Tensor>,
    /// The kind of activations.
    pub kind: Kind,
    /// `[positions, 1, head_dim]` each.
    rotary: (Tensor, Tensor),
}

/// One layer.
#[derive(Debug)]
pub struct Layer {
    /// `[hidden]`, scale of the norm before attention.
    pub input_norm: Tensor,
    /// Query projection.
    pub q_proj: Linear,
    /// Key projection.
    pub k_proj: Linear,
    /// Value projection.
    pub v_proj: Linear,
    /// Output projection of attention.
    pub o_proj: Linear,
    /// `[hidden]`, scale of the norm before the MLP.
    pub post_norm: Tensor,
    /// Gate projection.
    pub gate_proj: Linear,
    /// Up projection.
    pub up_proj: Linear,
    /// Down projection.
    pub down_proj: Linear,
}

impl Layer {
    /// A projection by its name.
    pub fn projection(&self, target: AdapterTarget) -> &Linear {
        match target {
            AdapterTarget::QProj => &self.q_proj,
            AdapterTarget::KProj => &self.k_proj,
            AdapterTarget::VProj => &self.v_proj,
            AdapterTarget::OProj => &self.o_proj,
            AdapterTarget::GateProj => &self.gate_proj,
            AdapterTarget::UpProj => &self.up_proj,
            AdapterTarget::DownProj => &self.down_proj,
        }
    }

    /// A projection by its name, to change.
    pub fn projection_mut(&mut self, target: AdapterTarget) -> &mut Linear {
        match target {
            AdapterTarget::QProj => &mut self.q_proj,
            AdapterTarget::KProj => &mut self.k_proj,
            AdapterTarget::VProj => &mut self.v_proj,
            AdapterTarget::OProj => &mut self.o_proj,
            AdapterTarget::GateProj => &mut self.gate_proj,
            AdapterTarget::UpProj => &mut self.up_proj,
            AdapterTarget::DownProj => &mut self.down_proj,
        }
    }
}

impl Decoder {
    /// A decoder of given weights, for sequences of at most `positions` tokens.
    pub fn new(
        config: Config,
        embedding: Tensor,
        layers: Vec<Layer>,
        norm: Tensor,
        lm_head: Option<Tensor>,
        kind: Kind,
    ) -> Self {
        let rotary = rotary_tables(&config, kind);
        Self { config, embedding, layers, norm, lm_head, kind, rotary }
    }

    /// The head's weight, `[vocab, hidden]`.
    pub fn head_weight(&self) -> &Tensor {
        self.lm_head.as_ref().unwrap_or(&self.embedding)
    }

    /// Hidden states after the final norm, `[tokens, hidden]`.
    pub fn forward(&self, batch: &Packed, context: &mut Context, adapters: Adapters) -> Tensor {
        let x = self.embed(batch);
        let x = self.run_layers(0..self.layers.len(), x, batch, context, adapters);
        self.final_norm(&x)
    }

    /// The tokens' embeddings, `[tokens, hidden]`.
    pub fn embed(&self, batch: &Packed) -> Tensor {
        Tensor::embedding(&self.embedding, &batch.tokens, -1, false, false).to_kind(self.kind)
    }

    /// Runs some of the layers on hidden states, `[tokens, hidden]` -> the same.
    pub fn run_layers(
        &self,
        range: std::ops::Range<usize>,
        mut x: Tensor,
        batch: &Packed,
        context: &mut Context,
        adapters: Adapters,
    ) -> Tensor {
        let cos = self.rotary.0.index_select(0, &batch.positions);
        let sin = self.rotary.1.index_select(0, &batch.positions);
        for index in range {
            x = self.layer(index, &x, batch, context, adapters, (&cos, &sin));
        }
        x
    }

    /// The final norm.
    pub fn final_norm(&self, x: &Tensor) -> Tensor {
        rms_norm(x, &self.norm, self.config.rms_norm_eps)
    }

    fn layer(
        &self,
        index: usize,
        x: &Tensor,
        batch: &Packed,
        context: &mut Context,
        adapters: Adapters,
        (cos, sin): (&Tensor, &Tensor),
    ) -> Tensor {
        let (layer, config) = (&self.layers[index], &self.config);
        let rows = x.size()[0];
        let y = rms_norm(x, &layer.input_norm, config.rms_norm_eps);
        let split = |t: Tensor, heads: i64| t.view([rows, heads, config.head_dim]);
        let q = rotate(&split(layer.q_proj.forward(&y, adapters), config.num_attention_heads), cos, sin);
        let k = rotate(&split(layer.k_proj.forward(&y, adapters), config.num_key_value_heads), cos, sin);
        let v = split(layer.v_proj.forward(&y, adapters), config.num_key_value_heads);
        let attended = attend(config, index, batch, context, &q, &k, &v);
        let x = x + layer.o_proj.forward(&attended, adapters);
        let y = rms_norm(&x, &layer.post_norm, config.rms_norm_eps);
        let gated = layer.gate_proj.forward(&y, adapters).silu() * layer.up_proj.forward(&y, adapters);
        x + layer.down_proj.forward(&gated, adapters)
    }
}

/// RMSNorm (Zhang and Sennrich, 2019), computed in Float32: `x / sqrt(mean(x^2) + eps) * scale`.
pub fn rms_norm(x: &Tensor, scale: &Tensor, eps: f64) -> Tensor {
    let width = *x.size().last().unwrap_or(&1);
    let normed = x.to_kind(Kind::Float).rms_norm([width], None::<&Tensor>, eps).to_kind(x.kind());
    normed * scale.to_kind(x.kind())
}

/// Rotary position embedding (Su et al., 2021) in the half-split layout of Hugging Face. `x`: `[tokens, heads, dim]`,
/// `cos` and `sin`: `[tokens, 1, dim]`, the latter with the first half negated.
fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Tensor {
    let half = x.size()[2] / 2;
    x * cos + x.roll([half], [2]) * sin
}

/// Cosines and sines of every position. The sine's first half is negated, so that a rotation is one roll and two
/// products: `[a, b] -> [a, b] cos + [b, a] [-sin, sin]`.
fn rotary_tables(config: &Config, kind: Kind) -> (Tensor, Tensor) {
    let frequencies = Tensor::from_slice(&config.rotary_frequencies());
    let angles = Tensor::arange(config.max_position_embeddings, (Kind::Double, Device::Cpu)).outer(&frequencies);
    let (cos, sin) = (angles.cos(), angles.sin());
    let table = |first: &Tensor, second: &Tensor| Tensor::cat(&[first, second], 1).to_kind(kind).unsqueeze(1);
    (table(&cos, &cos), table(&sin.neg(), &sin))
}
