#include "backends/native/executor.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>

#include <memory>
#include <optional>

#include "absl/container/inlined_vector.h"
#include "backends/dispatch.h"
#include "backends/native/target.h"
#include "base/least_time.h"

namespace framejit::native {
namespace {

// Releasing and taking the GIL back costs about as much as a small kernel, and more when others wait for it.
constexpr double kReleaseGilNanoseconds = 100e3;
// An arena larger than this is given back after each call.
constexpr int64_t kKeptArenaBytes = int64_t{64} << 20;

void Do(const KernelStep& step, CallState& call) {
  absl::InlinedVector<void*, 16> buffers(step.buffers.size());
  for (size_t i = 0; i < buffers.size(); ++i) {
    buffers[i] = static_cast<char*>(call.bases[step.buffers[i].base]) + step.buffers[i].offset;
  }
  step.kernel->Run(buffers.data(), call.queue);
}

void Do(const AllocateStep& step, CallState& call) {
  at::Tensor& tensor = call.locals[step.local];
  tensor = call.plan.target->Allocate(step.shape, step.zeroed);
  call.bases[step.base] = tensor.unsafeGetTensorImpl()->mutable_data();
}

void Do(const AliasStep& step, CallState& call) {
  const at::Tensor& from = call.At(step.from);
  call.locals[step.local] = TensorOver(from.storage(), step.shape, from.storage_offset() + step.offset);
}

void Do(const CloneStep& step, CallState& call) {
  at::Tensor& tensor = call.locals[step.local];
  tensor = call.plan.constants[static_cast<size_t>(step.constant)].clone();
  call.bases[step.base] = tensor.mutable_data_ptr();
}

void Do(const LibraryStep& step, CallState& call) { step.function(step, call); }

void RunStep(const Step& step, CallState& call) {
  std::visit([&](const auto& action) { Do(action, call); }, step.action);
  for (int32_t local : step.released) call.locals[local].reset();
}

StepTime StepOf(const Step& step) {
  struct Visitor {
    StepTime operator()(const KernelStep& kernel) const { return {StepTime::Kind::kKernel, kernel.kernel->name()}; }
    StepTime operator()(const LibraryStep& call) const {
      return {StepTime::Kind::kLibraryCall, OperatorName(call.node->op)};
    }
    StepTime operator()(const AllocateStep&) const { return {StepTime::Kind::kMemory, "allocate"}; }
    StepTime operator()(const AliasStep&) const { return {StepTime::Kind::kMemory, "view"}; }
    StepTime operator()(const CloneStep&) const { return {StepTime::Kind::kMemory, "copy of a constant"}; }
  };
  return std::visit(Visitor(), step.action);
}

// The GIL, given up while a long graph runs if this thread has it.
class ReleasedGil {
 public:
  explicit ReleasedGil(bool wanted) {
    if (wanted && Py_IsInitialized() && PyGILState_Check()) state_ = PyEval_SaveThread();
  }
  ~ReleasedGil() {
    if (state_ != nullptr) PyEval_RestoreThread(state_);
  }
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;

 private:
  PyThreadState* state_ = nullptr;
};

// Calls visit(input) for every input that a step reads.
class InputReads {
 public:
  explicit InputReads(const Plan& plan) : of_base_(static_cast<size_t>(plan.base_count), -1) {
    for (auto [input, base] : plan.input_bases) of_base_[static_cast<size_t>(base)] = input;
  }

  template <typename Visit>
  void ForEach(const Step& step, Visit visit) const {
    auto ref = [&](TensorRef tensor) {
      if (tensor.kind == TensorRef::Kind::kInput) visit(tensor.index);
    };
    if (const auto* kernel = std::get_if<KernelStep>(&step.action)) {
      for (const PointerRef& buffer : kernel->buffers) {
        if (int32_t input = of_base_[static_cast<size_t>(buffer.base)]; input >= 0) visit(input);
      }
    } else if (const auto* alias = std::get_if<AliasStep>(&step.action)) {
      ref(alias->from);
    } else if (const auto* library = std::get_if<LibraryStep>(&step.action)) {
      for (const auto& operand : library->operands) {
        for (TensorRef tensor : operand) ref(tensor);
      }
      ref(library->out);
    }
  }

 private:
  std::vector<int32_t> of_base_;
};

}  // namespace

NativeGraph::NativeGraph(std::unique_ptr<const Plan> plan) : plan_(std::move(plan)), last_read_(plan_->steps.size()) {
  std::vector<bool> read(plan_->graph.inputs.size(), false);
  auto keep = [&](TensorRef tensor) {
    if (tensor.kind == TensorRef::Kind::kInput) read[static_cast<size_t>(tensor.index)] = true;
  };
  for (TensorRef output : plan_->outputs) keep(output);
  for (const PlannedMutation& mutation : plan_->mutations) keep(mutation.input), keep(mutation.value);
  const InputReads reads(*plan_);
  for (size_t i = plan_->steps.size(); i-- > 0;) {
    reads.ForEach(plan_->steps[i], [&](int32_t input) {
      if (!read[static_cast<size_t>(input)]) last_read_[i].push_back(input);
      read[static_cast<size_t>(input)] = true;
    });
  }
}

std::unique_ptr<Frame> NativeGraph::TakeFrame() {
  std::unique_ptr<Frame> frame(idle_frame_.exchange(nullptr, std::memory_order_acquire));
  if (frame == nullptr) frame = std::make_unique<Frame>(*plan_);
  return frame;
}

void NativeGraph::ReturnFrame(std::unique_ptr<Frame> frame) {
  if (!plan_->target->keeps_arenas() || plan_->arena_bytes > kKeptArenaBytes) return;
  Frame* none = nullptr;
  if (idle_frame_.compare_exchange_strong(none, frame.get(), std::memory_order_release)) frame.release();
}

void NativeGraph::Run(c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs) {
  Run(inputs, nullptr, outputs);
}

void NativeGraph::RunReleasing(std::vector<at::Tensor> inputs, std::vector<at::Tensor>& outputs) {
  Run(inputs, &inputs, outputs);
}

template <typename Use>
void NativeGraph::WithCall(c10::ArrayRef<at::Tensor> inputs, Use use) {
  const Plan& plan = *plan_;
  TORCH_CHECK(inputs.size() == plan.graph.inputs.size(), "a compiled graph: ", plan.graph.inputs.size(),
              " inputs expected, ", inputs.size(), " given");
  std::optional<c10::DeviceGuard> device;
  if (!plan.target->device().is_cpu()) device.emplace(plan.target->device());
  std::unique_ptr<Frame> frame;
  if (plan.arena_bytes > 0) frame = TakeFrame();
  absl::InlinedVector<at::Tensor, 8> locals(static_cast<size_t>(plan.local_count));
  absl::InlinedVector<void*, 32> bases(static_cast<size_t>(plan.base_count));
  CallState call{plan, inputs, locals.data(), bases.data(), frame.get(), plan.target->CurrentQueue()};
  if (frame != nullptr) bases[0] = frame->arena;
  // First: where the memory is a lazy clone's, it becomes the input's own and is elsewhere from then on.
  for (int32_t input : plan.written_in_place) inputs[static_cast<size_t>(input)].mutable_data_ptr();
  for (auto [input, base] : plan.input_bases) {
    bases[static_cast<size_t>(base)] = const_cast<void*>(inputs[static_cast<size_t>(input)].const_data_ptr());
  }
  for (auto [constant, base] : plan.constant_bases) {
    bases[static_cast<size_t>(base)] =
        const_cast<void*>(plan.constants[static_cast<size_t>(constant)].const_data_ptr());
  }
  {
    ReleasedGil gil(plan.nanoseconds > kReleaseGilNanoseconds);
    std::optional<RecordedLevelGuard> level;
    if (plan.calls_library || !plan.mutations.empty()) level.emplace();
    use(call);
  }
  if (frame != nullptr) ReturnFrame(std::move(frame));
}

void NativeGraph::Run(c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>* owned,
                      std::vector<at::Tensor>& outputs) {
  WithCall(inputs, [&](CallState& call) {
    // First: torch refuses to count the writes of an inference tensor outside of inference mode.
    for (int32_t input : plan_->written_in_place)
      inputs[static_cast<size_t>(input)].unsafeGetTensorImpl()->bump_version();
    RunSteps(call, owned);
    TakeOutputs(call, outputs);
    Write(call);
  });
}

void NativeGraph::RunWithoutWrites(c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs,
                                   std::vector<at::Tensor>& written) {
  TORCH_INTERNAL_ASSERT(plan_->written_in_place.empty(), "the graph writes its inputs as it runs");
  WithCall(inputs, [&](CallState& call) {
    RunSteps(call, nullptr);
    TakeOutputs(call, outputs);
    written.clear();
    for (const PlannedMutation& mutation : plan_->mutations) written.push_back(call.At(mutation.value));
  });
}

std::vector<StepTime> NativeGraph::TimeSteps(c10::ArrayRef<at::Tensor> given, double patience) {
  std::vector<at::Tensor> inputs(given.begin(), given.end());
  for (int32_t input : plan_->written_in_place) {
    at::Tensor& written = inputs[static_cast<size_t>(input)];
    written = written.clone();
  }
  std::vector<LeastTime> least(plan_->steps.size());
  const auto start = LeastTime::Clock::now();
  do {
    WithCall(inputs, [&](CallState& call) {
      for (size_t i = 0; i < plan_->steps.size(); ++i) {
        const LeastTime::Scope scope(least[i]);
        RunStep(plan_->steps[i], call);
      }
    });
  } while (LeastTime::NanosecondsSince(start) < patience);
  std::vector<StepTime> times;
  for (size_t i = 0; i < plan_->steps.size(); ++i) {
    times.push_back(StepOf(plan_->steps[i]));
    times.back().nanoseconds = least[i].nanoseconds();
  }
  return times;
}

void NativeGraph::RunSteps(CallState& call, std::vector<at::Tensor>* owned) const {
  for (size_t i = 0; i < plan_->steps.size(); ++i) {
    RunStep(plan_->steps[i], call);
    if (owned == nullptr) continue;
    for (int32_t input : last_read_[i]) (*owned)[static_cast<size_t>(input)].reset();
  }
}

void NativeGraph::TakeOutputs(const CallState& call, std::vector<at::Tensor>& outputs) const {
  outputs.clear();
  outputs.reserve(plan_->outputs.size());
  for (TensorRef ref : plan_->outputs) outputs.push_back(call.At(ref));
}

void NativeGraph::Write(const CallState& call) const {
  if (plan_->mutations.empty()) return;
  std::vector<std::pair<at::Tensor, at::Tensor>> writes;
  for (const PlannedMutation& mutation : plan_->mutations) {
    writes.emplace_back(call.At(mutation.input), call.At(mutation.value));
  }
  ApplyWrites(std::move(writes));
}

}  // namespace framejit::native
