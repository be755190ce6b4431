// Calls of custom autograd Functions, torch.autograd.grad, backward, hooks on tensors and torch.utils.checkpoint.
#include <ATen/SequenceNumber.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <string_view>

#include "frame_eval/guards/tensor_check.h"
#include "graph/autograd/record_backward.h"
#include "graph/capture/imported.h"
#include "graph/capture/program_gradients.h"
#include "graph/capture/recorder_impl.h"
#include "graph/capture/unrecorded.h"
#include "graph/passes/analysis.h"

namespace framejit {
namespace {

bool RequiresGrad(PyObject* const* args, Py_ssize_t count) {
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (IsTensor(args[i]) && TensorOf(args[i]).requires_grad()) return true;
  }
  return false;
}

// Tensors, constants and tuples of these: nobody can change them later.
bool IsPlain(PyObject* object) {
  if (IsTensor(object)) return IsFakeTensor(object);
  const bool tuple = PyTuple_CheckExact(object) || Py_TYPE(object) == Names().size;
  if (!tuple) return IsConstant(object) || Py_TYPE(object) == Names().device;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(object); ++i) {
    if (!IsPlain(PyTuple_GET_ITEM(object, i))) return false;
  }
  return true;
}

// Of something plain.
template <typename Visit>
void ForEachTensor(PyObject* object, Visit visit) {
  if (IsTensor(object)) return visit(TensorOf(object));
  for (Py_ssize_t i = 0; PyTuple_Check(object) && i < PyTuple_GET_SIZE(object); ++i)
    ForEachTensor(PyTuple_GET_ITEM(object, i), visit);
}

template <typename Visit>
void ForEachValue(const TorchArgument& argument, Visit visit) {
  if (argument.kind == TorchArgument::Kind::kValue) visit(argument.value);
  for (const TorchArgument& item : argument.items) ForEachValue(item, visit);
}

// Adds the tensors in `object`, a tensor or a container of tensors; false where something else is in it.
bool Tensors(PyObject* object, std::vector<at::Tensor>* tensors) {
  if (IsTensor(object)) {
    if (!IsFake(TensorOf(object))) return false;
    tensors->push_back(TensorOf(object));
    return true;
  }
  if (PyDict_CheckExact(object)) {
    PyObject *key = nullptr, *value = nullptr;
    for (Py_ssize_t cursor = 0; PyDict_Next(object, &cursor, &key, &value);) {
      if (!IsTensor(value) || !Tensors(value, tensors)) return false;
    }
    return true;
  }
  if (!PyTuple_Check(object) && !PyList_Check(object)) return false;
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(object); ++i) {
    PyObject* item = PySequence_Fast_GET_ITEM(object, i);
    if (!IsTensor(item) || !Tensors(item, tensors)) return false;
  }
  return true;
}

// A function of framejit._autograd, of one argument, called now: what it returns is the target of a torch-level call.
PyRef TorchTarget(const char* name, PyObject* argument) {
  FakeSession::Pause pause;
  Disarmed disarmed;
  PyRef function = ImportedAttribute("framejit._autograd", name);
  return PyRef::Steal(function ? PyObject_CallOneArg(function.get(), argument) : nullptr);
}

// Whether the torch-level calls from `first_call` on read nothing but what is given to them, inputs and constants.
bool ReadsOnly(const TorchGraph& torch, size_t first_call, const std::vector<TorchArgument>& given) {
  absl::flat_hash_set<TorchValueId> allowed(torch.inputs.begin(), torch.inputs.end());
  for (const auto& [id, tensor] : torch.constants) allowed.insert(id);
  const auto allow = [&](TorchValueId id) { allowed.insert(id); };
  for (const TorchArgument& argument : given) ForEachValue(argument, allow);
  bool only = true;
  const auto check = [&](TorchValueId id) { only = only && allowed.contains(id); };
  for (size_t i = first_call; i < torch.calls.size(); ++i) {
    for (const TorchArgument& argument : torch.calls[i].args) ForEachValue(argument, check);
    for (const auto& [name, argument] : torch.calls[i].kwargs) ForEachValue(argument, check);
    ForEachValue(torch.calls[i].result, allow);
  }
  return only;
}

// Whether nodes from `first` on write memory that was there before, or statistics.
bool WritesBefore(const Graph& graph, size_t first, size_t first_value) {
  for (size_t i = first; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    if (HasEffect(node) && !MutatesArguments(node.op) && !IsRandom(node.op)) return true;
  }
  const absl::flat_hash_set<int32_t> written = WrittenStorages(graph, first);
  const auto is_written = [&](const TensorMeta& meta) { return written.contains(meta.storage); };
  return std::any_of(graph.values.begin(), graph.values.begin() + static_cast<std::ptrdiff_t>(first_value),
                     is_written) ||
         std::any_of(graph.inputs.begin(), graph.inputs.end(), [&](ValueId id) { return is_written(graph.meta(id)); });
}

// Parameters of torch.autograd.grad, in order.
constexpr const char* kParameters[] = {"outputs",      "inputs",           "grad_outputs",
                                       "retain_graph", "create_graph",     "only_inputs",
                                       "allow_unused", "is_grads_batched", "materialize_grads"};
constexpr size_t kOnlyInputs = 5, kBatched = 7;

// Those of Tensor.backward, and of torch.autograd.backward but for one that is deprecated.
constexpr const char* kOfBackwardMethod[] = {"self", "gradient", "retain_graph", "create_graph", "inputs"};
constexpr const char* kOfBackward[] = {"tensors", "grad_tensors", "retain_graph", "create_graph", "inputs"};
constexpr size_t kBackwardParameters = std::size(kOfBackward), kBackwardPositional = 4;

template <size_t kCount>
bool Bind(const NativeCall& call, const char* const (&parameters)[kCount], PyObject** bound) {
  if (call.nargs > static_cast<Py_ssize_t>(kCount)) return false;
  std::copy(call.args, call.args + call.nargs, bound);
  for (Py_ssize_t i = call.nargs; i < call.total(); ++i) {
    const char* name = PyUnicode_AsUTF8(PyTuple_GET_ITEM(call.kwnames, i - call.nargs));
    size_t at = 0;
    while (name != nullptr && at < kCount && std::string_view(name) != parameters[at]) ++at;
    if (name == nullptr || at == kCount || bound[at] != nullptr) return PyErr_Clear(), false;
    bound[at] = call.args[i];
  }
  return bound[0] != nullptr;
}

bool IsFlag(PyObject* object) { return object == Py_True || object == Py_False || object == Py_None; }

void AddNew(std::vector<at::Tensor>& tensors, const std::vector<at::Tensor>& more) {
  for (const at::Tensor& tensor : more) {
    const auto same = [&](const at::Tensor& other) { return other.is_same(tensor); };
    if (std::none_of(tensors.begin(), tensors.end(), same)) tensors.push_back(tensor);
  }
}

// What a gradient of `outputs` passes through: the leaves that it reaches, and whether it runs code of the program.
struct History {
  std::vector<at::Tensor> leaves;
  bool runs_program = false;
};

History HistoryOf(const std::vector<at::Tensor>& outputs) {
  History history;
  absl::flat_hash_set<torch::autograd::Node*> seen;
  std::vector<torch::autograd::Node*> open;
  for (const at::Tensor& output : outputs) {
    if (output.grad_fn() == nullptr) history.leaves.push_back(output);
    open.push_back(output.grad_fn().get());
  }
  while (!open.empty()) {
    torch::autograd::Node* node = open.back();
    open.pop_back();
    if (node == nullptr || !seen.insert(node).second) continue;
    if (auto* leaf = dynamic_cast<torch::autograd::AccumulateGrad*>(node)) history.leaves.push_back(leaf->variable);
    history.runs_program |= RunsProgram(*node);
    for (const torch::autograd::Edge& edge : node->next_edges()) open.push_back(edge.function.get());
  }
  return history;
}

bool IsCustom(const at::Tensor& tensor) { return tensor.grad_fn() != nullptr && IsCustomFunction(*tensor.grad_fn()); }

// The calls of one recording. Recorder is RecorderState::Impl, which its members alone can name.
template <typename Recorder>
class AutogradCalls {
 public:
  explicit AutogradCalls(Recorder& recorder)
      : recorder_(recorder),
        torch_(recorder.recording->torch_graph),
        graph_(recorder.session.graph()),
        gradients_(recorder.Gradients()) {}

  // A custom Function with a backward: its operators are recorded, and the torch-level graph has the call itself, which
  // torch makes for real. So the program's forward must depend on nothing but its arguments and what is outside.
  PyObject* Apply(const NativeCall& call) {
    what_ = "a custom Function";
    PyObject* type = reinterpret_cast<PyCFunctionObject*>(call.callable)->m_self;
    if (recorder_.IsLocalType(reinterpret_cast<PyTypeObject*>(type))) return Refuse("that was made inside");
    if (EngineRuns() || InsideTransform()) return Refuse("inside of a backward or a transform");
    if (!recorder_.writes.empty()) return Refuse("behind writes that it may read");
    TorchCall record{.kind = TorchCall::Kind::kFunction,
                     .target = TorchTarget("function_call", type),
                     .args = {},
                     .kwargs = {},
                     .result = {}};
    if (!record.target) return nullptr;
    if (call.kwnames != nullptr || recorder_.PrepareArguments(call) != 0) return Refuse("with keywords");
    for (Py_ssize_t i = 0; i < call.nargs; ++i) {
      if (!IsPlain(call.args[i]) || !recorder_.Snapshot(call.args[i], false, &record.args.emplace_back()))
        return Refuse("with arguments that are no tensors or constants");
    }
    record.location = recorder_.CurrentLocation();
    const size_t first = torch_.calls.size(), first_node = graph_.nodes.size();
    recorder_.session.SetPosition(record.location, static_cast<int32_t>(first));
    PyRef result;
    {
      RunsCode forward(ProgramCode::kForward);
      result = PyRef::Steal(PyObject_Vectorcall(call.callable, call.args, static_cast<size_t>(call.nargs), nullptr));
    }
    if (recorder_.CheckFailure() != 0) return nullptr;
    if (!result) return Refuse("that raises");
    if (!recorder_.writes.empty()) return Refuse("with side effects");
    if (!ReadsOnly(torch_, first, record.args)) return Refuse("that reads tensors which the call made before");
    result = PyRef::Steal(recorder_.Scan(result.release()));
    if (!result) return nullptr;
    if (!IsPlain(result.get()) || !recorder_.Snapshot(result.get(), true, &record.result))
      return Refuse("whose result is no tensors or constants");
    bool hidden = false;  // inside of the node of a view
    ForEachTensor(result.get(),
                  [&](const at::Tensor& tensor) { hidden |= tensor.requires_grad() && !IsCustom(tensor); });
    if (hidden) return Refuse("that writes to a view");
    ReplaceCalls(first, first_node);
    if (recorder_.HasFake(result.get())) torch_.calls.push_back(std::move(record));
    ForEachTensor(result.get(), [&](const at::Tensor& tensor) { NoteResult(tensor); });
    return PyErr_Clear(), result.release();
  }

  // torch.autograd.grad: the engine runs on the fakes.
  PyObject* Gradient(const NativeCall& call) {
    what_ = "torch.autograd.grad";
    PyObject* bound[std::size(kParameters)] = {};
    if (EngineRuns() || InsideTransform()) return Refuse("inside of a backward or a transform");
    if (!Bind(call, kParameters, bound) || bound[1] == nullptr) return Refuse("with other arguments");
    if ((bound[kOnlyInputs] != nullptr && bound[kOnlyInputs] != Py_True) ||
        (bound[kBatched] != nullptr && bound[kBatched] != Py_False))
      return Refuse("with only_inputs or is_grads_batched");
    std::vector<PyObject*> args(call.args, call.args + call.total());
    PyRef tuples[2];
    std::vector<at::Tensor> tensors[2];  // outputs and inputs, which may be iterators
    for (int i = 0; i < 2; ++i) {
      PyObject* given = bound[i];
      if (!IsTensor(given) && !PyTuple_Check(given) && !PyList_Check(given) && !PyDict_CheckExact(given)) {
        tuples[i] = PyRef::Steal(recorder_.AsTuple(given));
        if (!tuples[i]) return nullptr;
        std::replace(args.begin(), args.end(), given, tuples[i].get());
        given = tuples[i].get();
      }
      if (recorder_.Prepare(given) != 0) return nullptr;
      if (!Tensors(given, &tensors[i])) return Refuse("of something else than tensors");
    }
    const History history = HistoryOf(tensors[0]);
    if (!GuardLeaves(history, tensors[1], false)) return Refuse("across tensors with a history or hooks");
    if (history.runs_program && !recorder_.writes.empty()) return Refuse("with the program's code behind writes");
    const size_t first = torch_.calls.size(), first_node = graph_.nodes.size();
    const NativeCall made{call.callable, args.data(), call.nargs, call.kwnames};
    PyRef result = PyRef::Steal(recorder_.CallTorch(TorchCall::Kind::kFunction, call.callable, made, [&] {
      const EngineInThisThread one_thread;
      std::optional<RunsCode> engine;
      if (history.runs_program) engine.emplace(ProgramCode::kGradient);
      PyObject* gradients =
          PyObject_Vectorcall(made.callable, made.args, static_cast<size_t>(made.nargs), made.kwnames);
      ReplaceCalls(first, first_node);
      return gradients;
    }));
    if (!result) return nullptr;
    return history.runs_program && !recorder_.writes.empty() ? Refuse("with side effects") : result.release();
  }

  // The engine accumulates into the fakes. In the torch-level graph a call gives the gradients that it would accumulate
  // (framejit/_autograd.py), and what the program sees of it is an effect.
  PyObject* Backward(const NativeCall& call) {
    const bool method = IsTensor(call.nargs > 0 ? call.args[0] : nullptr) && IsMethod(call.callable);
    what_ = method ? "Tensor.backward" : "torch.autograd.backward";
    if (EngineRuns() || InsideTransform()) return Refuse("inside of a backward or a transform");
    if (recorder_.HasTorchFunction(call)) return Refuse("under a __torch_function__");
    if (!gradients_.checkpoints.empty()) return Refuse("behind a checkpoint, whose inside it is to compute again");
    PyObject* bound[kBackwardParameters] = {};
    const bool few = call.nargs <= static_cast<Py_ssize_t>(method ? kBackwardParameters : kBackwardPositional);
    if (!few || !(method ? Bind(call, kOfBackwardMethod, bound) : Bind(call, kOfBackward, bound)))
      return Refuse("with other arguments");
    auto& [tensors, gradients, retain_graph, create_graph, inputs] = bound;
    for (PyObject** option : {&gradients, &retain_graph, &inputs}) *option = *option == nullptr ? Py_None : *option;
    if (create_graph == nullptr) create_graph = Py_False;
    if (!IsFlag(retain_graph) || !IsFlag(create_graph)) return Refuse("with other arguments");
    BackwardCall made{.call = call, .has_inputs = inputs != Py_None};
    std::vector<at::Tensor> given;
    for (const auto& [object, into] :
         {std::pair(tensors, &made.outputs), std::pair(gradients, &given), std::pair(inputs, &made.targets)}) {
      if (recorder_.Prepare(object) != 0) return nullptr;
      if (object != Py_None && !Tensors(object, into)) return Refuse("of something else than tensors");
      if (PyDict_Check(object)) return Refuse("of a dict");
    }
    History history = HistoryOf(made.outputs);
    AddNew(history.leaves, HistoryOf(given).leaves);
    if (!made.has_inputs) AddNew(made.targets, history.leaves);
    AddNew(made.targets, gradients_.retained);
    std::erase_if(made.targets, [](const at::Tensor& tensor) { return !tensor.requires_grad(); });
    if (!GuardLeaves(history, made.targets, true)) return Refuse("across tensors with a history or hooks");
    made.runs_program = history.runs_program;
    if (made.runs_program && !recorder_.writes.empty()) return Refuse("with the program's code behind writes");
    if (!std::exchange(gradients_.runs_backward, true)) gradients_.backward_stops = recorder_.PossibleStops();
    made.arguments = {tensors, gradients, retain_graph, create_graph, inputs};
    return Accumulate(made);
  }

  PyObject* RetainGrad(const NativeCall& call) {
    what_ = "Tensor.retain_grad";
    if (call.total() != 1 || !IsTensor(call.args[0]) || !IsFake(TensorOf(call.args[0])) || EngineRuns() ||
        InsideTransform())
      return Refuse("with other arguments");
    const at::Tensor& tensor = TensorOf(call.args[0]);
    if (recorder_.FindKnown(call.args[0]) != nullptr) return Refuse("of a tensor from outside");
    PyObject* name = reinterpret_cast<PyDescrObject*>(call.callable)->d_name;
    PyRef done = PyRef::Steal(recorder_.CallTorch(TorchCall::Kind::kMethod, name, call));
    if (done && tensor.grad_fn() != nullptr) AddNew(gradients_.retained, {tensor});
    return done.release();
  }

  // Of what the recording made: nothing outside sees it.
  PyObject* RequireGrad(const NativeCall& call) {
    what_ = "Tensor.requires_grad_";
    if (call.nargs < 1 || !IsTensor(call.args[0]) || recorder_.FindKnown(call.args[0]) != nullptr || InsideTransform())
      return Refuse("of a tensor from outside");
    return recorder_.CallTorch(TorchCall::Kind::kMethod, reinterpret_cast<PyDescrObject*>(call.callable)->d_name, call);
  }

  // A hook on a tensor that the recording made: the engine calls it, and what it calls is recorded.
  PyObject* RegisterHook(const NativeCall& call) {
    what_ = "register_hook";
    if (call.nargs != 2 || call.kwnames != nullptr || !IsTensor(call.args[0]) || !IsFake(TensorOf(call.args[0])))
      return Refuse("with other arguments");
    PyObject* tensor = call.args[0];
    PyObject* hook = call.args[1];
    if (recorder_.FindKnown(tensor) != nullptr) return Refuse("of a tensor from outside");
    if (EngineRuns() || InsideTransform()) return Refuse("inside of a backward or a transform");
    if (!PyFunction_Check(hook) || !ClosureIsConstant(hook)) return Refuse("of a hook with a state of its own");
    if (!TensorOf(tensor).requires_grad()) return Refuse("of a tensor that requires no gradient");
    PyRef target = TorchTarget("hook_call", hook);
    if (!target) return nullptr;
    PyRef handle;
    const NativeCall registration{target.get(), &tensor, 1, nullptr};
    PyRef done =
        PyRef::Steal(recorder_.CallTorch(TorchCall::Kind::kFunction, target.get(), registration, [&]() -> PyObject* {
          handle = PyRef::Steal(PyObject_Vectorcall(call.callable, call.args, 2, nullptr));
          return handle ? Py_NewRef(Py_None) : nullptr;
        }));
    if (!done) return nullptr;
    PyRef key = PyRef::Steal(PyObject_GetAttrString(handle.get(), "id"));
    PyRef dict = PyRef::Steal(PyObject_GetAttrString(tensor, "_backward_hooks"));
    if (!key || !dict) return nullptr;
    gradients_.hooks.push_back({TensorOf(tensor), std::move(dict), std::move(key), PyRef::Borrow(hook)});
    return recorder_.Scan(handle.release());
  }

  // The function is recorded as if it were called, and the backward computes again what lies between its arguments and
  // its results. In eager mode the function itself runs again, so that it must write nothing.
  PyObject* Checkpoint(const NativeCall& call) {
    what_ = "a checkpoint";
    if (EngineRuns() || InsideTransform()) return Refuse("inside of a backward or a transform");
    const size_t written = recorder_.writes.size();
    const size_t contexts = gradients_.contexts.size(), hooks = gradients_.hooks.size();
    const size_t first_node = graph_.nodes.size(), first_value = graph_.values.size();
    ProgramGradients::Checkpoint checkpoint{
        {static_cast<int32_t>(torch_.calls.size()), 0}, {at::sequence_number::peek(), 0}, {}};
    for (Py_ssize_t i = 0; i < call.nargs; ++i) {
      if (!IsTensor(call.args[i]) || !IsFake(TensorOf(call.args[i]))) continue;
      const at::Tensor& argument = TensorOf(call.args[i]);
      if (!argument.is_inference()) checkpoint.arguments.emplace_back(argument, argument._version());
    }
    const ProgramTorchState state = ProgramTorchState::Current();
    std::vector<StopPoint> stops = recorder_.PossibleStops();
    ++recorder_.open_checkpoints;
    PyRef result = PyRef::Steal(recorder_.Call(call.callable, call.args, call.nargs, call.kwnames));
    --recorder_.open_checkpoints;
    if (!result) return recorder_.broken() ? nullptr : Refuse("of a function that raises");
    if (recorder_.writes.size() != written || !(state == ProgramTorchState::Current()) ||
        WritesBefore(graph_, first_node, first_value))
      return Refuse("of a function with side effects");
    if (gradients_.contexts.size() != contexts || gradients_.hooks.size() != hooks)
      return Refuse("of a function with custom Functions or hooks");
    if (gradients_.checkpoints.empty()) gradients_.checkpoint_stops = std::move(stops);
    checkpoint.calls.second = static_cast<int32_t>(torch_.calls.size());
    checkpoint.sequence.second = at::sequence_number::peek();
    gradients_.checkpoints.push_back(std::move(checkpoint));
    return result.release();
  }

 private:
  struct BackwardCall {
    NativeCall call;
    bool has_inputs = false, runs_program = false;
    std::vector<at::Tensor> outputs;
    std::vector<at::Tensor> targets;  // what it may change the gradients of
    std::vector<PyObject*> arguments;
  };

  // What the program sees as their gradients, on the fakes of tensors from outside, as long as the engine runs.
  class LentGradients {
   public:
    explicit LentGradients(const std::vector<at::Tensor>& targets) : targets_(targets) {}
    ~LentGradients() {
      for (size_t i = 0; i < outside_.size(); ++i) {
        if (outside_[i]) targets_[i].mutable_grad().reset();
      }
    }
    LentGradients(const LentGradients&) = delete;
    LentGradients& operator=(const LentGradients&) = delete;

    void Lend(bool outside, PyObject* gradient) {
      const at::Tensor& target = targets_[outside_.size()];
      outside_.push_back(outside);
      if (outside && gradient != Py_None) target.mutable_grad() = TensorOf(gradient);
    }
    bool IsOutside(size_t index) const { return outside_[index]; }

   private:
    const std::vector<at::Tensor>& targets_;
    std::vector<bool> outside_;
  };

  static PyRef TupleOf(const std::vector<PyRef>& items) {
    PyRef tuple = PyRef::Steal(PyTuple_New(static_cast<Py_ssize_t>(items.size())));
    for (size_t i = 0; tuple && i < items.size(); ++i)
      PyTuple_SET_ITEM(tuple.get(), static_cast<Py_ssize_t>(i), Py_NewRef(items[i].get()));
    return tuple;
  }

  PyObject* Accumulate(const BackwardCall& made) {
    std::vector<PyRef> targets, before;
    LentGradients lent(made.targets);
    for (const at::Tensor& target : made.targets) {
      targets.push_back(PyRef::Steal(THPVariable_Wrap(target)));
      if (!targets.back()) return nullptr;
      const bool outside = recorder_.FindKnown(targets.back().get()) != nullptr;
      // What the engine has made of an intermediate is asked for natively: nobody warns.
      const bool unset = !outside && !target.is_leaf() && !target.retains_grad();
      before.push_back(unset ? PyRef::Borrow(Py_None) : PyRef::Steal(recorder_.TensorGradient(targets.back().get())));
      if (!before.back()) return nullptr;
      if (before.back().get() != Py_None && !IsFakeTensor(before.back().get())) return Refuse("of other gradients");
      lent.Lend(outside, before.back().get());
    }
    PyRef target_tuple = TupleOf(targets), before_tuple = TupleOf(before);
    PyRef function;
    {
      FakeSession::Pause pause;
      Disarmed disarmed;
      function = ImportedAttribute("framejit._autograd", "accumulate");
    }
    if (!target_tuple || !before_tuple || !function) return nullptr;
    const auto& a = made.arguments;
    PyObject* const args[] = {a[0], a[1], target_tuple.get(), before_tuple.get(), a[2], a[3], a[4]};
    const NativeCall call{function.get(), args, std::size(args), nullptr};
    const size_t first = torch_.calls.size(), first_node = graph_.nodes.size();
    PyRef done = PyRef::Steal(recorder_.CallTorch(TorchCall::Kind::kFunction, function.get(), call, [&]() -> PyObject* {
      const EngineInThisThread one_thread;
      std::optional<RunsCode> engine;
      if (made.runs_program) engine.emplace(ProgramCode::kGradient);
      const NativeCall& own = made.call;
      PyRef none =
          PyRef::Steal(PyObject_Vectorcall(own.callable, own.args, static_cast<size_t>(own.nargs), own.kwnames));
      ReplaceCalls(first, first_node);
      return none ? Replaced(made.targets, before) : nullptr;
    }));
    if (!done) return nullptr;
    if (made.runs_program && !recorder_.writes.empty()) return Refuse("with side effects");
    if (made.has_inputs) {
      for (const at::Tensor& target : made.targets) {
        if (target.grad_fn() != nullptr) AddNew(gradients_.retained, {target});
      }
    }
    for (size_t i = 0; i < targets.size() && done.get() != Py_None; ++i) {
      PyObject* gradient = PyTuple_GET_ITEM(done.get(), i);
      if (gradient == Py_None) continue;
      if (!lent.IsOutside(i)) {
        gradients_.with_gradients.push_back(targets[i]);
      } else if (recorder_.SetTensorGradient(targets[i].get(), gradient) != 0) {
        return nullptr;
      }
    }
    return Py_NewRef(Py_None);
  }

  // The gradients that are other tensors than before, None for the others; None where there is no such gradient.
  static PyObject* Replaced(const std::vector<at::Tensor>& targets, const std::vector<PyRef>& before) {
    std::vector<PyRef> replaced;
    bool any = false;
    for (size_t i = 0; i < targets.size(); ++i) {
      const at::Tensor& gradient = targets[i].grad();
      const bool same =
          !gradient.defined() || (before[i].get() != Py_None && gradient.is_same(TensorOf(before[i].get())));
      replaced.push_back(same ? PyRef::Borrow(Py_None) : PyRef::Steal(THPVariable_Wrap(gradient)));
      if (!replaced.back()) return nullptr;
      any |= !same;
    }
    return any ? TupleOf(replaced).release() : Py_NewRef(Py_None);
  }

  static bool IsMethod(PyObject* function) {
    PyRef name = PyRef::Steal(PyObject_GetAttrString(function, "__qualname__"));
    if (!name) PyErr_Clear();
    return name && PyUnicode_Check(name.get()) && PyUnicode_CompareWithASCIIString(name.get(), "Tensor.backward") == 0;
  }

  PyObject* Refuse(const char* why) {
    if (recorder_.broken()) return nullptr;
    return recorder_.BreakNull(BreakCode::kAutograd, std::string(what_) + " " + why);
  }

  // What was recorded from there on belongs to one call of the torch-level graph, which is about to be added.
  void ReplaceCalls(size_t first_call, size_t first_node) {
    torch_.calls.resize(first_call);
    for (size_t i = first_node; i < graph_.nodes.size(); ++i)
      graph_.nodes[i].torch_call = static_cast<int32_t>(first_call);
  }

  void NoteResult(const at::Tensor& tensor) {
    torch_.values[static_cast<size_t>(recorder_.TorchValue(tensor, false))] = FakeSession::MetaOf(tensor);
    if (!IsCustom(tensor)) return;
    PyRef context = PyRef::Steal(torch::autograd::functionToPyObject(tensor.grad_fn()));
    if (!context || (!gradients_.contexts.empty() && gradients_.contexts.back().get() == context.get())) return;
    // What the program set on it, for its backward.
    PyRef dict = PyRef::Steal(PyObject_GenericGetDict(context.get(), nullptr));
    PyObject *name = nullptr, *value = nullptr;
    for (Py_ssize_t cursor = 0; dict && PyDict_Next(dict.get(), &cursor, &name, &value);) {
      gradients_.holds_containers |= !IsPlain(value);
      ForEachTensor(value, [&](const at::Tensor& held) { gradients_.unsaved.push_back(held); });
    }
    gradients_.contexts.push_back(std::move(context));
  }

  // What leads from the inputs to the outputs is all in the recording if no tensor from outside has a history that
  // leads to one of the inputs. What was made inside is in no history from outside.
  bool GuardLeaves(const History& history, const std::vector<at::Tensor>& inputs, bool accumulates) {
    const auto provenance = [&](const at::Tensor& fake) -> Provenance* {
      PyRef object = PyRef::Steal(THPVariable_Wrap(fake));
      return object ? recorder_.FindKnown(object.get()) : nullptr;
    };
    if (std::none_of(inputs.begin(), inputs.end(),
                     [&](const at::Tensor& input) { return provenance(input) != nullptr; }))
      return true;
    std::vector<at::Tensor> leaves = history.leaves;
    leaves.insert(leaves.end(), inputs.begin(), inputs.end());
    for (const at::Tensor& leaf : leaves) {
      const Provenance* outside = provenance(leaf);
      if (outside == nullptr || !leaf.requires_grad()) continue;
      if (!IsTensor(outside->real.get()) || !IsPlainLeaf(TensorOf(outside->real.get()), accumulates)) return false;
      recorder_.AddGuard(GuardKind::kPlainLeaf, outside->source, nullptr, accumulates);
    }
    return true;
  }

  Recorder& recorder_;
  TorchGraph& torch_;
  Graph& graph_;
  ProgramGradients& gradients_;
  const char* what_ = "";
};

}  // namespace

// As torch._C._set_grad_enabled called by the program.
int RecorderState::Impl::SetGradMode(bool enabled) {
  PyRef function = ImportedAttribute("torch._C", "_set_grad_enabled");
  PyObject* arg = enabled ? Py_True : Py_False;
  PyRef done = PyRef::Steal(function ? ModelTorchState({function.get(), &arg, 1, nullptr}) : nullptr);
  return done ? 0 : -1;
}

// The C part of autograd.Function.apply calls forward without gradients.
PyObject* RecorderState::Impl::ModelFunctionApply(const NativeCall& call) {
  const bool enabled = at::GradMode::is_enabled();
  if (enabled && RequiresGrad(call.args, call.total())) return AutogradCalls(*this).Apply(call);
  if (PrepareArguments(call) != 0 || (enabled && SetGradMode(false) != 0)) return nullptr;
  PyRef result = PyRef::Steal(CallReal(call));
  if (broken()) return nullptr;
  // Also where it raised: a handler of the program goes on with gradients.
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  const bool restored = !enabled || SetGradMode(true) == 0;
  if (!restored) return Py_XDECREF(type), Py_XDECREF(value), Py_XDECREF(traceback), nullptr;
  PyErr_Restore(type, value, traceback);
  return result ? Scan(result.release()) : nullptr;
}

PyObject* RecorderState::Impl::ModelGradient(const NativeCall& call) { return AutogradCalls(*this).Gradient(call); }
PyObject* RecorderState::Impl::ModelBackward(const NativeCall& call) { return AutogradCalls(*this).Backward(call); }
PyObject* RecorderState::Impl::ModelRetainGrad(const NativeCall& call) { return AutogradCalls(*this).RetainGrad(call); }
PyObject* RecorderState::Impl::ModelRegisterHook(const NativeCall& call) {
  return AutogradCalls(*this).RegisterHook(call);
}
PyObject* RecorderState::Impl::ModelRequireGrad(const NativeCall& call) {
  return AutogradCalls(*this).RequireGrad(call);
}

// checkpoint(function, *args, use_reentrant=..., preserve_rng_state=True, **kwargs)
PyObject* RecorderState::Impl::ModelCheckpoint(const NativeCall& call) {
  PyObject* reentrant = nullptr;
  std::vector<PyObject*> args(call.args + std::min<Py_ssize_t>(call.nargs, 1), call.args + call.nargs);
  PyRef names = PyRef::Steal(PyList_New(0));
  bool others = false;
  for (Py_ssize_t i = 0; names && call.kwnames != nullptr && i < PyTuple_GET_SIZE(call.kwnames); ++i) {
    PyObject* name = PyTuple_GET_ITEM(call.kwnames, i);
    PyObject* value = call.args[call.nargs + i];
    if (PyUnicode_CompareWithASCIIString(name, "use_reentrant") == 0) {
      reentrant = value;
    } else if (PyUnicode_CompareWithASCIIString(name, "preserve_rng_state") == 0) {
      others |= value != Py_True;  // the numbers of the backward are its own
    } else {
      for (const char* option : {"context_fn", "determinism_check", "debug", "early_stop"})
        others |= PyUnicode_CompareWithASCIIString(name, option) == 0;
      if (PyList_Append(names.get(), name) != 0) return nullptr;
      args.push_back(value);
    }
  }
  PyRef kwnames = PyRef::Steal(names ? PyList_AsTuple(names.get()) : nullptr);
  if (!kwnames) return nullptr;
  // A reentrant one has a backward of its own, and gives views of what it is given.
  if (call.nargs < 1 || reentrant != Py_False || others)
    return BreakNull(BreakCode::kAutograd, "checkpoint, but for use_reentrant=False without further options");
  const bool keywords = PyTuple_GET_SIZE(kwnames.get()) > 0;
  const NativeCall inner{call.args[0], args.data(), call.nargs - 1, keywords ? kwnames.get() : nullptr};
  if (at::GradMode::is_enabled()) {
    // At the torch level it would be a call like any other, whose inside is kept.
    if (!request.backward || !request.checkpoints)
      return BreakNull(BreakCode::kAutograd, "checkpoint, whose inside the backward is to compute again");
    return AutogradCalls(*this).Checkpoint(inner);
  }
  return Call(inner.callable, inner.args, inner.nargs, inner.kwnames);
}

}  // namespace framejit
