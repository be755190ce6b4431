#include "frame_eval/trace.h"

#include <torch/csrc/Generator.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/autograd/python_variable.h>

#include <exception>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "frame_eval/cpython/exception_text.h"
#include "frame_eval/internal_errors.h"
#include "frame_eval/written_inputs.h"
#include "graph/error_text.h"
#include "graph/fake/open_number.h"
#include "graph/generator_state.h"
#include "graph/symbolic/open_graph.h"

namespace framejit {
namespace {

// The outputs' vector of this thread, so that a warm call allocates none. Taken and put back, because a call may nest.
class OutputBuffer {
 public:
  OutputBuffer() : outputs_(std::move(Spare())) { outputs_.clear(); }
  ~OutputBuffer() {
    outputs_.clear();
    if (outputs_.capacity() <= 64) Spare() = std::move(outputs_);
  }
  OutputBuffer(const OutputBuffer&) = delete;
  OutputBuffer& operator=(const OutputBuffer&) = delete;
  std::vector<at::Tensor>& get() { return outputs_; }

 private:
  static std::vector<at::Tensor>& Spare() {
    thread_local std::vector<at::Tensor> spare;
    return spare;
  }
  std::vector<at::Tensor> outputs_;
};

class RunningScope {
 public:
  explicit RunningScope(bool& running) : running_(running), before_(std::exchange(running, true)) {}
  ~RunningScope() { running_ = before_; }
  RunningScope(const RunningScope&) = delete;
  RunningScope& operator=(const RunningScope&) = delete;

 private:
  bool& running_;
  const bool before_;
};

// Generators from outside and those that the graph holds in their place.
class LentGenerators {
 public:
  LentGenerators(const std::vector<std::pair<size_t, at::Generator>>& lent, absl::Span<PyObject* const> sources,
                 size_t input_count) {
    for (const auto& [position, own] : lent)
      pairs_.emplace_back(reinterpret_cast<THPGenerator*>(sources[position - input_count])->cdata, own);
  }

  // False where they are not as they were recorded: on the CPU, each another one, and none torch's default one.
  bool Take() {
    for (size_t i = 0; i < pairs_.size(); ++i) {
      const at::Generator& lender = pairs_[i].first;
      if (!lender.device().is_cpu() || lender == at::detail::getDefaultCPUGenerator()) return false;
      for (size_t k = 0; k < i; ++k) {
        if (pairs_[k].first == lender) return false;
      }
    }
    for (auto& [lender, own] : pairs_) GeneratorState(lender).Restore(own);
    return true;
  }

  void GiveBack() {
    for (auto& [lender, own] : pairs_) GeneratorState(own).Restore(lender);
  }

 private:
  absl::InlinedVector<std::pair<at::Generator, at::Generator>, 2> pairs_;
};

template <typename Run>
bool RunGraph(Run run) {
  std::string reason;
  try {
    run();
    if (PyErr_Occurred() == nullptr) return true;
  } catch (const std::exception& error) {
    reason = ErrorText(error);
  }
  // What Python raised is still set, and torch's exception for it says nothing.
  if (const std::string raised = TakeExceptionText(); reason.empty()) reason = raised;
  const std::string text = absl::StrCat("a compiled graph raised; the function runs in the interpreter instead: ",
                                        reason.substr(0, reason.find('\n')));
  const bool is_fault = absl::StrContains(reason, "INTERNAL ASSERT FAILED");  // nothing that the program did
  if (is_fault) {
    ReportInternalError(text);
  } else if (LogEnabled(LogArtifact::k_breaks)) {
    Log(LogArtifact::k_breaks, text);
  }
  return false;
}

bool RunGraph(CompiledGraph& graph, c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs) {
  return RunGraph([&] { graph.Run(inputs, outputs); });
}

int64_t VersionOf(const at::Tensor& tensor) {
  if (tensor.is_inference()) return 0;
  return static_cast<int64_t>(tensor.unsafeGetTensorImpl()->version_counter().current_version());
}

// Without taking the lock of the levels. What a view's base is is not looked at.
bool MayBeDual(const at::Tensor& tensor) {
  const auto* meta = torch::autograd::impl::get_autograd_meta(tensor);
  return meta != nullptr && (meta->fw_grad_ != nullptr || meta->is_view_);
}

void SetVersion(const at::Tensor& tensor, int64_t version) {
  if (tensor.is_inference()) return;
  c10::VariableVersion counter = tensor.unsafeGetTensorImpl()->version_counter();  // shares the count
  counter.set_version(version);
}

// The versions of a result that the program has written: a look at an input counts with that.
void CountWrites(const at::Tensor& result, uint32_t version, c10::ArrayRef<at::Tensor> inputs) {
  for (const at::Tensor& input : inputs) {
    if (!result.has_storage() || !input.has_storage() || !result.is_alias_of(input)) continue;
    if (!result.is_inference() && !input.is_inference())
      result.unsafeGetTensorImpl()->set_version_counter(input.unsafeGetTensorImpl()->version_counter());
    return;
  }
  RaiseVersion(result, version);
}

}  // namespace

// False: the guards do not hold any more.
bool Trace::FindModule(const CallState& state, Choice& choice) {
  std::vector<PyRef> owned;
  const std::vector<PyObject*> inputs(guards->Fetched().begin(), guards->Fetched().begin() + input_count);
  for (PyObject* object : inputs) owned.push_back(PyRef::Borrow(object));
  guards->Release();
  absl::StatusOr<std::shared_ptr<CompiledGraph>> module = data->FindModule(inputs);
  if (PyErr_Occurred() != nullptr) PyErr_Clear();
  if (module.ok()) {
    choice.module = *std::move(module);
  } else if (LogEnabled(LogArtifact::k_symbols)) {
    Log(LogArtifact::k_symbols, absl::StrCat(report.function, " runs call by call: ", module.status().message()));
  }
  const bool holds = guards->Check(state) == GuardResult::kPass;
  if (PyErr_Occurred() != nullptr) PyErr_Clear();
  return holds;
}

bool Trace::CoversSizes(const CallState& state, Choice& choice) {
  if (data != nullptr) {
    const absl::Status covered = data->Covers(guards->Fetched(), input_count);
    if (!covered.ok()) guards->Release();
    return covered.ok() && (!data->has_modules() || FindModule(state, choice));
  }
  if (variants == nullptr) return true;
  variants->CountCall();
  choice.symbols.assign(variants->program().symbols.size(), {});
  if (!variants->TakeNumbers(guards->Fetched(), choice.symbols).ok()) return guards->Release(), false;
  std::shared_ptr<const SizeVariant> variant = variants->Find(guards->Fetched(), choice.symbols);
  if (variant == nullptr || variant->is_provisional) {
    if (variants->HasTooManyNumbers()) return guards->Release(), false;
    std::vector<PyRef> owned;
    std::vector<PyObject*> fetched(guards->Fetched().begin(), guards->Fetched().end());
    for (PyObject* object : fetched) owned.push_back(PyRef::Borrow(object));
    guards->Release();
    variant = variants->Make(fetched, report.torch_graph, report.recorded);
    if (PyErr_Occurred() != nullptr) PyErr_Clear();
    const bool holds = variant->graph != nullptr && guards->Check(state) == GuardResult::kPass;
    if (PyErr_Occurred() != nullptr) PyErr_Clear();
    if (!holds) return false;
  }
  if (variant->graph == nullptr || !variant->Takes(choice.symbols)) return guards->Release(), false;
  for (size_t i = 0; i < choice.symbols.size(); ++i) {
    if (!choice.symbols[i]) choice.symbols[i] = variant->symbols[i];
  }
  choice.variant = std::move(variant);
  return true;
}

std::string Trace::ExplainMiss(const CallState& state) const {
  if (data != nullptr && guards->Check(state) == GuardResult::kPass) {
    const absl::Status covered = data->Covers(guards->Fetched(), input_count);
    guards->Release();
    return covered.ok() ? data->why_uncovered() : std::string(covered.message());
  }
  if (variants != nullptr && guards->Check(state) == GuardResult::kPass) {
    std::vector<PyRef> symbols;
    const absl::Status numbers = variants->TakeNumbers(guards->Fetched(), symbols);
    std::shared_ptr<const SizeVariant> variant = numbers.ok() ? variants->Find(guards->Fetched(), symbols) : nullptr;
    guards->Release();
    if (!numbers.ok()) return absl::StrCat("it does not hold for these numbers: ", numbers.message());
    if (variant != nullptr && variant->graph == nullptr) return "it does not hold for these sizes: " + variant->why_not;
    if (variants->HasTooManyNumbers()) return "numbers were others in too many calls";
  }
  if (PyErr_Occurred() != nullptr) PyErr_Clear();
  return guards->ExplainFailure(state);
}

Trace::Outcome Trace::Run(const CallState& state, const Choice& choice, PyObject** result) {
  absl::Span<PyObject* const> fetched = guards->Fetched();
  const SizeVariant* variant = choice.variant.get();
  if (variants != nullptr && variant == nullptr) return guards->Release(), Outcome::kDiscarded;
  CompiledGraph& compiled = variant != nullptr ? *variant->graph : *graph;
  c10::SmallVector<at::Tensor, 8> inputs;
  inputs.reserve(input_count);
  for (size_t i = 0; i < input_count; ++i) inputs.push_back(THPVariable_Unpack(fetched[i]));
  if (variant != nullptr) {
    for (const at::Scalar& number : NumberValues(variant->numbers, choice.symbols))
      inputs.push_back(WrapNumber(number));
  }
  // The graph may release the GIL and the exit program may run Python code: what they still need is owned from here on.
  absl::InlinedVector<PyRef, 4> owned_sources;
  absl::InlinedVector<PyObject*, 4> sources(fetched.begin() + static_cast<std::ptrdiff_t>(input_count), fetched.end());
  for (PyObject* source : sources) owned_sources.push_back(PyRef::Borrow(source));
  DataGraph::Call data_call;
  if (data != nullptr) data_call = data->NewCall(fetched, input_count);
  guards->Release();

  // Tangents of dual numbers go along with each operator.
  if (std::any_of(inputs.begin(), inputs.end(), MayBeDual) &&
      torch::autograd::ForwardADLevel::try_get_by_idx(0) != nullptr)
    return Outcome::kDiscarded;
  if (own_generators && running) return Outcome::kDiscarded;  // in another thread, which waits for the GIL
  const RunningScope scope(running);
  LentGenerators lent(lent_generators, sources, input_count);
  if (!lent.Take()) return Outcome::kDiscarded;
  OutputBuffer outputs;
  // So that the native run after a discarded one draws the same numbers.
  std::optional<DefaultGeneratorStates> generator;
  if (!random.empty()) generator = DefaultGeneratorStates::Take(random);
  std::optional<SavedInputs> saved;
  const std::vector<size_t>& written = variant != nullptr ? variant->written_inputs : written_inputs;
  if (!written.empty()) saved.emplace(inputs, written);
  if (checkpoint_reads != nullptr) checkpoint_reads->Enter(state);
  c10::SmallVector<int64_t, 4> before;
  for (const auto& [position, steps] : versions) before.push_back(VersionOf(inputs[position]));
  const auto run = [&] {
    if (data == nullptr) return RunGraph(compiled, inputs, outputs.get());
    return RunGraph([&] { data->Run(data_call, outputs.get(), choice.module.get()); });
  };
  if (!run()) {
    if (saved.has_value()) saved->Restore();
    if (generator.has_value()) generator->Restore();
    return data_call.is_uncovered ? Outcome::kUncovered : Outcome::kDiscarded;
  }
  for (size_t i = 0; i < versions.size(); ++i) SetVersion(inputs[versions[i].first], before[i] + versions[i].second);
  for (const auto& [position, version] : output_versions) CountWrites(outputs.get()[position], version, inputs);
  lent.GiveBack();
  *result = exit->Run(sources, outputs.get(), data != nullptr ? data_call.symbols() : choice.symbols);
  return Outcome::kDone;
}

int Trace::Traverse(visitproc visit, void* arg) const {
  if (int result = guards->Traverse(visit, arg); result != 0) return result;
  Py_VISIT(resume.get());
  // Calls whose backward is to come hold it as well.
  if (checkpoint_reads != nullptr && checkpoint_reads.use_count() == 1) {
    if (int result = checkpoint_reads->Traverse(visit, arg); result != 0) return result;
  }
  return exit == nullptr ? 0 : exit->Traverse(visit, arg);
}

}  // namespace framejit
