//! The parts of libtorch that tch does not expose: fused and foreach optimiser steps, backward with gradients, dropping
//! gradients, generator state; groups of processes; CUDA, which is loaded only on request; and memory-mapped files.
//! This is the only crate with C++; only it and `plumbline-confined` use `unsafe`.
//!
//! Every function takes and returns ordinary [`tch::Tensor`]s and is safe to call with any of them: libtorch checks
//! shapes and kinds and its exceptions become [`TorchError`].

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::path::Path;

use libc::{c_char, c_double, c_int};
use tch::{Device, Tensor};
use torch_sys::C_tensor;

mod group;

pub use group::{Group, Meeting};
/// A file mapped into memory, read-only.
pub use memmap2::Mmap;

/// An exception of libtorch; its first line.
#[derive(Debug)]
pub struct TorchError(String);

impl std::fmt::Display for TorchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TorchError {}

/// Hyperparameters of one AdamW step.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Added to the denominator.
    pub epsilon: f64,
}

/// One AdamW step of all parameters in one pass. The slices run in parallel; `steps` are 0-dim float tensors that count
/// this parameter's steps and are raised by one.
pub fn fused_adamw(
    params: &[Tensor],
    grads: &[Tensor],
    first_moments: &[Tensor],
    second_moments: &[Tensor],
    steps: &[Tensor],
    settings: AdamW,
) -> Result<(), TorchError> {
    let count = params.len();
    for (name, list) in
        [("gradients", grads), ("first moments", first_moments), ("second moments", second_moments), ("steps", steps)]
    {
        if list.len() != count {
            return Err(TorchError(format!("fused_adamw: {count} parameters but {} {name}", list.len())));
        }
    }
    let (p, g, m, v, s) =
        (pointers(params), pointers(grads), pointers(first_moments), pointers(second_moments), pointers(steps));
    // SAFETY: each array holds `count` pointers to tensors that outlive the call.
    check(unsafe {
        plumbline_fused_adamw(
            p.as_ptr(),
            g.as_ptr(),
            m.as_ptr(),
            v.as_ptr(),
            s.as_ptr(),
            count as c_int,
            settings.learning_rate,
            settings.beta1,
            settings.beta2,
            settings.weight_decay,
            settings.epsilon,
        )
    })
}

/// Scales gradients in place so that their global L2 norm is at most `max_norm`. Returns the norm before.
pub fn clip_grad_norm(grads: &[Tensor], max_norm: f64) -> Result<f64, TorchError> {
    let list = pointers(grads);
    let mut norm = 0.0;
    // SAFETY: the array holds `len` pointers to tensors that outlive the call; `norm` is written before it is read.
    check(unsafe { plumbline_clip_grad_norm(list.as_ptr(), list.len() as c_int, max_norm, &raw mut norm) })?;
    Ok(norm)
}

/// Drops the gradients of tensors, so that the next backward pass stores them instead of adding to them.
pub fn drop_grads(tensors: &[Tensor]) -> Result<(), TorchError> {
    let list = pointers(tensors);
    // SAFETY: the array holds `len` pointers to tensors that outlive the call.
    check(unsafe { plumbline_drop_grads(list.as_ptr(), list.len() as c_int) })
}

/// Replaces the gradients of tensors. The slices run in parallel.
pub fn set_grads(tensors: &[Tensor], grads: &[Tensor]) -> Result<(), TorchError> {
    if tensors.len() != grads.len() {
        return Err(TorchError(format!("set_grads: {} tensors but {} gradients", tensors.len(), grads.len())));
    }
    let (list, grads) = (pointers(tensors), pointers(grads));
    // SAFETY: both arrays hold `len` pointers to tensors that outlive the call.
    check(unsafe { plumbline_set_grads(list.as_ptr(), grads.as_ptr(), list.len() as c_int) })
}

/// Runs the backward pass from `outputs` with the given gradients of a loss with respect to them.
pub fn backward(outputs: &[Tensor], grads: &[Tensor]) -> Result<(), TorchError> {
    if outputs.len() != grads.len() {
        return Err(TorchError(format!("backward: {} outputs but {} gradients", outputs.len(), grads.len())));
    }
    let (o, g) = (pointers(outputs), pointers(grads));
    // SAFETY: both arrays hold `len` pointers to tensors that outlive the call.
    check(unsafe { plumbline_backward(o.as_ptr(), g.as_ptr(), o.len() as c_int) })
}

/// Loads the half of libtorch that computes on NVIDIA GPUs. Must be called before anything checks for a GPU, because
/// libtorch looks for that half only once. Programs are not linked against it, so that one program works on CPU and
/// GPU.
///
/// # Errors
/// The loader's own message, which names the missing library.
pub fn load_cuda() -> Result<(), TorchError> {
    // SAFETY: the library is libtorch's other half, whose initialisers register its kernels and do nothing else. The handle
    // is never closed.
    let handle = unsafe { libc::dlopen(c"libtorch_cuda.so".as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: after a failed dlopen it is null or a string that lives until this thread's next call of the loader.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return Err(TorchError("libtorch_cuda.so cannot be loaded".into()));
    }
    // SAFETY: checked above.
    Err(TorchError(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()))
}

/// Requests deterministic kernels, from now on and on every thread. If a kernel of the GPU has no deterministic form,
/// libtorch warns once and computes.
pub fn prefer_deterministic() -> Result<(), TorchError> {
    // SAFETY: it takes nothing and gives nothing.
    check(unsafe { plumbline_prefer_deterministic() })
}

/// State of a device's random generator, a byte tensor of the CPU.
pub fn rng_state(device: Device) -> Result<Tensor, TorchError> {
    let mut out = std::ptr::null_mut();
    // SAFETY: on success `out` is a new tensor that we own.
    unsafe {
        check(plumbline_rng_state(cuda_index(device)?, &raw mut out))?;
        Ok(Tensor::from_ptr(out))
    }
}

/// Sets the state of a device's random generator.
pub fn set_rng_state(device: Device, state: &Tensor) -> Result<(), TorchError> {
    // SAFETY: the pointer is valid for the call.
    check(unsafe { plumbline_set_rng_state(cuda_index(device)?, state.as_ptr().cast_mut().cast()) })
}

/// Maps a file into memory. The file must not change while it is mapped: model directories are written to a temporary
/// location and moved into place, never edited.
pub fn map_file(path: &Path) -> io::Result<Mmap> {
    // SAFETY: artifacts are immutable once published (see above); a truncated file would end the process by SIGBUS.
    unsafe { Mmap::map(&File::open(path)?) }
}

type TensorPointer = *mut C_tensor;

unsafe extern "C" {
    fn plumbline_error() -> *const c_char;
    fn plumbline_fused_adamw(
        params: *const TensorPointer,
        grads: *const TensorPointer,
        first: *const TensorPointer,
        second: *const TensorPointer,
        steps: *const TensorPointer,
        count: c_int,
        lr: c_double,
        beta1: c_double,
        beta2: c_double,
        weight_decay: c_double,
        eps: c_double,
    ) -> c_int;
    fn plumbline_clip_grad_norm(
        grads: *const TensorPointer,
        count: c_int,
        max_norm: c_double,
        norm: *mut c_double,
    ) -> c_int;
    fn plumbline_drop_grads(tensors: *const TensorPointer, count: c_int) -> c_int;
    fn plumbline_set_grads(tensors: *const TensorPointer, grads: *const TensorPointer, count: c_int) -> c_int;
    fn plumbline_backward(outputs: *const TensorPointer, grads: *const TensorPointer, count: c_int) -> c_int;
    fn plumbline_rng_state(cuda: c_int, out: *mut TensorPointer) -> c_int;
    fn plumbline_set_rng_state(cuda: c_int, state: TensorPointer) -> c_int;
    fn plumbline_prefer_deterministic() -> c_int;
}

/// A device as the shim names it: -1 for the CPU.
fn cuda_index(device: Device) -> Result<c_int, TorchError> {
    match device {
        Device::Cpu => Ok(-1),
        Device::Cuda(index) => Ok(index as c_int),
        other => Err(TorchError(format!("expected the CPU or a CUDA device, found {other:?}"))),
    }
}

fn pointers(tensors: &[Tensor]) -> Vec<TensorPointer> {
    tensors.iter().map(|t| t.as_ptr().cast_mut().cast()).collect()
}

fn check(code: c_int) -> Result<(), TorchError> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: the pointer is to a thread-local string that lives until the next failing call of this thread.
    let text = unsafe { CStr::from_ptr(plumbline_error()) }.to_string_lossy();
    Err(TorchError(text.lines().next().unwrap_or("unknown error of libtorch").to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

    #[test]
    fn one_adamw_step_is_the_formula() {
        let (p, g) = (Tensor::from_slice(&[1.0f32, -2.0]), Tensor::from_slice(&[0.5f32, 0.25]));
        let (m, v, step) = (Tensor::zeros([2], FLOAT), Tensor::zeros([2], FLOAT), Tensor::zeros([0i64; 0], FLOAT));
        let settings = AdamW { learning_rate: 0.1, beta1: 0.9, beta2: 0.99, weight_decay: 0.01, epsilon: 1e-8 };
        fused_adamw(&[p.shallow_clone()], &[g], &[m], &[v], &[step.shallow_clone()], settings).unwrap();
        // Step 1: m_hat = g and v_hat = g^2, so p <- p (1 - lr wd) - lr g / (|g| + eps).
        let expected = [1.0 * (1.0 - 0.001) - 0.1, -2.0 * (1.0 - 0.001) - 0.1];
        for (i, e) in expected.iter().enumerate() {
            assert!((p.double_value(&[i as i64]) - e).abs() < 1e-6);
        }
        assert!((step.double_value(&[]) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn clipping_scales_to_the_norm_and_leaves_small_gradients_alone() {
        let (a, b) = (Tensor::from_slice(&[3.0f32]), Tensor::from_slice(&[4.0f32]));
        let grads = [a.shallow_clone(), b.shallow_clone()];
        assert!((clip_grad_norm(&grads, 10.0).unwrap() - 5.0).abs() < 1e-6);
        assert!((a.double_value(&[0]) - 3.0).abs() < 1e-9, "below the limit nothing changes");
        assert!((clip_grad_norm(&grads, 1.0).unwrap() - 5.0).abs() < 1e-6);
        assert!((b.double_value(&[0]) - 0.8).abs() < 1e-5);
    }

    #[test]
    fn backward_with_gradients_is_the_vector_jacobian_product() {
        let x = Tensor::from_slice(&[1.0f32, 2.0]).set_requires_grad(true);
        let y = x.square();
        backward(&[y], &[Tensor::from_slice(&[1.0f32, 10.0])]).unwrap();
        assert_eq!(Vec::<f32>::try_from(x.grad()).unwrap(), [2.0, 40.0]);
        drop_grads(&[x.shallow_clone()]).unwrap();
        assert!(!x.grad().defined());
        set_grads(&[x.shallow_clone()], &[Tensor::from_slice(&[3.0f32, 4.0])]).unwrap();
        assert_eq!(Vec::<f32>::try_from(x.grad()).unwrap(), [3.0, 4.0]);
    }

    #[test]
    fn a_restored_generator_repeats_its_numbers() {
        let state = rng_state(Device::Cpu).unwrap();
        let a = Tensor::rand([4], FLOAT);
        set_rng_state(Device::Cpu, &state).unwrap();
        assert_eq!(a, Tensor::rand([4], FLOAT));
    }

    #[test]
    fn an_exception_becomes_one_line() {
        let error = set_rng_state(Device::Cpu, &Tensor::zeros([3], FLOAT)).unwrap_err().to_string();
        assert!(!error.contains('\n') && !error.is_empty(), "{error}");
    }
}
