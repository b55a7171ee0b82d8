// What tch 0.24 does not expose of libtorch 2.11. A tensor crosses as `at::Tensor*`, which is tch's C_tensor*.
// Every function returns 0, or -1 with the message in `plumbline_error()` of the same thread.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <mutex>
#include <vector>

#include "guarded.h"

namespace {

std::vector<at::Tensor> list(at::Tensor* const* pointers, int count) {
  std::vector<at::Tensor> tensors;
  tensors.reserve(count);
  for (int i = 0; i < count; i++) tensors.push_back(*pointers[i]);
  return tensors;
}

// The CPU below 0, else a CUDA device.
at::Device device(int cuda) {
  return cuda < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, static_cast<at::DeviceIndex>(cuda));
}

}  // namespace

extern "C" {

const char* plumbline_error() { return plumbline_last_error.c_str(); }

// One AdamW step over all parameters in one pass (Loshchilov and Hutter, 2019). `steps` are 0-dim float tensors.
int plumbline_fused_adamw(at::Tensor* const* params, at::Tensor* const* grads, at::Tensor* const* first,
                          at::Tensor* const* second, at::Tensor* const* steps, int count, double lr, double beta1,
                          double beta2, double weight_decay, double eps) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto p = list(params, count), g = list(grads, count), m = list(first, count), v = list(second, count),
         s = list(steps, count);
    at::_foreach_add_(s, 1.0);
    at::_fused_adamw_(p, g, m, v, {}, s, lr, beta1, beta2, weight_decay, eps, false, false);
  });
}

// Scales gradients so that their global L2 norm is at most `max_norm`; gives the norm before.
int plumbline_clip_grad_norm(at::Tensor* const* grads, int count, double max_norm, double* norm) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto g = list(grads, count);
    auto total = at::linalg_vector_norm(at::stack(at::_foreach_norm(g, 2)), 2).item<double>();
    *norm = total;
    if (total > max_norm) at::_foreach_mul_(g, max_norm / (total + 1e-6));
  });
}

// Drops gradients, so that the next backward pass stores instead of adds.
int plumbline_drop_grads(at::Tensor* const* tensors, int count) {
  return guarded([&] {
    for (int i = 0; i < count; i++) tensors[i]->mutable_grad() = at::Tensor();
  });
}

// Gives tensors the gradients, in place of those that they have.
int plumbline_set_grads(at::Tensor* const* tensors, at::Tensor* const* grads, int count) {
  return guarded([&] {
    for (int i = 0; i < count; i++) tensors[i]->mutable_grad() = *grads[i];
  });
}

// Backward with given output gradients.
int plumbline_backward(at::Tensor* const* outputs, at::Tensor* const* grads, int count) {
  return guarded([&] { torch::autograd::backward(list(outputs, count), list(grads, count)); });
}

// State of a device's generator, as a byte tensor of the CPU.
int plumbline_rng_state(int cuda, at::Tensor** out) {
  return guarded([&] {
    auto generator = at::globalContext().defaultGenerator(device(cuda));
    std::lock_guard<std::mutex> lock(generator.mutex());
    *out = new at::Tensor(generator.get_state());
  });
}

int plumbline_set_rng_state(int cuda, at::Tensor* state) {
  return guarded([&] {
    auto generator = at::globalContext().defaultGenerator(device(cuda));
    std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(*state);
  });
}

// Kernels that give the same bits each time, where there is one; where there is none, libtorch warns.
int plumbline_prefer_deterministic() {
  return guarded([&] {
    at::globalContext().setDeterministicAlgorithms(true, true);
    // It would write every new tensor once more; nothing here reads what it has not written.
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  });
}

}  // extern "C"
