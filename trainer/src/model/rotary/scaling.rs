//! The frequencies of rotary positions and their scalings, by which a model reaches beyond the context of its pretraining.
//! Pure.

use std::f64::consts::PI;

/// Rotary position embedding (Su et al., 2021) of the first dimensions of each head.
#[derive(Clone, Debug, PartialEq)]
pub struct RotaryPositions {
    /// Base of the frequencies.
    pub theta: f64,
    /// Number of dimensions that are rotated: even, at most those of a head.
    pub dims: i64,
    /// Scaling of the frequencies.
    pub scaling: Scaling,
}

/// A scaling of the frequencies `theta^(-2i/d)`.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// None.
    None,
    /// Frequencies are divided by a factor (Chen et al., 2023).
    Linear {
        /// The factor.
        factor: f64,
    },
    /// In sequences beyond the original context the base grows with the length (dynamic NTK).
    Dynamic {
        /// The factor.
        factor: f64,
        /// The original context, in tokens.
        original: f64,
    },
    /// Llama 3.1's: low frequencies are divided by a factor.
    Llama3(Llama3Scaling),
    /// `YaRN` (Peng et al., 2023).
    Yarn(YarnScaling),
    /// `LongRoPE` (Ding et al., 2024): a divisor per frequency, of two sets by a sequence's length.
    LongRope(LongRopeScaling),
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

/// Settings of `YaRN`.
#[derive(Clone, Debug, PartialEq)]
pub struct YarnScaling {
    /// Factor by which low frequencies are divided.
    pub factor: f64,
    /// Context length of the original pretraining, in tokens.
    pub original: f64,
    /// Factor of cosines and sines.
    pub attention_factor: f64,
    /// Frequencies with more rotations than this in the original context are unchanged.
    pub beta_fast: f64,
    /// Frequencies with fewer rotations than this are scaled in full.
    pub beta_slow: f64,
    /// Whether the two bounds are rounded to whole dimensions.
    pub truncate: bool,
}

/// Settings of `LongRoPE`.
#[derive(Clone, Debug, PartialEq)]
pub struct LongRopeScaling {
    /// Divisors in sequences within the original context, one per frequency.
    pub short: Vec<f64>,
    /// Divisors in longer sequences, one per frequency.
    pub long: Vec<f64>,
    /// Context length of the original pretraining, in tokens.
    pub original: f64,
    /// Factor of cosines and sines.
    pub attention_factor: f64,
}

impl RotaryPositions {
    /// Unscaled positions.
    pub fn unscaled(theta: f64, dims: i64) -> Self {
        Self { theta, dims, scaling: Scaling::None }
    }

    /// The frequencies in a sequence of `length` tokens, one per pair of rotated dimensions.
    pub fn frequencies(&self, length: f64) -> Vec<f64> {
        let dims = self.dims as f64;
        let theta = match self.scaling {
            Scaling::Dynamic { factor, original } if length > original => {
                self.theta * (factor * length / original - (factor - 1.0)).powf(dims / (dims - 2.0))
            }
            _ => self.theta,
        };
        let plain = (0..self.dims / 2).map(|i| theta.powf(-2.0 * i as f64 / dims));
        match &self.scaling {
            Scaling::None | Scaling::Dynamic { .. } => plain.collect(),
            Scaling::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
            Scaling::Llama3(llama3) => plain.map(|frequency| llama3.scale(frequency)).collect(),
            Scaling::Yarn(yarn) => {
                let kept = yarn.kept(theta, dims);
                plain.zip(kept).map(|(f, kept)| f / yarn.factor * (1.0 - kept) + f * kept).collect()
            }
            Scaling::LongRope(scaling) => {
                let divisors = if length > scaling.original { &scaling.long } else { &scaling.short };
                plain.zip(divisors).map(|(frequency, divisor)| frequency / divisor).collect()
            }
        }
    }

    /// The context of a model whose config states `context`: these settings may extend it.
    pub fn context(&self, context: i64) -> i64 {
        let extended = match &self.scaling {
            Scaling::Linear { factor } => context as f64 * factor,
            Scaling::Dynamic { factor, original } => original * factor,
            Scaling::Yarn(yarn) => yarn.original * yarn.factor,
            Scaling::None | Scaling::Llama3(_) | Scaling::LongRope(_) => 0.0,
        };
        context.max(extended as i64)
    }
}

impl Scaling {
    /// The sequence length up to which frequencies do not depend on it, in tokens; `None` if they never do.
    pub fn constant_until(&self) -> Option<f64> {
        match self {
            Self::Dynamic { original, .. } => Some(*original),
            Self::LongRope(scaling) => Some(scaling.original),
            Self::None | Self::Linear { .. } | Self::Llama3(_) | Self::Yarn(_) => None,
        }
    }

    /// Factor of cosines and sines.
    pub fn attention_factor(&self) -> f64 {
        match self {
            Self::Yarn(yarn) => yarn.attention_factor,
            Self::LongRope(scaling) => scaling.attention_factor,
            Self::None | Self::Linear { .. } | Self::Dynamic { .. } | Self::Llama3(_) => 1.0,
        }
    }
}

impl Llama3Scaling {
    fn scale(&self, frequency: f64) -> f64 {
        let wavelength = 2.0 * PI / frequency;
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

impl YarnScaling {
    /// The fraction of each frequency that is unscaled: 1 below the first bound, 0 above the second.
    fn kept(&self, theta: f64, dims: f64) -> impl Iterator<Item = f64> {
        // The dimension whose frequency makes this many rotations in the original context.
        let bound = |rotations: f64| dims * (self.original / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln());
        let (low, high) = (bound(self.beta_fast), bound(self.beta_slow));
        let (low, high) = if self.truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(dims - 1.0));
        let high = if (high - low).abs() < f64::EPSILON { low + 0.001 } else { high };
        (0..(dims / 2.0) as i64).map(move |i| 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0))
    }
}
