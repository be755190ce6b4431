#include "backends/cuda/cuda_target.h"

#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <thread>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "backends/cuda/codegen/driver.h"
#include "backends/cuda/codegen/launch_plan.h"
#include "backends/cuda/codegen/source.h"
#include "backends/cuda/codegen/toolchain.h"
#include "backends/cuda/out_calls.h"
#include "backends/loop/split.h"
#include "base/log.h"

namespace framejit::cuda {
namespace {

constexpr double kLaunchNanoseconds = 3000;

// A kernel of a launch plan, compiled, and on its device where there is one.
struct Variant {
  LaunchPlan plan;
  KernelSource source;
  std::string cubin;
  std::unique_ptr<const LoadedKernel> loaded;
};

// Logs nothing; see CompileSource.
absl::StatusOr<std::unique_ptr<Variant>> CompileVariant(const loop::Kernel& kernel, int max_vector,
                                                        Architecture architecture, const Device* device) {
  auto variant = std::make_unique<Variant>();
  variant->plan = PlanLaunch(kernel, max_vector);
  variant->source = GenerateSource(kernel, variant->plan);
  absl::StatusOr<std::string> cubin = CompileSource(variant->source.text, architecture);
  if (!cubin.ok()) return cubin.status();
  variant->cubin = *std::move(cubin);
  if (device == nullptr) return variant;
  auto loaded = device->Load(variant->cubin, variant->source.entry);
  if (!loaded.ok()) return loaded.status();
  variant->loaded = *std::move(loaded);
  return variant;
}

class CudaCode : public native::KernelCode {
 public:
  CudaCode(loop::Kernel kernel, std::unique_ptr<Variant> variant, Architecture architecture, const Device* device)
      : kernel_(std::move(kernel)), aligned_(std::move(variant)), architecture_(architecture), device_(device) {
    for (size_t b = 0; b < kernel_.buffers.size(); ++b) {
      misaligned_bits_.push_back(
          static_cast<uintptr_t>(aligned_->plan.AlignmentOf(kernel_, static_cast<int32_t>(b)) - 1));
    }
  }

  void Run(void* const* buffers, void* queue) const override {
    uintptr_t misaligned = 0;
    absl::InlinedVector<void*, 16> arguments(kernel_.buffers.size());
    for (size_t b = 0; b < arguments.size(); ++b) {
      misaligned |= reinterpret_cast<uintptr_t>(buffers[b]) & misaligned_bits_[b];
      arguments[b] = const_cast<void**>(&buffers[b]);
    }
    const Variant& variant = misaligned == 0 ? *aligned_ : Unaligned();
    const LaunchPlan& plan = variant.plan;
    if (plan.blocks == 0) return;
    TORCH_CHECK(variant.loaded != nullptr, "framejit: a kernel that was compiled for no device was run");
    const int above = plan.spread == Spread::kColumns ? plan.lanes : plan.rows_per_block;
    const absl::Status status =
        variant.loaded->Launch(plan.blocks, plan.threads / above, above, queue, arguments.data());
    TORCH_CHECK(status.ok(), "CUDA error: ", std::string(status.message()), " (", variant.source.entry, ")");
  }

  double nanoseconds() const override { return kLaunchNanoseconds; }
  const std::string& name() const override { return aligned_->source.entry; }
  const std::string& text() const override { return aligned_->source.text; }

  // For the log: source, launch shape and what the kernel takes of the device.
  std::string Description() const {
    std::string text = absl::StrCat(aligned_->source.text, "// ", Print(aligned_->plan), "\n");
    if (aligned_->loaded == nullptr) return text;
    const Resources taken = aligned_->loaded->resources();
    absl::StrAppend(&text, "// ", taken.registers, " registers, ", taken.local_bytes, " bytes spilled a thread, ",
                    taken.shared_bytes, " bytes shared a block\n");
    return text;
  }

 private:
  // For buffers that vectors would not fit; most kernels never see one.
  const Variant& Unaligned() const {
    std::lock_guard<std::mutex> lock(mutex_);
    if (unaligned_ == nullptr) {
      auto variant = CompileVariant(kernel_, 1, architecture_, device_);
      TORCH_CHECK(variant.ok(), "framejit: ", std::string(variant.status().message()));
      unaligned_ = *std::move(variant);
    }
    return *unaligned_;
  }

  const loop::Kernel kernel_;
  const std::unique_ptr<const Variant> aligned_;
  const Architecture architecture_;
  const Device* const device_;
  std::vector<uintptr_t> misaligned_bits_;  // by buffer
  mutable std::mutex mutex_;
  mutable std::unique_ptr<const Variant> unaligned_;
};

// Calls body(0) to body(count - 1), on several threads where that is worth it. The bodies must not log, since the
// calling thread may hold the GIL.
template <typename Body>
void ForEachInParallel(size_t count, Body body) {
  const size_t width = std::min<size_t>(count, std::max(1u, std::thread::hardware_concurrency()));
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) body(i);
  };
  std::vector<std::thread> threads;
  for (size_t t = 1; t < width; ++t) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

// torch's stream as the driver knows it. Newer versions of torch say it; what older ones have is in libc10_cuda alone.
template <typename Guard>
void* NativeHandle(const Guard& guard, const c10::Stream& stream) {
  if constexpr (requires { guard.getStreamNativeHandle(stream); }) {
    return guard.getStreamNativeHandle(stream);
  } else {
    using StreamFunction = void* (*)(const c10::Stream*);  // c10::cuda::CUDAStream is a c10::Stream and nothing else
    static const auto function = [] {
      void* library = dlopen("libc10_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
      return library == nullptr
                 ? nullptr
                 : reinterpret_cast<StreamFunction>(dlsym(library, "_ZNK4c104cuda10CUDAStream6streamEv"));
    }();
    TORCH_CHECK(function != nullptr, "framejit: this torch does not tell its CUDA stream");
    return function(&stream);
  }
}

}  // namespace

void* NativeStream(c10::Device device) {
  const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
  return NativeHandle(guard, guard.getStream(device));
}

namespace {

class TheCudaTarget : public native::Target {
 public:
  // `on`: the device as the driver knows it; null: only compiles.
  TheCudaTarget(c10::Device device, Architecture architecture, const Device* on)
      : device_(device), architecture_(architecture), on_(on) {}

  c10::Device device() const override { return device_; }

  // Few blocks leave most of a GPU idle: rows are then cut so that there are enough of them.
  int64_t PiecesOf(const loop::Kernel& kernel) const override {
    constexpr int64_t kEnoughBlocks = 128, kWantedBlocks = 512;
    const LaunchPlan plan = PlanLaunch(kernel);
    const bool reduces = plan.spread == Spread::kRows || plan.spread == Spread::kColumns;
    if (!reduces || plan.blocks == 0 || plan.blocks >= kEnoughBlocks) return 0;
    const int64_t shortest = plan.spread == Spread::kColumns ? 512 : 8192;
    return loop::PiecesOfRow(kernel.inner_size(), kWantedBlocks / plan.blocks, shortest);
  }

  std::vector<CompiledCode> Compile(absl::Span<const loop::Kernel> kernels, bool keep_text) const override {
    std::vector<CompiledCode> codes(kernels.size(), absl::InternalError("not compiled"));
    ForEachInParallel(kernels.size(), [&](size_t i) { codes[i] = CompileOne(kernels[i]); });
    if (const absl::Status failure = TakeCacheFailure(); !failure.ok()) LogWarning(std::string(failure.message()));
    if (LogEnabled(LogArtifact::k_cuda)) {
      for (const CompiledCode& code : codes) {
        Log(LogArtifact::k_cuda,
            code.ok() ? static_cast<const CudaCode&>(**code).Description() : std::string(code.status().message()));
      }
    }
    return codes;
  }

  native::OutCall FindOutCall(const Graph& graph, const Node& node) const override {
    return cuda::FindOutCall(graph, node);
  }

  at::Tensor Allocate(const native::TensorShape& shape, bool zeroed) const override {
    const c10::DispatchKeySet keys(c10::DispatchKey::CUDA);
    at::Tensor tensor =
        shape.contiguous
            ? at::Tensor(at::detail::empty_generic(shape.sizes, Allocator(), keys, shape.dtype, {}))
            : at::Tensor(at::detail::empty_strided_generic(shape.sizes, shape.strides, Allocator(), keys, shape.dtype));
    return zeroed ? tensor.zero_() : tensor;
  }
  c10::DataPtr AllocateArena(size_t bytes) const override { return Allocator()->allocate(bytes); }
  // Memory belongs to the stream that was current when it was taken; torch's allocator knows when to give it again.
  bool keeps_arenas() const override { return false; }
  void* CurrentQueue() const override { return NativeStream(device_); }

 private:
  static c10::Allocator* Allocator() { return at::detail::getCUDAHooks().getCUDADeviceAllocator(); }

  CompiledCode CompileOne(const loop::Kernel& source) const {
    if (absl::Status status = loop::Verify(source); !status.ok()) return status;
    loop::Kernel kernel = source;
    Canonicalize(kernel);
    const std::string key = loop::Print(kernel);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (const auto known = known_.find(key); known != known_.end()) return known->second;
    }
    auto variant = CompileVariant(kernel, 16, architecture_, on_);
    if (!variant.ok()) return variant.status();
    auto code = std::make_shared<const CudaCode>(std::move(kernel), *std::move(variant), architecture_, on_);
    std::lock_guard<std::mutex> lock(mutex_);
    return known_.try_emplace(key, std::move(code)).first->second;  // another thread may have been faster
  }

  const c10::Device device_;
  const Architecture architecture_;
  const Device* const on_;
  mutable std::mutex mutex_;
  // By text. Kept, as what is loaded on the device is.
  mutable absl::flat_hash_map<std::string, std::shared_ptr<const CudaCode>> known_;
};

absl::StatusOr<const native::Target*> MakeTarget(c10::Device device) {
  absl::StatusOr<const Device*> on = Device::Open(device.index());
  if (!on.ok()) return on.status();
  if (absl::Status status = CheckToolchain((*on)->architecture()); !status.ok()) return status;
  return new TheCudaTarget(device, (*on)->architecture(), *on);
}

}  // namespace

absl::StatusOr<const native::Target*> CudaTarget(c10::Device device) {
  static auto* mutex = new std::mutex;
  static auto* targets = new std::map<int, absl::StatusOr<const native::Target*>>;
  std::lock_guard<std::mutex> lock(*mutex);
  const auto known = targets->find(device.index());
  if (known != targets->end()) return known->second;
  return targets->emplace(device.index(), MakeTarget(device)).first->second;
}

std::unique_ptr<const native::Target> MakeCompileOnlyTarget(c10::Device device, Architecture architecture) {
  return std::make_unique<TheCudaTarget>(device, architecture, nullptr);
}

}  // namespace framejit::cuda
