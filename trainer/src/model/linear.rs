//! A projection with an optional bias and an optional low-rank adapter (Hu et al., 2021). Pure.

use tch::{Kind, Tensor};

/// Whether a forward pass uses the adapters. Without them a tuned model computes what its base model does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adapters {
    /// `W x + b + scale B A x`.
    On,
    /// The same, with the adapters' dropout.
    Training,
    /// `W x + b`.
    Off,
}

/// `y = W x + b`, and with an adapter `y = W x + b + scale B A x`.
#[derive(Debug)]
pub struct Linear {
    /// `[out, in]`, or `[in, out]` if it is transposed.
    pub weight: Tensor,
    /// `[out]`, if the projection has a bias.
    pub bias: Option<Tensor>,
    /// Whether the weight is stored as `[in, out]`.
    pub transposed: bool,
    /// The adapter, if the projection has one.
    pub adapter: Option<LowRank>,
}

/// A low-rank update of a projection. Always in Float32, whatever the kind of the weight.
#[derive(Debug)]
pub struct LowRank {
    /// `[rank, in]`.
    pub a: Tensor,
    /// `[out, rank]`; initialised to zero, so that training starts from the unmodified model.
    pub b: Tensor,
    /// alpha / rank.
    pub scale: f64,
    /// Fraction of the adapter's inputs that is dropped during training, 0..1.
    pub dropout: f64,
}

impl Linear {
    /// A projection without bias or adapter.
    pub fn new(weight: Tensor) -> Self {
        Self { weight, bias: None, transposed: false, adapter: None }
    }

    /// Its width: of the output and of the input.
    pub fn features(&self) -> (i64, i64) {
        let size = self.weight.size();
        if self.transposed { (size[1], size[0]) } else { (size[0], size[1]) }
    }

    /// `x`: `[rows, in]` -> `[rows, out]`, in the kind of `x`.
    pub fn forward(&self, x: &Tensor, adapters: Adapters) -> Tensor {
        let bias = self.bias.as_ref().map(|bias| as_kind(bias, x.kind()));
        let weight = as_kind(&self.weight, x.kind());
        let y = x.linear(&if self.transposed { weight.tr() } else { weight }, bias.as_ref());
        match &self.adapter {
            Some(low_rank) if adapters != Adapters::Off => y + low_rank.forward(x, adapters == Adapters::Training),
            _ => y,
        }
    }

    /// The weight with the adapter merged into it, in Float32.
    pub fn merged(&self) -> Tensor {
        let weight = self.weight.to_kind(Kind::Float);
        let Some(low_rank) = &self.adapter else { return weight };
        let update = low_rank.b.matmul(&low_rank.a) * low_rank.scale;
        weight + if self.transposed { update.tr() } else { update }
    }
}

impl LowRank {
    fn forward(&self, x: &Tensor, training: bool) -> Tensor {
        let dropped = (training && self.dropout > 0.0).then(|| x.dropout(self.dropout, true));
        let x = dropped.as_ref().unwrap_or(x);
        // Scale the smaller tensor: [rows, rank] instead of [rows, out].
        let inner = x.linear(&as_kind(&self.a, x.kind()), None::<&Tensor>) * self.scale;
        inner.linear(&as_kind(&self.b, x.kind()), None::<&Tensor>)
    }
}

/// The tensor converted to a kind; not copied if it has that kind already.
fn as_kind(tensor: &Tensor, kind: Kind) -> Tensor {
    if tensor.kind() == kind { tensor.shallow_clone() } else { tensor.to_kind(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn an_adapter_adds_its_product_and_can_be_switched_off() {
        let mut linear = Linear::new(Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0]).view([2, 2]));
        let x = Tensor::from_slice(&[1.0f32, 1.0]).view([1, 2]);
        linear.adapter = Some(LowRank {
            a: Tensor::from_slice(&[1.0f32, 0.5]).view([1, 2]),
            b: Tensor::from_slice(&[10.0f32, 20.0]).view([2, 1]),
            scale: 2.0,
            dropout: 0.0,
        });
        let (off, on) = (linear.forward(&x, Adapters::Off), linear.forward(&x, Adapters::On));
        assert_eq!(Vec::<f32>::try_from(off.view([-1])).unwrap(), [3.0, 7.0]);
        assert_eq!(Vec::<f32>::try_from(on.view([-1])).unwrap(), [33.0, 67.0]);
        let merged = Linear::new(linear.merged()).forward(&x, Adapters::On);
        assert_eq!(Vec::<f32>::try_from(merged.view([-1])).unwrap(), [33.0, 67.0]);
    }

    #[test]
    fn a_transposed_projection_computes_what_its_transpose_does() {
        let float = (Kind::Float, Device::Cpu);
        let weight = Tensor::randn([3, 2], float);
        let low_rank = || {
            let (a, b) = (Tensor::ones([1, 2], float) * 0.5, Tensor::from_slice(&[1.0f32, 2.0, 3.0]).view([3, 1]));
            Some(LowRank { a, b, scale: 2.0, dropout: 0.0 })
        };
        let usual = Linear { adapter: low_rank(), ..Linear::new(weight.shallow_clone()) };
        let transposed = Linear { transposed: true, adapter: low_rank(), ..Linear::new(weight.tr()) };
        let x = Tensor::randn([4, 2], float);
        assert_eq!((usual.features(), transposed.features()), ((3, 2), (3, 2)));
        assert!(usual.forward(&x, Adapters::On).allclose(&transposed.forward(&x, Adapters::On), 1e-6, 1e-6, false));
        assert_eq!(usual.merged(), transposed.merged().tr());
    }

    #[test]
    fn dropout_applies_to_training_passes_only() {
        let float = (Kind::Float, Device::Cpu);
        let mut linear = Linear::new(Tensor::zeros([4, 4], float));
        linear.adapter = Some(LowRank {
            a: Tensor::ones([2, 4], float).set_requires_grad(true),
            b: Tensor::ones([4, 2], float).set_requires_grad(true),
            scale: 1.0,
            dropout: 0.5,
        });
        let x = Tensor::ones([64, 4], float);
        let evaluated = linear.forward(&x, Adapters::On);
        assert_eq!(evaluated, Tensor::full([64, 4], 8.0, float));
        assert_ne!(linear.forward(&x, Adapters::Training), evaluated);
    }
}
