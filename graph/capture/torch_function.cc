// __torch_function__: tensor subclasses, other objects that torch functions understand, and modes. torch dispatches
// such a call to the Python code of the class or the mode, which is recorded as any other; the call itself is not.
#include <ATen/Functions.h>
#include <torch/csrc/autograd/python_variable.h>

#include "graph/capture/imported.h"
#include "graph/capture/recorder_impl.h"

namespace framejit {
namespace {

using at::impl::PythonTorchFunctionTLS;

PyObject* DisabledTorchFunction() {
  static PyObject* const function = [] {
    PyObject* found = ImportedAttribute("torch._C", "_disabled_torch_function_impl").release();
    if (found == nullptr) PyErr_Clear();
    return found;
  }();
  return function;
}

bool Overrides(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  const WellKnown& n = Names();
  if (IsPrimitive(object) || type == n.tensor || type == n.parameter || type == n.buffer || type == n.dtype ||
      type == n.device || type == n.size) {
    return false;
  }
  // As torch::check_has_torch_function, which torch does not export.
  static PyObject* const name = PyUnicode_InternFromString("__torch_function__");
  PyObject* found = ShimTypeLookup(type, name);
  return found != nullptr && PythonTorchFunctionTLS::get_disabled_state() == at::impl::ENABLED &&
         found != DisabledTorchFunction();
}

bool HoldsOverride(PyObject* object) {
  if (!PyTuple_CheckExact(object) && !PyList_CheckExact(object)) return Overrides(object);
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(object); ++i) {
    if (Overrides(PySequence_Fast_GET_ITEM(object, i))) return true;
  }
  return false;
}

}  // namespace

// Modes that were there before are torch.device contexts: they are C code to the recording, and guarded.
bool RecorderState::Impl::HasTorchFunction(const NativeCall& call) const {
  if (!at::impl::torch_function_all_disabled() && PythonTorchFunctionTLS::stack_len() > entry_modes) return true;
  for (Py_ssize_t i = 0; i < call.total(); ++i) {
    if (HoldsOverride(call.args[i])) return true;
  }
  return false;
}

PyObject* RecorderState::Impl::CallTorchFunction(const NativeCall& call, const Invoke& invoke) {
  for (Py_ssize_t i = 0; i < call.total(); ++i) {
    if (Prepare(call.args[i]) != 0) return nullptr;
  }
  if (IsSymbolic()) StayStatic("__torch_function__");
  const size_t nodes = session.graph().nodes.size();
  const size_t calls = recording->torch_graph.calls.size();
  PyRef result = PyRef::Steal(invoke());
  if (CheckFailure() != 0 || (!result && BreakWhereFakesFailed(call.callable))) return nullptr;
  if (session.graph().nodes.size() != nodes && recording->torch_graph.calls.size() == calls)
    return BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(call.callable) + " with a C __torch_function__");
  return Scan(result.release());
}

// Tensor.as_subclass: in the graph an alias, so that what runs it sees plain tensors; to the program, of the class.
PyObject* RecorderState::Impl::ModelAsSubclass(const NativeCall& call) {
  if (call.nargs != 2 || call.kwnames != nullptr || !IsTensor(call.args[0]) || !PyType_Check(call.args[1]))
    return BreakNull(BreakCode::kUnsupportedCallable, "Tensor.as_subclass");
  auto* type = reinterpret_cast<PyTypeObject*>(call.args[1]);
  GuardType(type);
  if (type != Names().tensor && !IsPlainTensorSubclass(type))
    return BreakNull(BreakCode::kUnsupportedTensor, type->tp_name);
  PyRef alias = ImportedAttribute("torch", "ops");
  for (const char* part : {"aten", "alias", "default"}) {
    if (alias) alias = PyRef::Steal(PyObject_GetAttrString(alias.get(), part));
  }
  if (!alias) return nullptr;
  const NativeCall plain{alias.get(), call.args, 1, nullptr};
  PyRef result = PyRef::Steal(RecordTorch(TorchCall::Kind::kFunction, alias.get(), plain, [&]() -> PyObject* {
    return THPVariable_Wrap(at::alias(TensorOf(call.args[0])));
  }));
  if (!result || type == Names().tensor) return result.release();
  return PyObject_SetAttr(result.get(), Names().klass, call.args[1]) != 0 ? nullptr : result.release();
}

}  // namespace framejit
