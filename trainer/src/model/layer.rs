//! The weights of a layer, built from storage and accessed by id.

use tch::Tensor;

use crate::Result;
use crate::model::architecture::{Architecture, AttentionInputs, MlpKind};
use crate::model::linear::Linear;
use crate::model::norm::NormWeights;
use crate::model::weights::{LayerWeight, NormSite, Projection, WeightId};

/// One layer.
#[derive(Debug)]
pub struct Layer {
    /// By [`NormSite`]; `None` where the architecture has no norm.
    norms: [Option<NormWeights>; NormSite::ALL.len()],
    /// Projections to queries, keys and values.
    pub inputs: Inputs,
    /// Output projection of attention.
    pub output: Linear,
    /// The MLP.
    pub mlp: Mlp,
}

/// The projections to queries, keys and values.
#[derive(Debug)]
pub enum Inputs {
    /// One each.
    Separate {
        /// Hidden states to queries.
        query: Linear,
        /// Hidden states to keys.
        key: Linear,
        /// Hidden states to values.
        value: Linear,
    },
    /// One for all.
    Fused(Linear),
}

/// The projections of an MLP.
#[derive(Debug)]
pub struct Mlp {
    /// Hidden states to the inner width.
    pub inner: Inner,
    /// The inner width back to hidden states.
    pub down: Linear,
}

/// The projections to the inner width of an MLP.
#[derive(Debug)]
pub enum Inner {
    /// With a gate.
    Gated {
        /// The gate.
        gate: Linear,
        /// What it multiplies.
        up: Linear,
    },
    /// With a gate, both as one projection.
    FusedGated(Linear),
    /// Without a gate.
    Plain(Linear),
}

/// Returns the weight with an id, in the requested shape.
pub type GetWeight<'a> = dyn FnMut(WeightId, &[i64]) -> Result<Tensor> + 'a;

impl Layer {
    /// Builds the layer with this index, with the weights that its architecture has.
    ///
    /// # Errors
    /// Those of `get`.
    pub fn build(architecture: &Architecture, index: usize, get: &mut GetWeight) -> Result<Self> {
        let mut weights = Weights { architecture, index, get };
        let mut norms = [const { None }; NormSite::ALL.len()];
        for site in NormSite::ALL {
            norms[site as usize] = weights.norm(site)?;
        }
        let inputs = match architecture.attention_inputs {
            AttentionInputs::Separate => Inputs::Separate {
                query: weights.linear(Projection::Query)?,
                key: weights.linear(Projection::Key)?,
                value: weights.linear(Projection::Value)?,
            },
            AttentionInputs::Fused | AttentionInputs::FusedByHead => {
                Inputs::Fused(weights.linear(Projection::QueryKeyValue)?)
            }
        };
        let output = weights.linear(Projection::Output)?;
        let inner = match architecture.mlp {
            MlpKind::Gated => {
                Inner::Gated { gate: weights.linear(Projection::Gate)?, up: weights.linear(Projection::Up)? }
            }
            MlpKind::FusedGated => Inner::FusedGated(weights.linear(Projection::GateUp)?),
            MlpKind::Plain => Inner::Plain(weights.linear(Projection::Up)?),
        };
        let mlp = Mlp { inner, down: weights.linear(Projection::Down)? };
        Ok(Self { norms, inputs, output, mlp })
    }

    /// The weights of a norm; `None` if the layer does not have it.
    pub fn norm(&self, site: NormSite) -> Option<&NormWeights> {
        self.norms[site as usize].as_ref()
    }

    /// A weight; `None` if the layer does not have it.
    pub fn weight(&self, weight: LayerWeight) -> Option<&Tensor> {
        match weight {
            LayerWeight::Norm(site) => self.norm(site).map(|norm| &norm.scale),
            LayerWeight::NormBias(site) => self.norm(site)?.bias.as_ref(),
            LayerWeight::Weight(projection) => self.projection(projection).map(|linear| &linear.weight),
            LayerWeight::Bias(projection) => self.projection(projection)?.bias.as_ref(),
        }
    }

    /// The same, mutable.
    pub fn weight_mut(&mut self, weight: LayerWeight) -> Option<&mut Tensor> {
        match weight {
            LayerWeight::Norm(site) => self.norms[site as usize].as_mut().map(|norm| &mut norm.scale),
            LayerWeight::NormBias(site) => self.norms[site as usize].as_mut()?.bias.as_mut(),
            LayerWeight::Weight(projection) => self.projection_mut(projection).map(|linear| &mut linear.weight),
            LayerWeight::Bias(projection) => self.projection_mut(projection)?.bias.as_mut(),
        }
    }

    /// A projection; `None` if the layer does not have it.
    pub fn projection(&self, projection: Projection) -> Option<&Linear> {
        match (projection, &self.inputs, &self.mlp.inner) {
            (Projection::QueryKeyValue, Inputs::Fused(linear), _)
            | (Projection::Query, Inputs::Separate { query: linear, .. }, _)
            | (Projection::Key, Inputs::Separate { key: linear, .. }, _)
            | (Projection::Value, Inputs::Separate { value: linear, .. }, _)
            | (Projection::GateUp, _, Inner::FusedGated(linear))
            | (Projection::Gate, _, Inner::Gated { gate: linear, .. })
            | (Projection::Up, _, Inner::Gated { up: linear, .. } | Inner::Plain(linear)) => Some(linear),
            (Projection::Output, ..) => Some(&self.output),
            (Projection::Down, ..) => Some(&self.mlp.down),
            _ => None,
        }
    }

    /// The same, mutable.
    pub fn projection_mut(&mut self, projection: Projection) -> Option<&mut Linear> {
        match (projection, &mut self.inputs, &mut self.mlp.inner) {
            (Projection::QueryKeyValue, Inputs::Fused(linear), _)
            | (Projection::Query, Inputs::Separate { query: linear, .. }, _)
            | (Projection::Key, Inputs::Separate { key: linear, .. }, _)
            | (Projection::Value, Inputs::Separate { value: linear, .. }, _)
            | (Projection::GateUp, _, Inner::FusedGated(linear))
            | (Projection::Gate, _, Inner::Gated { gate: linear, .. })
            | (Projection::Up, _, Inner::Gated { up: linear, .. } | Inner::Plain(linear)) => Some(linear),
            (Projection::Output, ..) => Some(&mut self.output),
            (Projection::Down, ..) => Some(&mut self.mlp.down),
            _ => None,
        }
    }
}

/// A source of the weights of one layer.
struct Weights<'a, 'b> {
    architecture: &'a Architecture,
    index: usize,
    get: &'a mut GetWeight<'b>,
}

impl Weights<'_, '_> {
    fn get(&mut self, weight: LayerWeight) -> Result<Tensor> {
        let id = WeightId::Layer(self.index, weight);
        (self.get)(id, &self.architecture.shape(id))
    }

    fn optional(&mut self, weight: LayerWeight) -> Result<Option<Tensor>> {
        let has = self.architecture.has(WeightId::Layer(self.index, weight));
        has.then(|| self.get(weight)).transpose()
    }

    fn norm(&mut self, site: NormSite) -> Result<Option<NormWeights>> {
        let Some(scale) = self.optional(LayerWeight::Norm(site))? else { return Ok(None) };
        Ok(Some(NormWeights { scale, bias: self.optional(LayerWeight::NormBias(site))? }))
    }

    fn linear(&mut self, projection: Projection) -> Result<Linear> {
        let weight = self.get(LayerWeight::Weight(projection))?;
        let bias = self.optional(LayerWeight::Bias(projection))?;
        Ok(Linear { weight, bias, transposed: self.architecture.transposed_projections, adapter: None })
    }
}
