//! Normalisation of hidden states, and the activation functions of MLPs. Pure.

use tch::{Kind, Tensor};

use crate::model::architecture::Activation;

/// A normalisation of hidden states, computed in Float32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// `RMSNorm` (Zhang and Sennrich, 2019): `x / sqrt(mean(x^2) + eps) * scale`.
    Rms {
        /// Added to the mean square before the root.
        eps: f64,
        /// How the scale is applied.
        scale: RmsScale,
    },
    /// `LayerNorm` (Ba et al., 2016): `(x - mean(x)) / sqrt(var(x) + eps) * scale + bias`.
    Layer {
        /// Added to the variance before the root.
        eps: f64,
    },
}

/// How an `RMSNorm` applies its scale. The variants differ in half precision only, apart from the 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RmsScale {
    /// To the rounded result, as in Llama.
    Rounded,
    /// Before rounding, as in `OLMo` 2.
    Unrounded,
    /// Plus 1, before rounding, as in Gemma.
    PlusOne,
}

/// The weights of a norm, `[width]` each.
#[derive(Debug)]
pub struct NormWeights {
    /// Factor of each dimension.
    pub scale: Tensor,
    /// Added to each dimension, if the norm has a bias.
    pub bias: Option<Tensor>,
}

impl Norm {
    /// Whether it has a bias.
    pub fn has_bias(self) -> bool {
        matches!(self, Self::Layer { .. })
    }

    /// Normalises the last dimension; returns the kind of `x`.
    pub fn apply(self, x: &Tensor, weights: &NormWeights) -> Tensor {
        let (kind, width) = (x.kind(), [*x.size().last().unwrap_or(&1)]);
        match self {
            Self::Rms { eps, scale } => {
                let normed = x.to_kind(Kind::Float).rms_norm(width, None::<&Tensor>, eps);
                let weight = &weights.scale;
                match scale {
                    RmsScale::Rounded => normed.to_kind(kind) * weight.to_kind(kind),
                    RmsScale::Unrounded => (normed * weight.to_kind(Kind::Float)).to_kind(kind),
                    RmsScale::PlusOne => (normed * (weight.to_kind(Kind::Float) + 1.0)).to_kind(kind),
                }
            }
            Self::Layer { eps } => {
                let bias = weights.bias.as_ref().map(|bias| bias.to_kind(kind));
                x.layer_norm(width, Some(weights.scale.to_kind(kind)), bias, eps, true)
            }
        }
    }
}

impl Activation {
    /// Applies the function to each element.
    pub fn apply(self, x: &Tensor) -> Tensor {
        match self {
            Self::Silu => x.silu(),
            Self::Gelu => x.gelu("none"),
            Self::GeluTanh => x.gelu("tanh"),
            Self::Relu => x.relu(),
        }
    }
}
