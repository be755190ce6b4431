#include "graph/symbolic/replay.h"

#include <ATen/SavedTensorHooks.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "frame_eval/guards/program_torch_state.h"
#include "graph/autograd/record_backward.h"
#include "graph/fake/fake_session.h"
#include "graph/passes/analysis.h"

namespace framejit {
namespace {

using Kind = TorchArgument::Kind;

std::string TakeErrorText() {
  PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyRef text = PyRef::Steal(value == nullptr ? nullptr : PyObject_Str(value));
  const char* utf8 = text ? PyUnicode_AsUTF8(text.get()) : nullptr;
  std::string message = utf8 == nullptr ? "a Python exception" : utf8;
  PyErr_Clear();
  Py_XDECREF(type);
  Py_XDECREF(value);
  Py_XDECREF(traceback);
  return message;
}

bool IsTensor(PyObject* object) {
  return PyType_IsSubtype(Py_TYPE(object), reinterpret_cast<PyTypeObject*>(THPVariableClass)) != 0;
}

bool SameConstant(PyObject* expected, PyObject* actual) {
  if (expected == actual) return true;
  if (expected == nullptr || Py_TYPE(expected) != Py_TYPE(actual)) return false;
  if (PyFloat_CheckExact(expected) &&
      std::signbit(PyFloat_AS_DOUBLE(expected)) != std::signbit(PyFloat_AS_DOUBLE(actual)))
    return false;  // zeros
  const int same = PyObject_RichCompareBool(expected, actual, Py_EQ);
  if (same < 0) PyErr_Clear();
  return same == 1;
}

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
std::vector<size_t> WrittenInputs(const Graph& graph) {
  const absl::flat_hash_set<int32_t> written = WrittenStorages(graph);
  std::vector<size_t> positions;
  for (size_t i = 0; i < graph.inputs.size(); ++i) {
    if (written.contains(graph.meta(graph.inputs[i]).storage)) positions.push_back(i);
  }
  return positions;
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

class Replayer {
 public:
  explicit Replayer(const ReplayRequest& request)
      : request_(request),
        torch_(*request.torch_graph),
        program_(*request.program),
        objects_(torch_.values.size()),
        symbols_(program_.symbols.size()) {}

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
    if (!FindOutputs() || !MakeBackward(sized)) return Failed();
    sized.torch_graph = SizedTorchGraph();
    sized.graph = std::move(session_.graph());
    sized.symbols = std::move(symbols_);
    return sized;
  }

 private:
  absl::Status Failed() {
    if (why_.empty()) why_ = PyErr_Occurred() != nullptr ? TakeErrorText() : "it cannot be replayed";
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
        if (result && Match(step.ask.result, result.get())) return true;
        if (PyErr_Occurred() != nullptr) return false;
        return Fail(Demand(step));
      }
      case SymbolStep::Kind::kEqual: {
        const auto symbol = static_cast<size_t>(step.symbol);
        return SameConstant(program_.symbols[symbol].hint.get(), symbols_[symbol].get()) || Fail(Demand(step));
      }
    }
    return false;
  }

  std::string Demand(const SymbolStep& step) const {
    const std::string demand = DemandText(step, program_, *request_.names);
    return demand.empty() ? absl::StrCat(AskText(step.ask, program_, *request_.names), " is of another type")
                          : absl::StrCat("it demands ", demand);
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
    objects_[static_cast<size_t>(id)] = std::move(object);
    return true;
  }

  bool MakeCall(size_t index) {
    SetPosition(index);
    const TorchCall& call = torch_.calls[index];
    PyRef result = Call(call);
    return result && (Match(call.result, result.get()) || Fail("a call returns something else than it did"));
  }

  PyRef Call(const TorchCall& call) {
    PyRef args = PyRef::Steal(PyTuple_New(static_cast<Py_ssize_t>(call.args.size())));
    PyRef kwargs = PyRef::Steal(call.kwargs.empty() ? nullptr : PyDict_New());
    for (size_t i = 0; args && i < call.args.size(); ++i) {
      PyRef value = Build(call.args[i]);
      if (!value) return {};
      PyTuple_SET_ITEM(args.get(), static_cast<Py_ssize_t>(i), value.release());
    }
    for (const auto& [key, argument] : call.kwargs) {
      PyRef value = Build(argument);
      if (!value || PyDict_SetItem(kwargs.get(), key.get(), value.get()) != 0) return {};
    }
    if (!args) return {};
    PyRef result;
    if (call.kind == TorchCall::Kind::kFunction) {
      result = PyRef::Steal(PyObject_Call(call.target.get(), args.get(), kwargs.get()));
    } else {
      PyRef attribute = PyRef::Steal(PyObject_GetAttr(PyTuple_GET_ITEM(args.get(), 0), call.target.get()));
      if (call.kind == TorchCall::Kind::kAttribute) {
        result = std::move(attribute);
      } else {
        PyRef rest = PyRef::Steal(PyTuple_GetSlice(args.get(), 1, PyTuple_GET_SIZE(args.get())));
        if (attribute && rest) result = PyRef::Steal(PyObject_Call(attribute.get(), rest.get(), kwargs.get()));
      }
    }
    if (!session_.failure().has_value()) return result;
    PyErr_Clear();
    Fail(session_.failure()->detail);
    return {};
  }

  PyRef Build(const TorchArgument& argument) {
    switch (argument.kind) {
      case Kind::kConstant:
        if (argument.symbol != kNoSymbol) return symbols_[static_cast<size_t>(argument.symbol)];
        return argument.constant ? argument.constant : PyRef::Borrow(Py_None);
      case Kind::kValue:
        if (!objects_[static_cast<size_t>(argument.value)]) Fail("a value that no replayed call made");
        return objects_[static_cast<size_t>(argument.value)];
      case Kind::kDict: {
        PyRef dict = PyRef::Steal(PyDict_New());
        for (size_t i = 0; dict && i < argument.items.size(); ++i) {
          PyRef value = Build(argument.items[i]);
          if (!value || PyDict_SetItem(dict.get(), argument.keys[i].get(), value.get()) != 0) return {};
        }
        return dict;
      }
      case Kind::kTuple:
      case Kind::kList:
      case Kind::kSlice:
        break;
    }
    PyRef items = PyRef::Steal(PyTuple_New(static_cast<Py_ssize_t>(argument.items.size())));
    for (size_t i = 0; items && i < argument.items.size(); ++i) {
      PyRef value = Build(argument.items[i]);
      if (!value) return {};
      PyTuple_SET_ITEM(items.get(), static_cast<Py_ssize_t>(i), value.release());
    }
    if (!items) return {};
    if (argument.kind == Kind::kList) return PyRef::Steal(PySequence_List(items.get()));
    if (argument.kind == Kind::kSlice)
      return PyRef::Steal(PySlice_New(PyTuple_GET_ITEM(items.get(), 0), PyTuple_GET_ITEM(items.get(), 1),
                                      PyTuple_GET_ITEM(items.get(), 2)));
    if (!argument.constant) return items;
    auto* type = reinterpret_cast<PyTypeObject*>(argument.constant.get());
    PyRef alone = PyRef::Steal(PyTuple_Pack(1, items.get()));
    return alone ? PyRef::Steal(PyTuple_Type.tp_new(type, alone.get(), nullptr)) : PyRef();
  }

  // Whether the result is what the pattern says; takes over the tensors and the symbols in it.
  bool Match(const TorchArgument& pattern, PyObject* result) {
    switch (pattern.kind) {
      case Kind::kValue: {
        if (!IsTensor(result) || !IsFake(THPVariable_Unpack(result))) return false;
        // What was another tensor than its operand may be the operand here (contiguous, reshape), but not the reverse:
        // later calls name the operand where they mean this one.
        PyRef& object = objects_[static_cast<size_t>(pattern.value)];
        if (object) return THPVariable_Unpack(object.get()).is_same(THPVariable_Unpack(result));
        object = PyRef::Borrow(result);
        return true;
      }
      case Kind::kConstant: {
        if (pattern.symbol == kNoSymbol) {
          return pattern.constant ? SameConstant(pattern.constant.get(), result) : result == Py_None;
        }
        if (Py_TYPE(result) != Py_TYPE(pattern.constant.get())) return false;
        symbols_[static_cast<size_t>(pattern.symbol)] = PyRef::Borrow(result);
        return true;
      }
      case Kind::kDict: {
        if (!PyDict_Check(result) || PyDict_GET_SIZE(result) != static_cast<Py_ssize_t>(pattern.items.size()))
          return false;
        for (size_t i = 0; i < pattern.items.size(); ++i) {
          PyObject* item = PyDict_GetItemWithError(result, pattern.keys[i].get());
          if (item == nullptr || !Match(pattern.items[i], item)) return false;
        }
        return true;
      }
      case Kind::kTuple:
      case Kind::kList:
        break;
      case Kind::kSlice:
        return false;
    }
    const bool same_type = pattern.kind == Kind::kTuple ? PyTuple_Check(result) : PyList_Check(result);
    if (!same_type || PySequence_Fast_GET_SIZE(result) != static_cast<Py_ssize_t>(pattern.items.size())) return false;
    for (size_t i = 0; i < pattern.items.size(); ++i) {
      if (!Match(pattern.items[i], PySequence_Fast_GET_ITEM(result, static_cast<Py_ssize_t>(i)))) return false;
    }
    return true;
  }

  // Results that are of another kind than those recorded would have been given to the program in another way.
  bool FindOutputs() {
    Graph& graph = session_.graph();
    const Graph& recorded = *request_.recorded;
    for (size_t i = 0; i < torch_.outputs.size(); ++i) {
      PyObject* object = objects_[static_cast<size_t>(torch_.outputs[i])].get();
      if (object == nullptr) return Fail("a result that no replayed call made");
      const at::Tensor& tensor = THPVariable_Unpack(object);
      if (ViewForm(tensor)) return Fail("a result is another kind of view");
      graph.outputs.push_back(session_.ValueOf(tensor));
      const TensorMeta &meta = graph.meta(graph.outputs.back()), &before = recorded.meta(recorded.outputs[i]);
      if (meta.dtype != before.dtype || meta.device != before.device || meta.sizes.size() != before.sizes.size() ||
          meta.requires_grad != before.requires_grad)
        return Fail("a result is another kind of tensor");
    }
    if (WrittenInputs(graph) != WrittenInputs(recorded)) return Fail("other inputs are written");
    for (const auto& [position, steps] : request_.versions) {
      if (TensorAt(torch_.inputs[position])._version() != steps) return Fail("an input is written more or less often");
    }
    // Where inputs begin in their memory is not guarded, so that nothing may count from there.
    if (std::any_of(graph.nodes.begin(), graph.nodes.end(), HasAbsoluteOffset)) return Fail("a view by an offset");
    return SharedMemory(graph) == SharedMemory(recorded) || Fail("a result shares memory with another tensor");
  }

  at::Tensor TensorAt(TorchValueId id) const { return THPVariable_Unpack(objects_[static_cast<size_t>(id)].get()); }

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

  void SetSymbols(TorchArgument& argument) const {
    if (argument.symbol != kNoSymbol) argument.constant = symbols_[static_cast<size_t>(argument.symbol)];
    for (TorchArgument& item : argument.items) SetSymbols(item);
  }

  TorchGraph SizedTorchGraph() const {
    TorchGraph sized = torch_;
    for (size_t i = 0; i < objects_.size(); ++i) {
      if (objects_[i]) sized.values[i] = FakeSession::MetaOf(TensorAt(static_cast<TorchValueId>(i)));
    }
    for (TorchCall& call : sized.calls) {
      for (TorchArgument& argument : call.args) SetSymbols(argument);
      for (auto& [key, argument] : call.kwargs) SetSymbols(argument);
    }
    return sized;
  }

  const ReplayRequest& request_;
  const TorchGraph& torch_;
  const SymbolicProgram& program_;
  FakeSession session_;
  std::vector<PyRef> objects_;  // by TorchValueId
  std::vector<PyRef> symbols_;
  bool made_ = false;  // the next call, together with its constant
  std::string why_;
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
    replayed = absl::FailedPreconditionError(error.what());
  }
  PyErr_Clear();
  return replayed;
}

}  // namespace framejit
