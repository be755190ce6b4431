// See kernel_compiler.h: the cache of compiled kernels and asmjit's run-time memory.
#include "backends/cpu/codegen/kernel_compiler.h"

#include <asmjit/x86.h>

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "backends/cpu/codegen/kernel_emitter.h"
#include "backends/cpu/codegen/perf_map.h"
#include "backends/loop/canonicalize.h"
#include "backends/loop/open.h"
#include "backends/loop/schedule.h"

namespace framejit::cpu {
namespace {

// Of kernels that differ in the size that vectors run along, so many get code for their size alone.
constexpr size_t kClosedInnerSizes = 2;

// Many rows of less than that are walked up to half as fast by open code: stepping from row to row is most of it.
constexpr int64_t kShortRow = 32, kManyRows = 256;

class FirstError : public asmjit::ErrorHandler {
 public:
  void handleError(asmjit::Error error, const char* message, asmjit::BaseEmitter*) override {
    if (text.empty()) text = absl::StrCat(asmjit::DebugUtils::errorAsString(error), ": ", message);
  }
  std::string text;
};

class JitCode : public MachineCode {
 public:
  explicit JitCode(std::shared_ptr<asmjit::JitRuntime> runtime) : runtime_(std::move(runtime)) {}
  ~JitCode() override {
    if (function_ != nullptr) runtime_->release(function_);
  }

  absl::Status Install(asmjit::CodeHolder& code, std::string assembly, std::string name) {
    if (const asmjit::Error error = runtime_->add(&function_, &code)) {
      return absl::ResourceExhaustedError(
          absl::StrCat("asmjit cannot place code: ", asmjit::DebugUtils::errorAsString(error)));
    }
    bytes_ = code.codeSize();
    assembly_ = std::move(assembly);
    name_ = std::move(name);
    AddToPerfMap(reinterpret_cast<const void*>(function_), bytes_, name_);
    return absl::OkStatus();
  }

 private:
  std::shared_ptr<asmjit::JitRuntime> runtime_;
};

// What the code of a kernel depends on.
struct Form {
  loop::Kernel kernel;  // open
  Walk walk;
  const loop::Schedule* schedule;
  int64_t column_block;
  std::string key;
};

// Whether code for vectors along a dimension of any size is code for this one.
bool MayOpenInner(const loop::Kernel& kernel, Walk walk) {
  if (walk == Walk::kTiles || kernel.inner_size() <= 1) return false;
  return walk == Walk::kColumns || !kernel.has_reductions() || kernel.inner_size() <= kBlockElements;
}

// Loads that gather take longer than any step.
bool HasManyShortRows(const loop::Kernel& kernel) {
  if (kernel.inner_size() >= kShortRow || kernel.row_count() < kManyRows) return false;
  return std::all_of(kernel.accesses.begin(), kernel.accesses.end(), [](const loop::Access& access) {
    return access.strides.back() == 0 || access.strides.back() == 1;
  });
}

// Vectors run along closed sizes, but where `inner` opens them.
loop::OpenPlaces PlacesOf(const loop::Kernel& kernel, Walk walk, Sizes sizes, bool inner) {
  const size_t dims = kernel.dims.size();
  loop::OpenPlaces places{std::vector<loop::OpenPlaces::Along>(dims), sizes == Sizes::kOpen};
  if (walk == Walk::kElements) {
    places.dims[0].size = true;  // the range that Run is given says it
    return places;
  }
  if (sizes == Sizes::kClosed) return places;
  const bool rows_in_vectors = walk == Walk::kColumns || walk == Walk::kTiles;
  for (size_t d = 0; d + (rows_in_vectors ? 2 : 1) < dims; ++d) places.dims[d] = {true, true};
  if (inner) places.dims.back() = {true, walk == Walk::kColumns};
  return places;
}

Form FormOf(const loop::Kernel& kernel, Walk walk, const loop::Schedule& schedule, Sizes sizes, bool inner) {
  Form form{loop::Open(kernel, PlacesOf(kernel, walk, sizes, inner)).kernel, walk, &schedule, 0, ""};
  if (walk == Walk::kColumns) form.column_block = BlockOfColumn(kernel.inner_size());
  form.key = loop::Print(form.kernel);
  if (!inner) return form;
  absl::StrAppend(&form.key, "blocks of ", form.column_block, "\n");
  for (const loop::ValueId id : schedule.kept) absl::StrAppend(&form.key, "keeps v", id, "\n");
  return form;
}

absl::StatusOr<std::shared_ptr<const MachineCode>> Assemble(std::shared_ptr<asmjit::JitRuntime> runtime, Isa isa,
                                                            bool keep_text, const Form& form) {
  asmjit::CodeHolder code;
  code.init(runtime->environment());
  FirstError error;
  code.setErrorHandler(&error);
  asmjit::StringLogger logger;
  if (keep_text) code.setLogger(&logger);
  x86::Compiler cc(&code);
  KernelEmitter(cc, isa, form.kernel, {*form.schedule, form.walk, form.column_block}).Emit();
  cc.finalize();
  if (!error.text.empty()) return absl::InternalError(absl::StrCat(error.text, "\n", form.key));
  auto made = std::make_shared<JitCode>(std::move(runtime));
  std::string assembly = keep_text ? absl::StrCat(form.key, logger.data()) : "";
  const absl::Status installed = made->Install(code, std::move(assembly), KernelName(form.kernel, form.key));
  if (!installed.ok()) return installed;
  return std::shared_ptr<const MachineCode>(std::move(made));
}

int CostPerElement(const loop::Kernel& kernel, const loop::Schedule& schedule) {
  int cost = 0;
  for (const loop::Pass& pass : schedule.passes) {
    for (const loop::ValueId id : pass.elements) cost += loop::OpCost(kernel, kernel.nodes[id]);
  }
  return cost;
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

CompiledKernel::CompiledKernel(const loop::Kernel& kernel, Isa isa, int cost_per_element,
                               std::shared_ptr<const MachineCode> code, std::vector<int64_t> arguments)
    : cost_per_element_(cost_per_element), code_(std::move(code)), arguments_(std::move(arguments)) {
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

struct KernelCompiler::State {
  using Code = std::shared_ptr<const MachineCode>;

  Code Find(const std::string& key) {
    absl::MutexLock lock(&mutex);
    const auto row = known.find(key);
    return row == known.end() ? nullptr : row->second.lock();
  }

  // Whether kernels of this text were compiled for several sizes that vectors run along.
  bool InnerVaries(const std::string& open_key, int64_t size) {
    absl::MutexLock lock(&mutex);
    absl::flat_hash_set<int64_t>& sizes = inner_sizes[open_key];
    if (sizes.size() <= kClosedInnerSizes) sizes.insert(size);
    return sizes.size() > kClosedInnerSizes;
  }

  absl::StatusOr<Code> FindOrAssemble(Isa isa, const Form& form) {
    if (Code code = Find(form.key)) return code;
    absl::StatusOr<Code> made = Assemble(runtime, isa, options.keep_text, form);
    if (!made.ok()) return made.status();
    absl::MutexLock lock(&mutex);
    ++emitted;
    std::weak_ptr<const MachineCode>& slot = known[form.key];
    if (Code other = slot.lock()) return other;  // another thread was faster
    slot = *made;
    return made;
  }

  CodegenOptions options;
  std::shared_ptr<asmjit::JitRuntime> runtime = std::make_shared<asmjit::JitRuntime>();
  absl::Mutex mutex;
  absl::flat_hash_map<std::string, std::weak_ptr<const MachineCode>> known ABSL_GUARDED_BY(mutex);
  // By the key with that size open. No more than kClosedInnerSizes + 1 of each.
  absl::flat_hash_map<std::string, absl::flat_hash_set<int64_t>> inner_sizes ABSL_GUARDED_BY(mutex);
  int64_t emitted ABSL_GUARDED_BY(mutex) = 0;
};

KernelCompiler::KernelCompiler(CodegenOptions options) : state_(std::make_shared<State>()) {
  state_->options = options;
}
KernelCompiler::~KernelCompiler() = default;

absl::StatusOr<std::shared_ptr<const CompiledKernel>> KernelCompiler::Compile(const loop::Kernel& source, Sizes sizes) {
  if (absl::Status status = loop::Verify(source); !status.ok()) return status;
  const absl::StatusOr<Isa> isa = IsaOf(state_->options.isa);
  if (!isa.ok()) return isa.status();
  loop::Kernel kernel = source;
  loop::Canonicalize(kernel);
  const Walk walk = WalkOf(kernel, *isa);
  const loop::Schedule schedule = loop::MakeSchedule(kernel, walk == Walk::kColumns ? 0 : kRowBufferBytes);
  if (walk == Walk::kRows && HasManyShortRows(kernel)) sizes = Sizes::kClosed;
  Form form = FormOf(kernel, walk, schedule, sizes, /*inner=*/false);
  const bool may_open_inner = sizes == Sizes::kOpen && walk != Walk::kElements && MayOpenInner(kernel, walk);
  if (may_open_inner && state_->Find(form.key) == nullptr) {
    Form open = FormOf(kernel, walk, schedule, sizes, /*inner=*/true);
    if (state_->InnerVaries(open.key, kernel.inner_size())) form = std::move(open);
  }
  absl::StatusOr<State::Code> code = state_->FindOrAssemble(*isa, form);
  if (!code.ok()) return code.status();
  return std::make_shared<const CompiledKernel>(
      kernel, *isa, CostPerElement(kernel, schedule), *std::move(code),
      sizes == Sizes::kOpen ? ArgumentsOf(kernel, walk, *isa) : std::vector<int64_t>());
}

EmittedCode KernelCompiler::emitted() const {
  absl::MutexLock lock(&state_->mutex);
  EmittedCode count{state_->emitted, 0, 0};
  for (const auto& [key, slot] : state_->known) {
    const auto code = slot.lock();
    if (code == nullptr) continue;
    ++count.held;
    count.held_bytes += static_cast<int64_t>(code->bytes());
  }
  return count;
}

}  // namespace framejit::cpu
