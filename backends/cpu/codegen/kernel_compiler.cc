// See kernel_compiler.h: the cache of compiled kernels and asmjit's run-time memory.
#include "backends/cpu/codegen/kernel_compiler.h"

#include <asmjit/x86.h>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "backends/cpu/codegen/kernel_emitter.h"
#include "backends/cpu/codegen/perf_map.h"
#include "backends/loop/canonicalize.h"
#include "backends/loop/schedule.h"

namespace framejit::cpu {
namespace {

// What a pass may keep of a row, on the stack: fits the second-level cache with room for the inputs.
constexpr int64_t kRowBufferBytes = 64 * 1024;

class FirstError : public asmjit::ErrorHandler {
 public:
  void handleError(asmjit::Error error, const char* message, asmjit::BaseEmitter*) override {
    if (text.empty()) text = absl::StrCat(asmjit::DebugUtils::errorAsString(error), ": ", message);
  }
  std::string text;
};

class JitKernel : public CompiledKernel {
 public:
  JitKernel(std::shared_ptr<asmjit::JitRuntime> runtime, Isa isa, const loop::Kernel& kernel,
            const loop::Schedule& schedule)
      : runtime_(std::move(runtime)) {
    SetUnits(kernel, isa);
    cost_per_element_ = 0;
    for (const loop::Pass& pass : schedule.passes) {
      for (const loop::ValueId id : pass.elements) cost_per_element_ += loop::OpCost(kernel, kernel.nodes[id]);
    }
  }
  ~JitKernel() override {
    if (function_ != nullptr) runtime_->release(function_);
  }

  absl::Status Install(asmjit::CodeHolder& code, std::string assembly, std::string name) {
    if (const asmjit::Error error = runtime_->add(&function_, &code)) {
      return absl::ResourceExhaustedError(
          absl::StrCat("asmjit cannot place code: ", asmjit::DebugUtils::errorAsString(error)));
    }
    code_bytes_ = code.codeSize();
    assembly_ = std::move(assembly);
    name_ = std::move(name);
    AddToPerfMap(reinterpret_cast<const void*>(function_), code_bytes_, name_);
    return absl::OkStatus();
  }

 private:
  void SetUnits(const loop::Kernel& kernel, Isa isa) {
    switch (WalkOf(kernel, isa)) {
      case Walk::kElements:
        units_ = kernel.inner_size();
        return;
      case Walk::kRows:
        units_ = kernel.row_count();
        elements_per_unit_ = kernel.inner_size();
        return;
      case Walk::kTiles:
        units_ = kernel.row_count() / RowsOfTile();
        elements_per_unit_ = kernel.inner_size() * RowsOfTile();
        return;
      case Walk::kColumns:
        const int lanes = LanesOf(isa);
        units_ = kernel.row_count() / kernel.dims[kernel.dims.size() - 2].size * ColumnVectors(kernel, lanes);
        elements_per_unit_ = kernel.inner_size() * lanes;
        return;
    }
  }

  std::shared_ptr<asmjit::JitRuntime> runtime_;
};

// `text`: the kernel's.
absl::StatusOr<std::shared_ptr<const CompiledKernel>> Assemble(std::shared_ptr<asmjit::JitRuntime> runtime, Isa isa,
                                                               bool keep_text, const loop::Kernel& kernel,
                                                               const std::string& text) {
  const loop::Schedule schedule =
      loop::MakeSchedule(kernel, WalkOf(kernel, isa) == Walk::kColumns ? 0 : kRowBufferBytes);
  asmjit::CodeHolder code;
  code.init(runtime->environment());
  FirstError error;
  code.setErrorHandler(&error);
  asmjit::StringLogger logger;
  if (keep_text) code.setLogger(&logger);
  x86::Compiler cc(&code);
  KernelEmitter(cc, isa, kernel, schedule).Emit();
  cc.finalize();
  if (!error.text.empty()) return absl::InternalError(absl::StrCat(error.text, "\n", loop::Print(kernel)));
  auto compiled = std::make_shared<JitKernel>(std::move(runtime), isa, kernel, schedule);
  std::string assembly = keep_text ? absl::StrCat(text, logger.data()) : "";
  const absl::Status installed = compiled->Install(code, std::move(assembly), KernelName(kernel, text));
  if (!installed.ok()) return installed;
  return std::shared_ptr<const CompiledKernel>(std::move(compiled));
}

absl::StatusOr<Isa> IsaOf(CodegenOptions::IsaChoice choice) {
  switch (choice) {
    case CodegenOptions::IsaChoice::kDetect:
      break;
    case CodegenOptions::IsaChoice::kAvx2:
      return Isa::kAvx2;
    case CodegenOptions::IsaChoice::kAvx512:
      return Isa::kAvx512;
    case CodegenOptions::IsaChoice::kAvx512Vnni:
      return Isa::kAvx512Vnni;
  }
  return DetectIsa();
}

}  // namespace

struct KernelCompiler::State {
  CodegenOptions options;
  std::shared_ptr<asmjit::JitRuntime> runtime = std::make_shared<asmjit::JitRuntime>();
  absl::Mutex mutex;
  absl::flat_hash_map<std::string, std::weak_ptr<const CompiledKernel>> known ABSL_GUARDED_BY(mutex);
};

KernelCompiler::KernelCompiler(CodegenOptions options) : state_(std::make_shared<State>()) {
  state_->options = options;
}
KernelCompiler::~KernelCompiler() = default;

absl::StatusOr<std::shared_ptr<const CompiledKernel>> KernelCompiler::Compile(const loop::Kernel& source) {
  if (absl::Status status = loop::Verify(source); !status.ok()) return status;
  const absl::StatusOr<Isa> isa = IsaOf(state_->options.isa);
  if (!isa.ok()) return isa.status();
  loop::Kernel kernel = source;
  loop::Canonicalize(kernel);
  const std::string key = loop::Print(kernel);
  {
    absl::MutexLock lock(&state_->mutex);
    if (const auto known = state_->known.find(key); known != state_->known.end()) {
      if (auto compiled = known->second.lock()) return compiled;
    }
  }
  auto compiled = Assemble(state_->runtime, *isa, state_->options.keep_text, kernel, key);
  if (!compiled.ok()) return compiled.status();
  absl::MutexLock lock(&state_->mutex);
  std::weak_ptr<const CompiledKernel>& slot = state_->known[key];
  if (auto other = slot.lock()) return other;  // another thread was faster
  slot = *compiled;
  return *compiled;
}

}  // namespace framejit::cpu
