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
#include "absl/strings/str_format.h"
#include "backends/cuda/codegen/driver.h"
#include "backends/cuda/codegen/launch_plan.h"
#include "backends/cuda/codegen/source.h"
#include "backends/cuda/codegen/toolchain.h"
#include "backends/cuda/measure.h"
#include "backends/cuda/out_calls.h"
#include "backends/loop/split.h"
#include "base/log.h"

namespace framejit::cuda {
namespace {

constexpr double kLaunchNanoseconds = 3000;

// Compiled source, and on its device where there is one.
struct Program {
  KernelSource source;
  std::string cubin;
  std::unique_ptr<const LoadedKernel> loaded;
};

// The programs of a device by their text. Kept, as what is loaded on the device is. Thread-safe; logs nothing.
class Programs {
 public:
  using Found = absl::StatusOr<std::shared_ptr<const Program>>;

  // `on`: null: only compiles.
  Programs(Architecture architecture, const Device* on) : architecture_(architecture), on_(on) {}

  Found Find(KernelSource source) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (const auto known = known_.find(source.text); known != known_.end()) return known->second;
    }
    auto program = std::make_shared<Program>();
    absl::StatusOr<std::string> cubin = CompileSource(source.text, architecture_);
    if (!cubin.ok()) return cubin.status();
    program->cubin = *std::move(cubin);
    if (on_ != nullptr) {
      auto loaded = on_->Load(program->cubin, source.entry);
      if (!loaded.ok()) return loaded.status();
      program->loaded = *std::move(loaded);
    }
    program->source = std::move(source);
    std::lock_guard<std::mutex> lock(mutex_);
    return known_.try_emplace(program->source.text, program).first->second;  // another thread may have been faster
  }

  // Whether rows of other sizes were reduced by kernels of this text.
  bool InnerVaries(const std::string& open_text, int64_t size) {
    std::lock_guard<std::mutex> lock(mutex_);
    return inner_sizes_.try_emplace(open_text, size).first->second != size;
  }

  // What to try for a canonical kernel: what was chosen for it before, if anything was.
  std::vector<PlanChange> ChangesFor(const loop::Kernel& kernel) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto chosen = chosen_.find(loop::Print(kernel));
    return chosen != chosen_.end() ? std::vector<PlanChange>{chosen->second} : ChangesToTry(kernel);
  }
  void Choose(const loop::Kernel& kernel, PlanChange change) {
    std::lock_guard<std::mutex> lock(mutex_);
    chosen_.try_emplace(loop::Print(kernel), change);
  }

  native::CodeCount count() const {
    std::lock_guard<std::mutex> lock(mutex_);
    native::CodeCount count;
    for (const auto& [text, program] : known_) count.held_bytes += static_cast<int64_t>(program->cubin.size());
    count.made = count.held = static_cast<int64_t>(known_.size());
    return count;
  }

 private:
  const Architecture architecture_;
  const Device* const on_;
  mutable std::mutex mutex_;
  absl::flat_hash_map<std::string, std::shared_ptr<const Program>> known_;
  absl::flat_hash_map<std::string, int64_t> inner_sizes_;  // the first, by what is open then
  absl::flat_hash_map<std::string, PlanChange> chosen_;    // by kernel: the fastest of those that were measured
};

// A kernel as it is launched with buffers of an alignment.
struct Variant {
  LaunchPlan plan;
  std::vector<int64_t> values;  // of open numbers
  std::shared_ptr<const Program> program;
};

// Of the places where kernels may be open: rows that are reduced are of a size that is known, which takes no masks,
// until there are others.
loop::OpenedKernel OpenFor(const loop::Kernel& kernel, const LaunchPlan& plan, Programs& programs) {
  loop::OpenedKernel open = loop::Open(kernel, PlacesOf(kernel, plan, /*inner=*/true));
  const bool reduces = plan.spread == Spread::kRows || plan.spread == Spread::kColumns;
  if (!reduces || programs.InnerVaries(loop::Print(open.kernel), kernel.inner_size())) return open;
  return loop::Open(kernel, PlacesOf(kernel, plan, /*inner=*/false));
}

// What a kernel is compiled for.
struct Purpose {
  bool open_sizes = false;
  PlanChange change;
};

absl::StatusOr<std::unique_ptr<Variant>> CompileVariant(const loop::Kernel& kernel, const Purpose& purpose,
                                                        int max_vector, Programs& programs) {
  auto variant = std::make_unique<Variant>();
  variant->plan = PlanLaunch(kernel, max_vector, purpose.change);
  loop::OpenedKernel open =
      purpose.open_sizes ? OpenFor(kernel, variant->plan, programs) : loop::OpenedKernel{kernel, {}};
  auto program = programs.Find(GenerateSource(open.kernel, variant->plan));
  if (!program.ok()) return program.status();
  variant->program = *std::move(program);
  variant->values = std::move(open.values);
  return variant;
}

class CudaCode : public native::KernelCode {
 public:
  CudaCode(loop::Kernel kernel, Purpose purpose, std::unique_ptr<Variant> variant, std::shared_ptr<Programs> programs)
      : kernel_(std::move(kernel)), purpose_(purpose), aligned_(std::move(variant)), programs_(std::move(programs)) {
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
    const Program& program = *variant.program;
    TORCH_CHECK(program.loaded != nullptr, "framejit: a kernel that was compiled for no device was run");
    // Parameters of 32 bits take the low half, which is the first on this machine and on every other with a GPU.
    for (const int64_t& value : variant.values) arguments.push_back(const_cast<int64_t*>(&value));
    const int above = plan.spread == Spread::kColumns ? plan.lanes : plan.rows_per_block;
    const absl::Status status =
        program.loaded->Launch(plan.blocks, plan.threads / above, above, queue, arguments.data());
    TORCH_CHECK(status.ok(), "CUDA error: ", std::string(status.message()), " (", program.source.entry, ")");
  }

  double nanoseconds() const override { return kLaunchNanoseconds; }
  const std::string& name() const override { return aligned_->program->source.entry; }
  const std::string& text() const override { return aligned_->program->source.text; }
  std::string PlanText() const { return Print(aligned_->plan); }

  // For the log: source, launch shape and what the kernel takes of the device.
  std::string Description() const {
    const Program& program = *aligned_->program;
    std::string text = absl::StrCat(program.source.text, "// ", Print(aligned_->plan), "\n");
    if (program.loaded == nullptr) return text;
    const Resources taken = program.loaded->resources();
    absl::StrAppend(&text, "// ", taken.registers, " registers, ", taken.local_bytes, " bytes spilled a thread, ",
                    taken.shared_bytes, " bytes shared a block\n");
    return text;
  }

 private:
  // For buffers that vectors would not fit; most kernels never see one.
  const Variant& Unaligned() const {
    std::lock_guard<std::mutex> lock(mutex_);
    if (unaligned_ == nullptr) {
      auto variant = CompileVariant(kernel_, purpose_, 1, *programs_);
      TORCH_CHECK(variant.ok(), "framejit: ", std::string(variant.status().message()));
      unaligned_ = *std::move(variant);
    }
    return *unaligned_;
  }

  const loop::Kernel kernel_;
  const Purpose purpose_;
  const std::unique_ptr<const Variant> aligned_;
  const std::shared_ptr<Programs> programs_;
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
      : device_(device), is_there_(on != nullptr), programs_(std::make_shared<Programs>(architecture, on)) {}

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

  std::vector<CompiledCode> Compile(absl::Span<const loop::Kernel> kernels,
                                    const native::CodeOptions& options) const override {
    std::vector<CompiledCode> codes(kernels.size(), absl::InternalError("not compiled"));
    if (options.autotune && is_there_ && !options.open_sizes)
      codes = CompileFastest(kernels);
    else
      ForEachInParallel(kernels.size(), [&](size_t i) { codes[i] = CompileOne(kernels[i], options.open_sizes); });
    if (const absl::Status failure = TakeCacheFailure(); !failure.ok()) LogWarning(std::string(failure.message()));
    if (LogEnabled(LogArtifact::k_cuda)) {
      for (const CompiledCode& code : codes) {
        Log(LogArtifact::k_cuda,
            code.ok() ? static_cast<const CudaCode&>(**code).Description() : std::string(code.status().message()));
      }
    }
    return codes;
  }

  native::CodeCount code_count() const override { return programs_->count(); }

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

  CompiledCode CompileOne(const loop::Kernel& source, bool open_sizes) const {
    absl::StatusOr<loop::Kernel> kernel = Canonical(source);
    if (!kernel.ok()) return kernel.status();
    return CompileFor(*kernel, {.open_sizes = open_sizes});
  }

  static absl::StatusOr<loop::Kernel> Canonical(const loop::Kernel& source) {
    if (absl::Status status = loop::Verify(source); !status.ok()) return status;
    loop::Kernel kernel = source;
    Canonicalize(kernel);
    return kernel;
  }

  CompiledCode CompileFor(const loop::Kernel& kernel, const Purpose& purpose) const {
    auto variant = CompileVariant(kernel, purpose, 16, *programs_);
    if (!variant.ok()) return variant.status();
    return std::make_shared<const CudaCode>(kernel, purpose, *std::move(variant), programs_);
  }

  // --- measured choices ---

  // One of the plans of a kernel.
  struct Candidate {
    size_t of = 0;
    PlanChange change;
    CompiledCode code = absl::InternalError("not compiled");
  };

  std::vector<CompiledCode> CompileFastest(absl::Span<const loop::Kernel> sources) const {
    std::vector<absl::StatusOr<loop::Kernel>> kernels;
    std::vector<Candidate> candidates;
    for (size_t k = 0; k < sources.size(); ++k) {
      kernels.push_back(Canonical(sources[k]));
      if (!kernels.back().ok()) continue;
      for (const PlanChange& change : programs_->ChangesFor(*kernels.back())) candidates.push_back({k, change});
    }
    ForEachInParallel(candidates.size(), [&](size_t c) {
      candidates[c].code = CompileFor(*kernels[candidates[c].of], {.change = candidates[c].change});
    });
    std::vector<CompiledCode> codes;
    size_t begin = 0;
    for (size_t k = 0; k < kernels.size(); ++k) {
      size_t end = begin;
      while (end < candidates.size() && candidates[end].of == k) ++end;
      codes.push_back(kernels[k].ok() ? Fastest(*kernels[k], absl::MakeSpan(candidates).subspan(begin, end - begin))
                                      : CompiledCode(kernels[k].status()));
      begin = end;
    }
    return codes;
  }

  // The first candidate is what the cost model chose; another one must be faster than noise.
  CompiledCode Fastest(const loop::Kernel& kernel, absl::Span<Candidate> candidates) const {
    constexpr double kClearly = 0.97;
    std::vector<const Candidate*> compiled;
    std::vector<const native::KernelCode*> codes;
    for (const Candidate& candidate : candidates) {
      if (!candidate.code.ok()) continue;
      compiled.push_back(&candidate);
      codes.push_back(candidate.code->get());
    }
    if (candidates.size() == 1 || !candidates[0].code.ok()) return candidates[0].code;
    const absl::StatusOr<std::vector<double>> times = MeasureMicroseconds(device_, kernel, codes);
    if (!times.ok()) {
      Log(LogArtifact::k_cuda, absl::StrCat("not measured: ", std::string(times.status().message())));
      return candidates[0].code;
    }
    size_t best = 0;
    std::string text = "measured:";
    for (size_t c = 0; c < compiled.size(); ++c) {
      if ((*times)[c] < (*times)[best] * (best == 0 ? kClearly : 1)) best = c;
      const auto& code = static_cast<const CudaCode&>(*codes[c]);
      absl::StrAppend(&text, "\n  ", absl::StrFormat("%.2f", (*times)[c]), " us: ", code.PlanText());
    }
    Log(LogArtifact::k_cuda, absl::StrCat(text, "\n  chosen: ", best + 1, " of ", compiled.size()));
    programs_->Choose(kernel, compiled[best]->change);
    return compiled[best]->code;
  }

  const c10::Device device_;
  const bool is_there_;
  const std::shared_ptr<Programs> programs_;
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
