//! The values of tensors, on the CPU and flat.

use tch::{Kind, Tensor};

/// The values of a tensor whose kind is that of `T`.
pub(crate) fn to_vec<T: tch::kind::Element + Copy + Default>(tensor: &Tensor) -> Vec<T> {
    let tensor = tensor.contiguous();
    let mut values = vec![T::default(); tensor.numel()];
    tensor.copy_data(&mut values, tensor.numel());
    values
}

/// The values of a tensor of any kind, without its gradients.
pub(crate) fn to_f64(tensor: &Tensor) -> Vec<f64> {
    to_vec(&tensor.detach().to_kind(Kind::Double))
}
