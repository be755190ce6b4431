#include "graph/symbolic/replay.h"

#include <ATen/SavedTensorHooks.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <exception>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "frame_eval/cpython/exception_text.h"
#include "frame_eval/guards/program_torch_state.h"
#include "graph/autograd/record_backward.h"
#include "graph/error_text.h"
#include "graph/fake/fake_session.h"
#include "graph/passes/analysis.h"
#include "graph/symbolic/call_name.h"
#include "graph/symbolic/values.h"

namespace framejit {
namespace {

// Which inputs and results share memory, by the first of them that does.
std::vector<size_t> SharedMemory(const Graph& graph) {
  std::vector<ValueId> values = graph.inputs;
  values.insert(values.end(), graph.outputs.begin(), graph.outputs.end());
  std::vector<size_t> first(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const auto same = [&](ValueId id) {
      return id == values[i] ||
             (id != kNoValue && values[i] != kNoValue && graph.meta(id).storage == graph.meta(values[i]).storage);
    };
    first[i] = static_cast<size_t>(std::find_if(values.begin(), values.end(), same) - values.begin());
  }
  return first;
}

// Positions of the inputs whose memory a node writes.
std::vector<size_t> InputsInWrittenMemory(const Graph& graph) {
  const absl::flat_hash_set<int32_t> written = WrittenStorages(graph);
  std::vector<size_t> positions;
  for (size_t i = 0; i < graph.inputs.size(); ++i) {
    if (written.contains(graph.meta(graph.inputs[i]).storage)) positions.push_back(i);
  }
  return positions;
}

bool SameForm(const PyRef& form, const PyRef& before) {
  if (!form || !before) return !form && !before;
  return PyLong_AsLong(form.get()) == PyLong_AsLong(before.get());
}

// Sets torch's state as it was, and keeps the user's hooks on saved tensors away from fakes.
class StateScope {
 public:
  StateScope() : state_(ProgramTorchState::Current()), tracing_(at::SavedTensorDefaultHooks::set_tracing(true)) {}
  ~StateScope() {
    at::SavedTensorDefaultHooks::set_tracing(tracing_);
    state_.Set();
  }
  StateScope(const StateScope&) = delete;
  StateScope& operator=(const StateScope&) = delete;

 private:
  ProgramTorchState state_;
  bool tracing_;
};

// Whether the call computes with the numbers among its arguments, but for those in lists, and does nothing else with
// them.
bool IsArithmetic(const TorchCall& call) {
  static constexpr std::string_view kNames[] = {
      "add",          "sub",      "mul",      "truediv",     "div",          "true_divide", "rsub",        "iadd",
      "isub",         "imul",     "itruediv", "__add__",     "__sub__",      "__mul__",     "__truediv__", "__radd__",
      "__rsub__",     "__rmul__", "lt",       "le",          "gt",           "ge",          "eq",          "ne",
      "__rtruediv__", "add_",     "sub_",     "mul_",        "div_",         "pow",         "__pow__",     "__rpow__",
      "remainder",    "mod",      "fmod",     "masked_fill", "masked_fill_", "fill_",       "full",        "full_like",
      "new_full",     "lerp",     "clamp",    "clamp_",      "clamp_min",    "clamp_max",   "where"};
  return std::find(std::begin(kNames), std::end(kNames), NameOfTarget(call)) != std::end(kNames);
}

class Replayer {
 public:
  explicit Replayer(const ReplayRequest& request)
      : request_(request),
        torch_(*request.torch_graph),
        program_(*request.program),
        values_(torch_.values.size(), program_.symbols.size()),
        numbers_(program_.open.size()) {
    values_.open.resize(program_.symbols.size());
  }

  absl::StatusOr<SizedRecording> Run() {
    session_.graph().locations = request_.recorded->locations;
    auto step = program_.steps.begin();
    for (size_t call = 0; call <= torch_.calls.size(); ++call) {
      made_ = false;
      for (; step != program_.steps.end() && step->calls == static_cast<int32_t>(call); ++step) {
        if (!RunStep(*step)) return Failed();
      }
      if (call < torch_.calls.size() && !made_ && !MakeCall(call)) return Failed();
    }
    SizedRecording sized;
    if (!FindOutputs()) return Failed();
    AddNumberInputs(sized);
    if (!MakeBackward(sized)) return Failed();
    AddNumberAnswers(sized);
    if (LooksAtNumbers()) return Failed();
    sized.graph = std::move(session_.graph());
    sized.torch_graph = SizedTorchGraph(sized);
    sized.symbols = std::move(values_.symbols);
    return sized;
  }

 private:
  absl::Status Failed() {
    LooksAtNumbers();
    if (why_.empty()) why_ = values_.why;
    if (why_.empty()) why_ = TakeExceptionText();
    if (why_.empty()) why_ = "it cannot be replayed";
    PyErr_Clear();
    return absl::FailedPreconditionError(why_);
  }

  bool Fail(std::string why) {
    if (why_.empty()) why_ = std::move(why);
    return false;
  }

  void SetPosition(size_t call) {
    const int32_t location = call < torch_.calls.size() ? torch_.calls[call].location : -1;
    session_.SetPosition(location, static_cast<int32_t>(call));
  }

  bool RunStep(const SymbolStep& step) {
    switch (step.kind) {
      case SymbolStep::Kind::kInput:
        return MakeInput(static_cast<size_t>(step.index));
      case SymbolStep::Kind::kConstant:
        return MakeConstant(step);
      case SymbolStep::Kind::kAsk: {
        PyRef result = Call(step.ask);
        if (result && values_.Match(step.ask.result, result.get())) return true;
        if (PyErr_Occurred() != nullptr) return false;
        return Fail(UnmetText(step, program_, *request_.names));
      }
      case SymbolStep::Kind::kNumber: {
        const auto number = static_cast<size_t>(step.index);
        values_.symbols[static_cast<size_t>(step.symbol)] = PyRef::Borrow(request_.numbers[number]);
        return true;
      }
      case SymbolStep::Kind::kEqual: {
        const auto symbol = static_cast<size_t>(step.symbol);
        return SameConstant(program_.symbols[symbol].hint.get(), values_.symbols[symbol].get()) ||
               Fail(UnmetText(step, program_, *request_.names));
      }
    }
    return false;
  }

  bool MakeInput(size_t index) {
    PyObject* real = request_.inputs[index];
    absl::StatusOr<at::Tensor> fake = session_.MakeInput(THPVariable_Unpack(real));
    if (!fake.ok()) return Fail(std::string(fake.status().message()));
    PyRef object = PyRef::Steal(THPVariable_Wrap(*fake));
    if (!object) return false;
    if (Py_TYPE(real) != Py_TYPE(object.get()) &&
        PyObject_SetAttrString(object.get(), "__class__", reinterpret_cast<PyObject*>(Py_TYPE(real))) != 0)
      return false;
    return Bind(torch_.inputs[index], std::move(object));
  }

  // The recording's constant is made together with the call that clones it.
  bool MakeConstant(const SymbolStep& step) {
    const auto call = static_cast<size_t>(step.calls);
    SetPosition(call);
    absl::StatusOr<at::Tensor> fake = session_.MakeConstant(torch_.constants[static_cast<size_t>(step.index)].second);
    if (!fake.ok()) return Fail(std::string(fake.status().message()));
    PyRef object = PyRef::Steal(THPVariable_Wrap(*fake));
    made_ = true;
    return object && Bind(torch_.calls[call].result.value, std::move(object));
  }

  bool Bind(TorchValueId id, PyRef object) {
    values_.objects[static_cast<size_t>(id)] = std::move(object);
    return true;
  }

  // What calls are given in place of the open symbols among their arguments.
  bool OpenNumbers(const TorchCall& call, const TorchArgument& argument, bool is_item) {
    for (const TorchArgument& item : argument.items) {
      if (!OpenNumbers(call, item, true)) return false;
    }
    const auto found = std::find(program_.open.begin(), program_.open.end(), argument.symbol);
    if (argument.symbol == kNoSymbol || found == program_.open.end()) return true;
    const auto index = static_cast<size_t>(found - program_.open.begin());
    PyObject* number = values_.symbols[static_cast<size_t>(argument.symbol)].get();
    const bool is_float = PyFloat_CheckExact(number);
    if (numbers_[index] == nullptr) {
      numbers_[index] = session_.NewNumber(is_float ? at::Scalar(PyFloat_AS_DOUBLE(number))
                                                    : at::Scalar(int64_t{PyLong_AsLongLong(number)}));
      values_.open[static_cast<size_t>(argument.symbol)] = PyRef::Steal(ObjectOfNumber(numbers_[index]));
    }
    // Ints are sizes, positions and much else.
    if (is_float || (!is_item && IsArithmetic(call))) return true;
    numbers_[index]->looked = true;
    return false;
  }

  bool OpenNumbers(const TorchCall& call) {
    bool opened = true;
    for (const TorchArgument& argument : call.args) opened = OpenNumbers(call, argument, false) && opened;
    for (const auto& [key, argument] : call.kwargs) opened = OpenNumbers(call, argument, false) && opened;
    return opened || Fail("a number that is no operand");
  }

  bool LooksAtNumbers() {
    bool any = false;
    for (size_t i = 0; i < numbers_.size(); ++i) {
      if (numbers_[i] == nullptr || !numbers_[i]->looked) continue;
      any = true;
      if (request_.looked != nullptr) request_.looked->push_back(program_.open[i]);
    }
    numbers_.clear();
    return any;
  }

  void AddNumberInputs(SizedRecording& sized) {
    for (size_t i = 0; i < numbers_.size(); ++i) {
      if (numbers_[i] == nullptr) continue;
      session_.graph().inputs.push_back(numbers_[i]->value);
      sized.numbers.push_back({.symbol = program_.open[i]});
    }
  }

  SymbolId SymbolOf(ValueId number) const {
    for (size_t i = 0; i < numbers_.size(); ++i) {
      if (numbers_[i] != nullptr && numbers_[i]->value == number) return program_.open[i];
    }
    return kNoSymbol;
  }

  void AddNumberAnswers(SizedRecording& sized) const {
    auto input = sized.numbers.begin();
    for (const std::shared_ptr<OpenNumber>& number : numbers_) {
      if (number == nullptr) continue;
      input->largest = number->largest;
      for (const NumberAnswer& answer : NumberAnswers()) {
        if (answer.number != number->value) continue;
        input->conditions.push_back({answer.relation, SymbolOf(answer.other), answer.constant, answer.answer});
      }
      ++input;
    }
  }

  bool MakeCall(size_t index) {
    SetPosition(index);
    const TorchCall& call = torch_.calls[index];
    if (!program_.open.empty() && !OpenNumbers(call)) return false;
    PyRef result = Call(call, true);
    return result && (values_.Match(call.result, result.get()) || Fail("a call returns something else than it did"));
  }

  PyRef Call(const TorchCall& call, bool with_open = false) {
    PyRef result = values_.Call(call, with_open);
    if (!session_.failure().has_value()) return result;
    PyErr_Clear();
    Fail(session_.failure()->detail);
    return {};
  }

  // Results that are of another kind than those recorded would have been given to the program in another way.
  bool FindOutputs() {
    Graph& graph = session_.graph();
    const Graph& recorded = *request_.recorded;
    for (size_t i = 0; i < torch_.outputs.size(); ++i) {
      PyObject* object = values_.objects[static_cast<size_t>(torch_.outputs[i])].get();
      if (object == nullptr) return Fail("a result that no replayed call made");
      const at::Tensor& tensor = THPVariable_Unpack(object);
      if (!program_.output_forms.empty() && !SameForm(ViewForm(tensor), program_.output_forms[i]))
        return Fail("a result is another kind of view");
      graph.outputs.push_back(session_.ValueOf(tensor));
      const TensorMeta &meta = graph.meta(graph.outputs.back()), &before = recorded.meta(recorded.outputs[i]);
      if (meta.dtype != before.dtype || meta.device != before.device || meta.sizes.size() != before.sizes.size() ||
          meta.requires_grad != before.requires_grad)
        return Fail("a result is another kind of tensor");
    }
    if (InputsInWrittenMemory(graph) != InputsInWrittenMemory(recorded)) return Fail("other inputs are written");
    for (const auto& [position, steps] : request_.versions) {
      if (TensorAt(torch_.inputs[position])._version() != steps) return Fail("an input is written more or less often");
    }
    // Where inputs begin in their memory is not guarded, so that nothing may count from there.
    if (std::any_of(graph.nodes.begin(), graph.nodes.end(), HasAbsoluteOffset)) return Fail("a view by an offset");
    return SharedMemory(graph) == SharedMemory(recorded) || Fail("a result shares memory with another tensor");
  }

  at::Tensor TensorAt(TorchValueId id) const {
    return THPVariable_Unpack(values_.objects[static_cast<size_t>(id)].get());
  }

  bool MakeBackward(SizedRecording& sized) {
    if (!request_.backward) return true;
    std::vector<LiftedInput> inputs;
    std::vector<at::Tensor> outputs;
    for (size_t i = 0; i < torch_.inputs.size(); ++i) {
      const at::Tensor tensor = TensorAt(torch_.inputs[i]);
      if (tensor.requires_grad()) inputs.push_back({i, tensor});
    }
    for (TorchValueId id : torch_.outputs) outputs.push_back(TensorAt(id));
    absl::StatusOr<std::unique_ptr<JointGraph>> joint = RecordBackward(session_, inputs, outputs, nullptr);
    if (!joint.ok()) return Fail(std::string(joint.status().message()));
    sized.joint = *std::move(joint);
    return true;
  }

  // Numbers that are open are tensors to the graph: torch takes those for numbers where it is to.
  void SetSymbols(TorchArgument& argument, const std::vector<TorchValueId>& numbers) const {
    for (TorchArgument& item : argument.items) SetSymbols(item, numbers);
    if (argument.symbol == kNoSymbol) return;
    const auto symbol = static_cast<size_t>(argument.symbol);
    if (numbers[symbol] >= 0) {
      argument = {
          .kind = TorchArgument::Kind::kValue, .constant = {}, .value = numbers[symbol], .items = {}, .keys = {}};
    } else {
      argument.constant = values_.symbols[symbol];
    }
  }

  TorchGraph SizedTorchGraph(const SizedRecording& recording) const {
    TorchGraph sized = torch_;
    std::vector<TorchValueId> numbers(program_.symbols.size(), -1);
    const std::vector<ValueId>& inputs = recording.graph.inputs;
    for (size_t i = 0; i < recording.numbers.size(); ++i) {
      numbers[static_cast<size_t>(recording.numbers[i].symbol)] = static_cast<TorchValueId>(sized.values.size());
      sized.inputs.push_back(static_cast<TorchValueId>(sized.values.size()));
      sized.values.push_back(recording.graph.meta(inputs[inputs.size() - recording.numbers.size() + i]));
    }
    for (size_t i = 0; i < values_.objects.size(); ++i) {
      if (values_.objects[i]) sized.values[i] = FakeSession::MetaOf(TensorAt(static_cast<TorchValueId>(i)));
    }
    for (TorchCall& call : sized.calls) {
      for (TorchArgument& argument : call.args) SetSymbols(argument, numbers);
      for (auto& [key, argument] : call.kwargs) SetSymbols(argument, numbers);
    }
    return sized;
  }

  const ReplayRequest& request_;
  const TorchGraph& torch_;
  const SymbolicProgram& program_;
  FakeSession session_;
  ReplayedValues values_;
  bool made_ = false;  // the next call, together with its constant
  std::string why_;
  std::vector<std::shared_ptr<OpenNumber>> numbers_;  // by position in SymbolicProgram::open; null: not used yet
};

}  // namespace

bool HasAbsoluteOffset(const Node& node) {
  if (!node.op.schema().name().starts_with("aten::as_strided")) return false;
  const auto& arguments = node.op.schema().arguments();
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i].name() == "storage_offset") return !node.operands[i].constant.isNone();
  }
  return false;
}

PyRef ViewForm(const at::Tensor& tensor) {
  const auto* view = torch::autograd::impl::get_view_autograd_meta(tensor);
  if (view == nullptr || !view->has_bw_view() || tensor.requires_grad()) return {};
  // Graphs write to their inputs last, and make views by other operators, in the mode that is on outside.
  const bool current = view->get_attr_version() == tensor._version();
  const torch::autograd::CreationMeta meta = view->get_creation_meta();
  const bool several = meta == torch::autograd::CreationMeta::MULTI_OUTPUT_NODE;
  const bool made_inside = meta != torch::autograd::CreationMeta::DEFAULT && at::GradMode::is_enabled();
  if (!several && !made_inside && (!current || tensor._version() == 0)) return {};
  const auto form = static_cast<long>(meta);
  return PyRef::Steal(PyLong_FromLong(current ? form : ~form));
}

absl::StatusOr<SizedRecording> Replay(const ReplayRequest& request) {
  absl::StatusOr<SizedRecording> replayed = absl::FailedPreconditionError("");
  try {
    StateScope scope;
    replayed = Replayer(request).Run();
  } catch (const std::exception& error) {
    replayed = absl::FailedPreconditionError(ErrorText(error));
  }
  PyErr_Clear();
  return replayed;
}

}  // namespace framejit
