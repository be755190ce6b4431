// torch.func: vmap, grad, jvp and what is made of them. The transform itself runs natively, the function that it
// transforms is recorded. Inside, tensors are wrappers around fakes, and calls have no torch-level form of their own:
// what the transform came to is the operators that reached the fakes, and each of them becomes a torch-level call.
#include <ATen/core/ivalue.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/python/pybind_utils.h>

#include <algorithm>
#include <initializer_list>
#include <string_view>

#include "graph/capture/evaluator.h"
#include "graph/capture/imported.h"
#include "graph/capture/recorder_impl.h"
#include "graph/capture/unrecorded.h"
#include "graph/constant.h"

namespace framejit {
namespace {

class InTransform {
 public:
  InTransform() : entered_(RecordingHook::EnterTransform(true)) {}
  ~InTransform() { RecordingHook::EnterTransform(entered_); }
  InTransform(const InTransform&) = delete;
  InTransform& operator=(const InTransform&) = delete;

 private:
  bool entered_;
};

// By torch's own Python functions: the headers of the wrappers and layers need a library that torch does not install.
PyRef CallFunctorch(const char* name, PyObject* argument) {
  PyRef function = ImportedAttribute("torch._C._functorch", name);
  if (!function) return {};
  return PyRef::Steal(argument == nullptr ? PyObject_CallNoArgs(function.get())
                                          : PyObject_CallOneArg(function.get(), argument));
}

// Leaves no layer of a transform that failed, whoever lost it. An exception that is set stays.
class LayersScope {
 public:
  LayersScope() : depth_(CallFunctorch("get_dynamic_layer_stack_depth", nullptr)) {}
  ~LayersScope() {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyRef now = CallFunctorch("get_dynamic_layer_stack_depth", nullptr);
    if (now && depth_ && PyObject_RichCompareBool(now.get(), depth_.get(), Py_GT) == 1)
      CallFunctorch("pop_dynamic_layer_stack_and_undo_to_depth", depth_.get());
    PyErr_Clear();
    PyErr_Restore(type, value, traceback);
  }
  LayersScope(const LayersScope&) = delete;
  LayersScope& operator=(const LayersScope&) = delete;

 private:
  PyRef depth_;
};

// torch.ops.aten.add.Tensor, which Python code makes when it is first asked for.
PyRef OverloadOf(const c10::OperatorHandle& op) {
  Disarmed disarmed;
  const std::string& name = op.schema().name();
  const size_t colons = name.find("::");
  const std::string& overload = op.schema().overload_name();
  PyRef object = ImportedAttribute("torch", "ops");
  for (const std::string& part :
       {name.substr(0, colons), name.substr(colons + 2), overload.empty() ? std::string("default") : overload}) {
    object = PyRef::Steal(object ? PyObject_GetAttrString(object.get(), part.c_str()) : nullptr);
  }
  return object;
}

// By its code and where that is from.
bool IsOfFunctorch(PyObject* function, std::initializer_list<const char*> names) {
  auto* code = reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(function));
  Py_ssize_t size = 0;
  const char* file = PyUnicode_AsUTF8AndSize(code->co_filename, &size);
  if (file == nullptr) return PyErr_Clear(), false;
  if (std::string_view(file, static_cast<size_t>(size)).find("/torch/_functorch/") == std::string_view::npos)
    return false;
  return std::any_of(names.begin(), names.end(),
                     [&](const char* name) { return PyUnicode_CompareWithASCIIString(code->co_qualname, name) == 0; });
}

// What vjp returns beside the function's results. It holds what the derivative needs, wrapped.
bool IsPullBack(PyObject* function) { return IsOfFunctorch(function, {"_vjp_with_argnums.<locals>.wrapper"}); }

}  // namespace

bool InsideTransform() {
  return c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
}

bool IsTransformed(const at::Tensor& tensor) {
  const c10::DispatchKeySet keys = tensor.defined() ? tensor.key_set() : c10::DispatchKeySet();
  if (!keys.has(c10::DispatchKey::FuncTorchBatched) && !keys.has(c10::DispatchKey::FuncTorchGradWrapper)) return false;
  PyRef wrapper = PyRef::Steal(THPVariable_Wrap(tensor));
  PyRef inner = wrapper ? CallFunctorch("get_unwrapped", wrapper.get()) : PyRef();
  if (!inner || !IsTensor(inner.get())) return PyErr_Clear(), false;
  return IsFake(TensorOf(inner.get())) || IsTransformed(TensorOf(inner.get()));
}

// What linearize returns holds a graph of its own.
bool IsFunctionTransform(PyObject* function) {
  return IsPullBack(function) ||
         IsOfFunctorch(function, {"vmap.<locals>.wrapped", "grad.<locals>.wrapper", "grad_and_value.<locals>.wrapper",
                                  "jvp", "vjp", "jacrev.<locals>.wrapper_fn", "jacfwd.<locals>.wrapper_fn"});
}

// What the transform reads of its closure is guarded first.
bool RecorderState::Impl::ReadClosure(PyFunctionObject* function) {
  if (entered_functions.insert(reinterpret_cast<PyObject*>(function)).second) {
    kept_alive.push_back(PyRef::Borrow(reinterpret_cast<PyObject*>(function)));
    RegisterCells(function);
  }
  const Py_ssize_t cells = function->func_closure == nullptr ? 0 : PyTuple_GET_SIZE(function->func_closure);
  for (Py_ssize_t i = 0; i < cells; ++i) {
    PyObject* cell = PyTuple_GET_ITEM(function->func_closure, i);
    PyRef value = PyRef::Steal(LoadCell(cell, function, static_cast<int>(i)));
    if (!value) return false;
    if (value.get() == PyCell_GET(cell)) continue;
    Break(BreakCode::kUnsupportedObject, "a transformed function whose closure holds an outside object");
    return false;
  }
  return true;
}

// Of a pull-back that the recording made: what it holds is the recording's own.
bool RecorderState::Impl::MayPullBack(const NativeCall& call) {
  const bool plain = call.nargs == 1 && call.kwnames == nullptr;
  if (plain && local_functions.contains(call.callable)) return true;
  Break(BreakCode::kUnsupportedCallable, plain ? "a pull-back from outside" : "a pull-back with options");
  return false;
}

PyObject* RecorderState::Impl::CallTransformed(const NativeCall& call) {
  const bool outermost = !InsideTransform();
  auto* function = reinterpret_cast<PyFunctionObject*>(call.callable);
  if (IsSymbolic()) StayStatic("a transform of torch.func");
  if (PrepareArguments(call) != 0) return nullptr;
  if (!(IsPullBack(call.callable) ? MayPullBack(call) : ReadClosure(function))) return nullptr;
  changes_inference |= AutogradModes::Current().inference;  // which transforms leave
  const size_t nodes = session.graph().nodes.size();
  PyRef result;
  {
    LayersScope layers;
    InTransform scope;
    result = PyRef::Steal(PyObject_Vectorcall(call.callable, call.args, static_cast<size_t>(call.nargs), call.kwnames));
  }
  if (CheckFailure() != 0 || (!result && BreakWhereFakesFailed(call.callable)) || !result) return nullptr;
  if (outermost && !AddOperatorCalls(nodes)) return nullptr;
  for (Py_ssize_t i = 1; PyTuple_CheckExact(result.get()) && i < PyTuple_GET_SIZE(result.get()); ++i) {
    PyObject* made = PyTuple_GET_ITEM(result.get(), i);
    if (PyFunction_Check(made) && IsPullBack(made) && local_functions.insert(made).second)
      kept_alive.push_back(PyRef::Borrow(made));
  }
  return Scan(result.release());
}

// A torch call inside of a transform.
PyObject* RecorderState::Impl::CallInTransform(const NativeCall& call, const Invoke& invoke) {
  for (Py_ssize_t i = 0; i < call.total(); ++i) {
    if (Prepare(call.args[i]) != 0) return nullptr;
  }
  session.SetPosition(CurrentLocation(), static_cast<int32_t>(recording->torch_graph.calls.size()));
  PyRef result;
  {
    InTransform scope;
    result = PyRef::Steal(invoke());
  }
  if (CheckFailure() != 0 || (!result && BreakWhereFakesFailed(call.callable)) || !result) return nullptr;
  return Scan(result.release());
}

// The torch-level calls of all nodes from `first_node` on.
bool RecorderState::Impl::AddOperatorCalls(size_t first_node) {
  TorchGraph& torch = recording->torch_graph;
  Graph& graph = session.graph();
  for (const KeptTensor& kept : kept_tensors) {
    const at::Tensor tensor(kept.tensor.lock());
    if (!tensor.defined()) continue;  // nothing reads it any more
    const ValueId id = session.ValueOf(tensor);
    if (id != kNoValue) operator_values.try_emplace(id, torch_values.at(tensor.unsafeGetTensorImpl()));
  }
  for (const GraphConstant& constant : graph.constants) {
    const auto id = static_cast<TorchValueId>(torch.values.size());
    if (!operator_values.try_emplace(constant.id, id).second) continue;
    torch.values.push_back(graph.meta(constant.id));
    torch.constants.emplace_back(id, constant.tensor);
  }
  for (size_t i = first_node; i < graph.nodes.size(); ++i) {
    Node& node = graph.nodes[i];
    const c10::FunctionSchema& schema = node.op.schema();
    TorchCall call{
        .kind = TorchCall::Kind::kFunction, .target = OverloadOf(node.op), .args = {}, .kwargs = {}, .result = {}};
    if (!call.target) return false;
    for (size_t k = 0; k < node.operands.size(); ++k) {
      TorchArgument argument;
      if (!OperatorArgument(node.operands[k], &argument)) {
        if (!PyErr_Occurred()) Break(BreakCode::kUnsupportedCallable, "an operator of a transform: " + schema.name());
        return false;
      }
      if (!schema.arguments()[k].kwarg_only()) {
        call.args.push_back(std::move(argument));
      } else {
        PyRef name = PyRef::Steal(PyUnicode_InternFromString(schema.arguments()[k].name().c_str()));
        if (!name) return false;
        call.kwargs.emplace_back(std::move(name), std::move(argument));
      }
    }
    OperatorResults(node, &call.result);
    call.location = node.location;
    node.torch_call = static_cast<int32_t>(torch.calls.size());
    torch.calls.push_back(std::move(call));
  }
  return true;
}

// What the operator returns, as Python does: a tensor or a list, or a tuple of these.
void RecorderState::Impl::OperatorResults(const Node& node, TorchArgument* result) {
  TorchGraph& torch = recording->torch_graph;
  const auto& returns = node.op.schema().returns();
  size_t next = 0, next_list = 0;
  const auto make = [&](TorchArgument& argument) {
    const ValueId output = node.outputs.at(next++);
    if (output == kNoValue) {
      argument.constant = PyRef::Borrow(Py_None);
      return;
    }
    argument.kind = TorchArgument::Kind::kValue;
    const auto id = static_cast<TorchValueId>(torch.values.size());
    const auto [row, is_new] = operator_values.try_emplace(output, id);  // a written argument is returned
    if (is_new) torch.values.push_back(session.graph().meta(output));
    argument.value = row->second;
  };
  if (returns.size() != 1) result->kind = TorchArgument::Kind::kTuple;
  for (const c10::Argument& returned : returns) {
    TorchArgument& part = returns.size() == 1 ? *result : result->items.emplace_back();
    const ArgumentKind kind = TypeOf(returned).kind;
    if (kind == ArgumentKind::kTensorList) {
      part.kind = TorchArgument::Kind::kList;
      part.items.resize(node.list_lengths.at(next_list++));
      for (TorchArgument& item : part.items) make(item);
    } else if (kind == ArgumentKind::kTensor) {
      make(part);
    } else {
      part.constant = PyRef::Borrow(Py_None);
    }
  }
}

bool RecorderState::Impl::OperatorArgument(const Operand& operand, TorchArgument* argument) {
  using Kind = TorchArgument::Kind;
  const auto take = [&](ValueId id, TorchArgument* into) {
    if (id == kNoValue) return into->constant = PyRef::Borrow(Py_None), true;
    auto made = operator_values.find(id);
    if (made == operator_values.end()) return false;
    into->kind = Kind::kValue;
    into->value = made->second;
    return true;
  };
  switch (operand.kind) {
    case Operand::Kind::kValue:
      return take(operand.value, argument);
    case Operand::Kind::kValueList:
      argument->kind = Kind::kList;
      for (const ValueId id : operand.values) {
        if (!take(id, &argument->items.emplace_back())) return false;
      }
      return true;
    case Operand::Kind::kConstant: {
      if (operand.constant.isGenerator()) return false;
      PyRef object = PyRef::Steal(torch::jit::toPyObject(operand.constant).release().ptr());
      return object && Snapshot(object.get(), false, argument);
    }
  }
  return false;
}

}  // namespace framejit
