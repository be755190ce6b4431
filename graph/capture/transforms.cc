// torch.func: vmap, grad, jvp and what is made of them. The transform itself runs natively, the function that it
// transforms is recorded. Inside, tensors are wrappers around fakes, and calls have no torch-level form of their own:
// what the transform came to is the operators that reached the fakes, and each of them becomes a torch-level call.
#include <ATen/core/ivalue.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/python/pybind_utils.h>

#include <string_view>

#include "graph/capture/evaluator.h"
#include "graph/capture/recorder_impl.h"

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

// torch.ops.aten.add.Tensor
PyRef OverloadOf(const c10::OperatorHandle& op) {
  const std::string& name = op.schema().name();
  const size_t colons = name.find("::");
  const std::string& overload = op.schema().overload_name();
  PyRef object = PyRef::Steal(PyImport_ImportModule("torch"));
  for (const std::string& part : {std::string("ops"), name.substr(0, colons), name.substr(colons + 2),
                                  overload.empty() ? std::string("default") : overload}) {
    object = PyRef::Steal(object ? PyObject_GetAttrString(object.get(), part.c_str()) : nullptr);
  }
  return object;
}

}  // namespace

bool InsideTransform() {
  return c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
}

// By torch's own Python function: the headers of the wrappers need a library that torch does not install.
bool IsTransformed(const at::Tensor& tensor) {
  const c10::DispatchKeySet keys = tensor.defined() ? tensor.key_set() : c10::DispatchKeySet();
  if (!keys.has(c10::DispatchKey::FuncTorchBatched) && !keys.has(c10::DispatchKey::FuncTorchGradWrapper)) return false;
  PyRef module = PyRef::Steal(PyImport_ImportModule("torch._C._functorch"));
  PyRef unwrap = PyRef::Steal(module ? PyObject_GetAttrString(module.get(), "get_unwrapped") : nullptr);
  PyRef wrapper = PyRef::Steal(THPVariable_Wrap(tensor));
  PyRef inner = PyRef::Steal(unwrap && wrapper ? PyObject_CallOneArg(unwrap.get(), wrapper.get()) : nullptr);
  if (!inner || !IsTensor(inner.get())) return PyErr_Clear(), false;
  return IsFake(TensorOf(inner.get())) || IsTransformed(TensorOf(inner.get()));
}

// By the code of the functions that they return; the pull-backs of vjp and linearize hold tensors of their own.
bool IsFunctionTransform(PyObject* function) {
  auto* code = reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(function));
  Py_ssize_t size = 0;
  const char* file = PyUnicode_AsUTF8AndSize(code->co_filename, &size);
  if (file == nullptr) return PyErr_Clear(), false;
  if (std::string_view(file, static_cast<size_t>(size)).find("/torch/_functorch/") == std::string_view::npos)
    return false;
  for (const char* known : {"vmap.<locals>.wrapped", "grad.<locals>.wrapper", "grad_and_value.<locals>.wrapper", "jvp",
                            "jacrev.<locals>.wrapper_fn", "jacfwd.<locals>.wrapper_fn"}) {
    if (PyUnicode_CompareWithASCIIString(code->co_qualname, known) == 0) return true;
  }
  return false;
}

// What the transform reads of its closure is guarded first.
PyObject* RecorderState::Impl::CallTransformed(const NativeCall& call) {
  const bool outermost = !InsideTransform();
  auto* function = reinterpret_cast<PyFunctionObject*>(call.callable);
  if (PrepareArguments(call) != 0) return nullptr;
  if (entered_functions.insert(call.callable).second) {
    kept_alive.push_back(PyRef::Borrow(call.callable));
    RegisterCells(function);
  }
  const Py_ssize_t cells = function->func_closure == nullptr ? 0 : PyTuple_GET_SIZE(function->func_closure);
  for (Py_ssize_t i = 0; i < cells; ++i) {
    PyObject* cell = PyTuple_GET_ITEM(function->func_closure, i);
    PyRef value = PyRef::Steal(LoadCell(cell, function, static_cast<int>(i)));
    if (!value) return nullptr;
    if (value.get() != PyCell_GET(cell))
      return BreakNull(BreakCode::kUnsupportedObject, "a transformed function whose closure holds an outside object");
  }
  const size_t nodes = session.graph().nodes.size();
  PyRef result;
  {
    InTransform scope;
    result = PyRef::Steal(PyObject_Vectorcall(call.callable, call.args, static_cast<size_t>(call.nargs), call.kwnames));
  }
  if (CheckFailure() != 0 || (!result && BreakWhereFakesFailed(call.callable)) || !result) return nullptr;
  if (outermost && !AddOperatorCalls(nodes)) return nullptr;
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

TorchValueId RecorderState::Impl::ValueOfOperator(ValueId id) {
  auto made = operator_values.find(id);
  return made == operator_values.end() ? -1 : made->second;
}

// The torch-level calls of all nodes from `first_node` on.
bool RecorderState::Impl::AddOperatorCalls(size_t first_node) {
  TorchGraph& torch = recording->torch_graph;
  Graph& graph = session.graph();
  for (const at::Tensor& tensor : kept_tensors) {
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
    if (!node.list_lengths.empty() || MutatesArguments(node.op)) {
      Break(BreakCode::kUnsupportedCallable, "an operator of a transform: " + schema.name());
      return false;
    }
    for (const ValueId output : node.outputs) {
      TorchArgument& value = node.outputs.size() == 1 ? call.result : call.result.items.emplace_back();
      if (output == kNoValue) {
        value.constant = PyRef::Borrow(Py_None);
        continue;
      }
      value.kind = TorchArgument::Kind::kValue;
      value.value = static_cast<TorchValueId>(torch.values.size());
      torch.values.push_back(graph.meta(output));
      operator_values[output] = value.value;
    }
    if (node.outputs.size() != 1) call.result.kind = TorchArgument::Kind::kTuple;
    call.location = node.location;
    node.torch_call = static_cast<int32_t>(torch.calls.size());
    torch.calls.push_back(std::move(call));
  }
  return true;
}

bool RecorderState::Impl::OperatorArgument(const Operand& operand, TorchArgument* argument) {
  using Kind = TorchArgument::Kind;
  const auto take = [&](ValueId id, TorchArgument* into) {
    if (id == kNoValue) return into->constant = PyRef::Borrow(Py_None), true;
    into->kind = Kind::kValue;
    into->value = ValueOfOperator(id);
    return into->value >= 0;
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
