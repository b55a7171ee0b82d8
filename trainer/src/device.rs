//! The device that a process computes on: a GPU if an accelerator is requested, otherwise the CPU. Talks to the
//! environment and to libtorch, whose CUDA half is loaded only here; the choice itself is computed.
//!
//! A process uses one device. Weights are loaded onto it, and a batch is created on the device of its model.

use plumbline_crds::compute::Compute;
use tch::{Cuda, Device, Kind, TchError, Tensor};

use crate::{Error, Result};

/// Environment variable, `cpu` if accelerators are allocated only for scheduling and quotas.
pub const OVERRIDE: &str = "PLUMBLINE_DEVICE";

/// The device of a run's process.
///
/// # Errors
/// [`Error::Config`] if accelerators are requested and no GPU is visible: a run that holds a GPU but computes on the
/// CPU would waste its cost and take days.
pub fn of(compute: &Compute) -> Result<Device> {
    with_accelerators(compute.accelerators)
}

/// The device of a process with this many accelerators. Otherwise as [`of`].
pub fn with_accelerators(accelerators: i64) -> Result<Device> {
    let asked = std::env::var_os(OVERRIDE).map(|value| value.to_string_lossy().into_owned());
    match wanted(accelerators, asked.as_deref())? {
        Wanted::Cpu => Ok(Device::Cpu),
        Wanted::CpuInstead => {
            tracing::warn!(
                "{OVERRIDE}=cpu: computing on the CPU; the accelerators of this run (spec.compute.accelerators is \
                 {accelerators}) stay unused"
            );
            Ok(Device::Cpu)
        }
        Wanted::Gpu => gpu().map_err(|why| {
            Error::Config(format!(
                "spec.compute.accelerators is {accelerators}: {why}; or set {OVERRIDE}=cpu in spec.compute.env to \
                 compute on the CPU anyway"
            ))
        }),
    }
}

/// The choice of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Cpu,
    /// The CPU, although accelerators are allocated.
    CpuInstead,
    Gpu,
}

fn wanted(accelerators: i64, asked: Option<&str>) -> Result<Wanted> {
    match (accelerators, asked.unwrap_or_default()) {
        (_, other) if !matches!(other, "" | "cpu") => Err(Error::Config(format!(
            "{OVERRIDE}: expected `cpu` or no value, found `{other}`; to request a GPU, set spec.compute.accelerators"
        ))),
        (..=0, _) => Ok(Wanted::Cpu),
        (_, "cpu") => Ok(Wanted::CpuInstead),
        (1, _) => Ok(Wanted::Gpu),
        (more, _) => Err(Error::Config(format!(
            "spec.compute.accelerators: expected 0 or 1, found {more}; a process uses at most one accelerator"
        ))),
    }
}

/// The GPU, or the error with what is missing and what to do.
fn gpu() -> Result<Device, String> {
    plumbline_torch::load_cuda()
        .map_err(|e| format!("this trainer has no CUDA ({e}); use the trainer image with CUDA (spec.compute.image)"))?;
    if !Cuda::is_available() {
        return Err(format!(
            "no CUDA device found ({}); the node needs NVIDIA's driver and container toolkit, and the pod needs the \
             toolkit's runtime class if it is not the default (spec.compute.runtimeClassName)",
            reason()
        ));
    }
    plumbline_torch::prefer_deterministic().map_err(|e| e.to_string())?;
    tracing::info!(devices = Cuda::device_count(), "computing on CUDA device 0");
    Ok(Device::Cuda(0))
}

/// CUDA's own error message for a missing device.
fn reason() -> String {
    let Err(TchError::Torch(text)) = Tensor::f_zeros([1], (Kind::Float, Device::Cuda(0))) else {
        return "CUDA reports no device".into();
    };
    // What follows is advice for people who installed PyTorch, and libtorch's own stack.
    let line = text.lines().next().unwrap_or_default();
    line.split_once(". ").map_or(line, |(first, _)| first).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_used_when_one_is_asked_for_and_not_otherwise() {
        assert_eq!(wanted(0, None).unwrap(), Wanted::Cpu);
        assert_eq!(wanted(0, Some("cpu")).unwrap(), Wanted::Cpu);
        assert_eq!(wanted(1, None).unwrap(), Wanted::Gpu);
        assert_eq!(wanted(1, Some("")).unwrap(), Wanted::Gpu);
        assert_eq!(wanted(8, Some("cpu")).unwrap(), Wanted::CpuInstead, "however many are held");
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name() {
        for (accelerators, asked, words) in
            [(2, None, "spec.compute.accelerators"), (1, Some("cuda"), "PLUMBLINE_DEVICE"), (0, Some("gpu"), "`gpu`")]
        {
            let error = wanted(accelerators, asked).unwrap_err();
            assert!(matches!(&error, Error::Config(text) if text.contains(words)), "{error}");
        }
    }
}
