// Stands in for libtorch_cuda.so on machines without a GPU: what lies on "cuda:0" is kept apart in memory of its own, and is
// computed by the kernels of the CPU. What it shows is what a GPU would refuse: an operator that is given tensors of both
// devices. It keeps a random generator of its own, counts the bytes that the device holds, and can be full.
//
//   STAND_IN_BYTES   bytes that the device has; more is "out of memory". Default: no limit.
//   STAND_IN_REPORT  file that gets the most bytes that were held at once.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>

namespace {

const at::Device kGpu(at::kCUDA, 0);

// ---- memory

std::atomic<size_t> held{0}, most{0};

struct Block {
  void* data;
  size_t bytes;
};

void release(void* context) {
  auto* block = static_cast<Block*>(context);
  held -= block->bytes;
  std::free(block->data);
  delete block;
}

struct Memory final : at::Allocator {
  at::DataPtr allocate(size_t bytes) override {
    static const char* limit = std::getenv("STAND_IN_BYTES");
    if (limit && held + bytes > std::strtoull(limit, nullptr, 10)) {
      TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate ", bytes, " bytes. GPU 0 has a total "
                       "capacity of ", limit, " bytes.");
    }
    if (bytes == 0) return {nullptr, nullptr, &release_nothing, kGpu};
    // What was never written is not zero.
    void* data = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    std::memset(data, 0xff, bytes);
    size_t now = held += bytes;
    for (size_t before = most; now > before && !most.compare_exchange_weak(before, now);) {
    }
    return {data, new Block{data, bytes}, &release, kGpu};
  }
  at::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
  static void release_nothing(void*) {}
};

Memory memory;
const at::DispatchKeySet kKeys(at::DispatchKey::CUDA);

struct Report {
  ~Report() {
    if (const char* file = std::getenv("STAND_IN_REPORT")) std::ofstream(file, std::ios::app) << most << "\n";
  }
} report;

// ---- tensors of the GPU as the CPU's kernels see them, and back

// The same memory as a tensor of the CPU. What has no memory gets some of the CPU's: a kernel may give it a size.
at::Tensor seen_by_cpu(const at::Tensor& tensor) {
  auto bytes = tensor.storage().nbytes();
  if (bytes == 0) return at::empty_strided(tensor.sizes(), tensor.strides(), tensor.options().device(at::kCPU));
  c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, at::DataPtr(tensor.storage().mutable_data(), at::kCPU),
                       nullptr, false);
  auto seen = at::detail::make_tensor<at::TensorImpl>(std::move(storage), at::DispatchKeySet(at::DispatchKey::CPU),
                                                      tensor.dtype());
  seen.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return seen;
}

at::Tensor on_gpu(const at::Tensor& tensor) {
  auto bytes = tensor.storage().nbytes();
  c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, memory.allocate(bytes), &memory, true);
  if (bytes) std::memcpy(storage.mutable_data(), tensor.storage().data(), bytes);
  auto moved = at::detail::make_tensor<at::TensorImpl>(std::move(storage), kKeys, tensor.dtype());
  moved.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return moved;
}

// The operands of one call.
class Call {
 public:
  explicit Call(const c10::OperatorHandle& op) : op_(op) {}

  at::Tensor in(const at::Tensor& tensor, bool of_list) {
    if (!tensor.defined()) return tensor;
    if (tensor.is_cpu()) {
      // As on a GPU: a number on the CPU may stand beside its tensors, nothing else may.
      TORCH_CHECK(tensor.dim() == 0 && !of_list, "Expected all tensors to be on the same device, but found at least two devices, "
                  "cuda:0 and cpu! (", op_.operator_name(), ")");
      return tensor;
    }
    pairs_.emplace_back(tensor, seen_by_cpu(tensor));
    return pairs_.back().second;
  }

  at::Tensor out(const at::Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    for (auto& [operand, seen] : pairs_) {
      if (tensor.is_same(seen)) return operand;
    }
    for (auto& [operand, seen] : pairs_) {
      if (!tensor.is_alias_of(seen)) continue;
      auto view = at::detail::make_tensor<at::TensorImpl>(c10::Storage(operand.storage()), kKeys, tensor.dtype());
      view.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
      return view;
    }
    return on_gpu(tensor);
  }

  // An operand that had no memory and got a size takes what was computed.
  void end() {
    for (auto& [operand, seen] : pairs_) {
      if (operand.storage().nbytes() || !seen.storage().nbytes()) continue;
      auto moved = on_gpu(seen);
      operand.unsafeGetTensorImpl()->set_storage_keep_dtype(moved.storage());
      operand.unsafeGetTensorImpl()->set_sizes_and_strides(moved.sizes(), moved.strides());
    }
  }

 private:
  const c10::OperatorHandle& op_;
  std::vector<std::pair<at::Tensor, at::Tensor>> pairs_;
};

template <class F>
c10::IValue each(const c10::IValue& value, F to) {
  if (value.isTensor()) return to(value.toTensor(), false);
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(to(tensor, true));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> list;
    for (const std::optional<at::Tensor> tensor : value.toOptionalTensorList()) {
      list.push_back(tensor ? std::optional<at::Tensor>(to(*tensor, true)) : std::nullopt);
    }
    return list;
  }
  return value;
}

// ---- random numbers

at::Generator& generator() {
  static at::Generator own = at::detail::createCPUGenerator();
  return own;
}

// The CPU's kernels draw from the CPU's generator: it is in the GPU's state for the length of a call.
struct Draws {
  explicit Draws(bool draws) : draws_(draws) {
    if (draws_) swap();
  }
  ~Draws() {
    if (draws_) swap();
  }
  static void swap() {
    auto cpu = at::detail::getDefaultCPUGenerator();
    auto kept = cpu.get_state();
    cpu.set_state(generator().get_state());
    generator().set_state(kept);
  }
  bool draws_;
};

// ---- operators

void compute(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  Call call(op);
  const auto arguments = op.schema().arguments().size();
  const auto first = stack->size() - arguments;
  for (size_t i = first; i < stack->size(); i++) {
    auto& value = (*stack)[i];
    if (value.isDevice() && value.toDevice().is_cuda()) value = at::Device(at::kCPU);
    value = each(value, [&](const at::Tensor& t, bool of_list) { return call.in(t, of_list); });
  }
  {
    Draws draws(op.hasTag(at::Tag::nondeterministic_seeded));
    op.redispatchBoxed(at::DispatchKeySet(at::DispatchKey::CPU), stack);
  }
  for (size_t i = stack->size() - op.schema().returns().size(); i < stack->size(); i++) {
    (*stack)[i] = each((*stack)[i], [&](const at::Tensor& t, bool) { return call.out(t); });
  }
  call.end();
}

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> kind, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, kKeys, kind.value_or(at::kFloat), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef strides, std::optional<at::ScalarType> kind,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, strides, &memory, kKeys, kind.value_or(at::kFloat));
}

// The one operator that is meant to be given both devices.
at::Tensor& copy_(at::Tensor& to, const at::Tensor& from, bool) {
  auto seen = [](const at::Tensor& t) { return t.is_cuda() ? seen_by_cpu(t) : t; };
  at::AutoDispatchBelowADInplaceOrView below;
  seen(to).copy_(seen(from));
  return to;
}

int64_t fused_sdp_choice(const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, double,
                         bool, std::optional<double>, bool) {
  return 0;  // Plain matrix products: the fused kernels of the GPU have none of the CPU's beside them.
}

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&compute>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("copy_", &copy_);
  library.impl("view", &at::native::view);
  library.impl("_reshape_alias", &at::native::_reshape_alias);
  library.impl("as_strided", &at::native::as_strided_tensorimpl);
  library.impl("_fused_sdp_choice", &fused_sdp_choice);
}

// ---- what libtorch asks of a device

struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool hasCUDART() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(at::DeviceIndex) const override { return true; }
  at::DeviceIndex deviceCount() const override { return 1; }
  int getNumGPUs() const override { return 1; }
  at::DeviceIndex current_device() const override { return 0; }
  at::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(at::DeviceIndex) const override {}
  at::DeviceIndex exchangeDevice(at::DeviceIndex) const override { return 0; }
  at::DeviceIndex maybeExchangeDevice(at::DeviceIndex) const override { return 0; }
  at::Device getDeviceFromPtr(void*) const override { return kGpu; }
  const at::Generator& getDefaultGenerator(at::DeviceIndex) const override { return generator(); }
  void deviceSynchronize(at::DeviceIndex) const override {}
};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  at::DeviceType type() const override { return at::kCUDA; }
  at::Device exchangeDevice(at::Device) const override { return kGpu; }
  at::Device getDevice() const override { return kGpu; }
  void setDevice(at::Device) const override {}
  void uncheckedSetDevice(at::Device) const noexcept override {}
  c10::Stream getStream(at::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, kGpu); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, kGpu); }
  at::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const at::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const at::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);

}  // namespace

namespace at {
REGISTER_CUDA_HOOKS(CUDAHooks);
}
