#include "backends/cpu/cpu_target.h"

#include <ATen/EmptyTensor.h>
#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "backends/cpu/codegen/kernel_compiler.h"
#include "backends/cpu/out_calls.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/product_calls.h"
#include "backends/cpu/row_gathers.h"
#include "backends/loop/split.h"
#include "backends/native/fusion.h"
#include "backends/native/library_calls.h"
#include "backends/native/single_operators.h"
#include "base/log.h"

namespace framejit::cpu {
namespace {

// Work one thread should at least have, in the compiler's unit (vector instructions per element) times elements; as
// many elements of a cheap kernel as ATen gives a thread.
constexpr int64_t kGrainWork = 32768 * 4;
// A column of this many elements is walked once per kernel: between two walks of a strip of columns its lines would not
// stay in the first cache.
constexpr int64_t kLongColumn = 128;

// Below this, writing zeros costs less than faulting the pages in.
constexpr size_t kZeroPagesBytes = size_t{1} << 20;

constexpr size_t kHugePageBytes = size_t{2} << 20;

// Large memory (malloc keeps less for the next call) is fresh from the system in each call, which faults it in as it is
// written. Of ordinary pages that takes longer than the writing (benchmarks/kernels.py, "in memory"). Where there are
// no huge pages to give, nothing changes.
void AskForHugePages(void* data, size_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (address + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  const uintptr_t end = (address + bytes) / kHugePageBytes * kHugePageBytes;
  if (bytes >= native::kHugePagedBytes) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

// Fresh pages of the system, which are zero and take no memory until they are touched.
struct ZeroPages {
  static c10::DataPtr Map(size_t bytes) {
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return {};
    c10::profiledCPUMemoryReporter().New(data, bytes);
    return {data, new ZeroPages{data, bytes}, Unmap, c10::Device(c10::DeviceType::CPU)};
  }
  static void Unmap(void* context) {
    const std::unique_ptr<ZeroPages> pages(static_cast<ZeroPages*>(context));
    c10::profiledCPUMemoryReporter().Delete(pages->data);
    munmap(pages->data, pages->bytes);
  }

  void* data;
  size_t bytes;
};

at::Tensor AllocateZeros(const native::TensorShape& shape) {
  const size_t bytes = static_cast<size_t>(c10::multiply_integers(shape.sizes)) * c10::elementSize(shape.dtype);
  if (c10::DataPtr pages = bytes < kZeroPagesBytes ? c10::DataPtr() : ZeroPages::Map(bytes)) {
    c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, std::move(pages), c10::GetCPUAllocator(),
                         /*resizable=*/true);
    return native::TensorOver(std::move(storage), shape, 0);
  }
  at::Tensor tensor = at::Tensor(at::detail::empty_cpu(shape.sizes, shape.dtype));
  std::memset(tensor.mutable_data_ptr(), 0, bytes);
  return tensor;
}

// One compiler per process, so that equal kernels of all graphs share their code; one more where assembly is logged.
KernelCompiler& TheCompiler(bool keep_text) {
  static auto* plain = new KernelCompiler;
  static auto* verbose = [] {
    CodegenOptions options;
    options.keep_text = true;
    return new KernelCompiler(options);
  }();
  return keep_text ? *verbose : *plain;
}

class CpuCode : public native::KernelCode {
 public:
  explicit CpuCode(std::shared_ptr<const CompiledKernel> kernel)
      : kernel_(std::move(kernel)), grain_(Grain(*kernel_)) {}

  void Run(void* const* buffers, void* queue) const override {
    if (grain_ == 0) {
      kernel_->Run(buffers, 0, kernel_->units());
    } else {
      RunParallel(*kernel_, buffers, grain_);
    }
  }
  double nanoseconds() const override {
    return 30 + static_cast<double>(kernel_->units() * kernel_->elements_per_unit()) * 0.1 *
                    std::max(1, kernel_->cost_per_element()) / 2;
  }
  const std::string& name() const override { return kernel_->code().name(); }
  const std::string& text() const override { return kernel_->code().assembly(); }

 private:
  static int64_t Grain(const CompiledKernel& kernel) {
    int64_t work = kernel.elements_per_unit() * std::max(1, kernel.cost_per_element());
    int64_t grain = std::max<int64_t>(1, kGrainWork / std::max<int64_t>(1, work));
    return kernel.units() <= grain ? 0 : grain;
  }

  const std::shared_ptr<const CompiledKernel> kernel_;
  const int64_t grain_;  // units one thread takes at least; 0: one thread does all
};

class TheCpuTarget : public native::Target {
 public:
  c10::Device device() const override { return c10::kCPU; }

  int64_t PiecesOf(const loop::Kernel& kernel) const override {
    const bool wide = kernel.row_count() < native::kFewRows && kernel.inner_size() >= native::kWideRow;
    if (wide) return loop::PiecesOfRow(kernel.inner_size());
    const bool columns = WalksColumns(kernel) && kernel.inner_size() > kLongColumn;
    return columns && loop::PassCount(kernel) > 1 ? 1 : 0;
  }

  std::vector<CompiledCode> Compile(absl::Span<const loop::Kernel> kernels,
                                    const native::CodeOptions& options) const override {
    const bool log = LogEnabled(LogArtifact::k_asm);
    std::vector<CompiledCode> codes;
    for (const loop::Kernel& kernel : kernels) {
      auto compiled =
          TheCompiler(options.keep_text || log).Compile(kernel, options.open_sizes ? Sizes::kOpen : Sizes::kClosed);
      if (!compiled.ok()) {
        codes.emplace_back(compiled.status());
        continue;
      }
      if (log) Log(LogArtifact::k_asm, (*compiled)->code().assembly());
      codes.emplace_back(std::make_shared<CpuCode>(*std::move(compiled)));
    }
    return codes;
  }

  native::CodeCount code_count() const override {
    const EmittedCode count = TheCompiler(false).emitted();
    return {count.emitted, count.held, count.held_bytes};
  }

  native::OutCall FindOutCall(const Graph& graph, const Node& node) const override {
    return cpu::FindOutCall(graph, node);
  }

  native::DirectCall FindDirectCall(const Graph& graph, const Node& node) const override {
    native::DirectCall gather = FindRowGather(graph, node);
    return gather.code != nullptr ? gather : FindProduct(graph, node);
  }

  at::Tensor Allocate(const native::TensorShape& shape, bool zeroed) const override {
    if (zeroed) return AllocateZeros(shape);
    at::Tensor tensor(shape.contiguous ? at::detail::empty_cpu(shape.sizes, shape.dtype)
                                       : at::detail::empty_strided_cpu(shape.sizes, shape.strides, shape.dtype));
    const c10::Storage& storage = tensor.storage();
    AskForHugePages(storage.mutable_data(), storage.nbytes());
    return tensor;
  }
  c10::DataPtr AllocateArena(size_t bytes) const override {
    c10::DataPtr data = c10::GetCPUAllocator()->allocate(bytes);
    AskForHugePages(data.get(), bytes);
    return data;
  }
  bool keeps_arenas() const override { return true; }
  void* CurrentQueue() const override { return nullptr; }
};

}  // namespace

const native::Target& CpuTarget() {
  static const auto* target = new TheCpuTarget;
  return *target;
}

}  // namespace framejit::cpu
