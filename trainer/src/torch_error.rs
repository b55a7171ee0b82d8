//! Converts libtorch's errors to errors of a stage. Computes.

use std::fmt::Display;

use crate::Error;

/// The errors of the two bindings of libtorch.
pub(crate) trait OfTorch: Display {}

impl OfTorch for tch::TchError {}
impl OfTorch for plumbline_torch::TorchError {}

/// An error of libtorch. Its first line is the message; the rest is libtorch's own stack.
#[allow(clippy::needless_pass_by_value, reason = "`map_err` hands it over")]
pub(crate) fn of_torch(error: impl OfTorch) -> Error {
    of_line(error.to_string().lines().next().unwrap_or_default())
}

/// An error of libtorch by the first line of its message. Its allocator, CUDA's runtime and cuBLAS each report an
/// out-of-memory GPU differently.
pub(crate) fn of_line(line: &str) -> Error {
    let full = ["out of memory", "CUBLAS_STATUS_ALLOC_FAILED"].iter().any(|words| line.contains(words));
    if full { Error::AcceleratorOutOfMemory(line.to_owned()) } else { Error::Failed(line.to_owned()) }
}

#[cfg(test)]
mod tests {
    use plumbline_crds::exit_code::ExitCode;

    use super::*;

    #[test]
    fn a_full_gpu_is_known_by_what_libtorch_says_of_it() {
        // Each in the words of libtorch 2.11: its allocator, a call of CUDA's runtime, cuBLAS on its first use.
        let allocator = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.20 \
            GiB is free. Including non-PyTorch memory, this process has 77.80 GiB memory in use. Of the allocated memory 76.10 \
            GiB is allocated by PyTorch, and 910.00 MiB is reserved by PyTorch but unallocated.";
        for line in [
            allocator,
            "CUDA error: out of memory",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        ] {
            let error = of_line(line);
            assert!(matches!(error, Error::AcceleratorOutOfMemory(_)), "{line}");
            assert_eq!(error.exit_code(), ExitCode::AcceleratorOutOfMemory);
        }
        for line in [
            "Found no NVIDIA driver on your system",
            "CUDA error: device-side assert triggered",
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 400 bytes. Error code 12 (Cannot allocate memory)",
        ] {
            assert!(matches!(of_line(line), Error::Failed(_)), "{line}");
        }
    }
}
