//! The weights of a layer, built from storage and accessed by id.

use tch::Tensor;

use crate::Result;
use crate::model::architecture::Architecture;
use crate::model::linear::Linear;
use crate::model::weights::{LayerWeight, Projection, WeightId};

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
    /// `[head_dim]`, scale of the norm of each query head, if the architecture has one.
    pub q_norm: Option<Tensor>,
    /// `[head_dim]`, scale of the norm of each key head, if the architecture has one.
    pub k_norm: Option<Tensor>,
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

/// Returns the weight with an id, in the requested shape.
pub type GetWeight<'a> = dyn FnMut(WeightId, &[i64]) -> Result<Tensor> + 'a;

impl Layer {
    /// Builds the layer with this index, with the weights that its architecture has.
    ///
    /// # Errors
    /// Those of `get`.
    pub fn build(architecture: &Architecture, index: usize, get: &mut GetWeight) -> Result<Self> {
        let mut weights = Weights { architecture, index, get };
        Ok(Self {
            input_norm: weights.get(LayerWeight::InputNorm)?,
            q_proj: weights.linear(Projection::Query)?,
            k_proj: weights.linear(Projection::Key)?,
            v_proj: weights.linear(Projection::Value)?,
            q_norm: weights.optional(LayerWeight::QueryNorm)?,
            k_norm: weights.optional(LayerWeight::KeyNorm)?,
            o_proj: weights.linear(Projection::Output)?,
            post_norm: weights.get(LayerWeight::PostNorm)?,
            gate_proj: weights.linear(Projection::Gate)?,
            up_proj: weights.linear(Projection::Up)?,
            down_proj: weights.linear(Projection::Down)?,
        })
    }

    /// A weight; `None` if the layer does not have it.
    pub fn weight(&self, weight: LayerWeight) -> Option<&Tensor> {
        match weight {
            LayerWeight::InputNorm => Some(&self.input_norm),
            LayerWeight::PostNorm => Some(&self.post_norm),
            LayerWeight::QueryNorm => self.q_norm.as_ref(),
            LayerWeight::KeyNorm => self.k_norm.as_ref(),
            LayerWeight::Weight(projection) => Some(&self.projection(projection).weight),
            LayerWeight::Bias(projection) => self.projection(projection).bias.as_ref(),
        }
    }

    /// The same, mutable.
    pub fn weight_mut(&mut self, weight: LayerWeight) -> Option<&mut Tensor> {
        match weight {
            LayerWeight::InputNorm => Some(&mut self.input_norm),
            LayerWeight::PostNorm => Some(&mut self.post_norm),
            LayerWeight::QueryNorm => self.q_norm.as_mut(),
            LayerWeight::KeyNorm => self.k_norm.as_mut(),
            LayerWeight::Weight(projection) => Some(&mut self.projection_mut(projection).weight),
            LayerWeight::Bias(projection) => self.projection_mut(projection).bias.as_mut(),
        }
    }

    /// A projection.
    pub fn projection(&self, projection: Projection) -> &Linear {
        match projection {
            Projection::Query => &self.q_proj,
            Projection::Key => &self.k_proj,
            Projection::Value => &self.v_proj,
            Projection::Output => &self.o_proj,
            Projection::Gate => &self.gate_proj,
            Projection::Up => &self.up_proj,
            Projection::Down => &self.down_proj,
        }
    }

    /// A projection, mutable.
    pub fn projection_mut(&mut self, projection: Projection) -> &mut Linear {
        match projection {
            Projection::Query => &mut self.q_proj,
            Projection::Key => &mut self.k_proj,
            Projection::Value => &mut self.v_proj,
            Projection::Output => &mut self.o_proj,
            Projection::Gate => &mut self.gate_proj,
            Projection::Up => &mut self.up_proj,
            Projection::Down => &mut self.down_proj,
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

    fn linear(&mut self, projection: Projection) -> Result<Linear> {
        let weight = self.get(LayerWeight::Weight(projection))?;
        Ok(Linear { weight, bias: self.optional(LayerWeight::Bias(projection))?, adapter: None })
    }
}
