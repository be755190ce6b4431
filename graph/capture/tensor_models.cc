// Tensors that Python code makes of tensors: parameters, and copies by module copy.
#include <torch/csrc/autograd/python_variable.h>

#include "graph/capture/evaluator.h"
#include "graph/capture/imported.h"
#include "graph/capture/recorder_impl.h"

namespace framejit {
namespace {

// What a copy of the tensor's memory, laid out as the memory is, is a clone of.
bool IsWholeMemory(const at::Tensor& tensor) {
  return tensor.layout() == at::kStrided && !tensor.is_conj() && !tensor.is_neg() && !tensor.is_quantized() &&
         tensor.is_non_overlapping_and_dense();
}

}  // namespace

// Tensor._make_subclass(Parameter, data, requires_grad): a leaf over the memory of `data`. What is computed of it is
// differentiated by torch's own engine.
PyObject* RecorderState::Impl::ModelMakeSubclass(const NativeCall& call) {
  const bool usual = (call.nargs == 2 || call.nargs == 3) && call.kwnames == nullptr &&
                     call.args[0] == reinterpret_cast<PyObject*>(Names().parameter) && IsTensor(call.args[1]) &&
                     (call.nargs == 2 || PyBool_Check(call.args[2])) && !InsideTransform();
  if (!usual) return BreakNull(BreakCode::kAutograd, QualifiedName(call.callable));
  PyTypeObject* type = Py_TYPE(call.args[1]);
  if (type != Names().tensor && type != Names().parameter)
    return BreakNull(BreakCode::kUnsupportedTensor, type->tp_name);
  GuardType(Names().parameter);
  if (recording->no_joint.empty()) recording->no_joint = "a parameter is made inside";
  // In the graph it is the call of the class, which people can read.
  PyObject* args[] = {call.args[1], call.nargs == 3 ? call.args[2] : Py_False};
  return RecordTorch(TorchCall::Kind::kFunction, call.args[0], {call.args[0], args, 2, nullptr}, [&] {
    return PyObject_Vectorcall(call.callable, call.args, static_cast<size_t>(call.nargs), nullptr);
  });
}

// Tensor.__deepcopy__(memo) copies the memory, once for all tensors over it.
PyObject* RecorderState::Impl::ModelDeepCopy(const NativeCall& call) {
  const bool usual = call.nargs == 2 && call.kwnames == nullptr && Py_TYPE(call.args[0]) == Names().tensor &&
                     IsFakeTensor(call.args[0]) && PyDict_CheckExact(call.args[1]) && !IsOutside(call.args[1]) &&
                     !InsideTransform() && !HasTorchFunction(call);
  if (!usual) return BreakNull(BreakCode::kTensorData, QualifiedName(call.callable));
  PyObject* source = call.args[0];
  PyObject* memo = call.args[1];
  PyRef key = PyRef::Steal(PyLong_FromVoidPtr(source));
  if (!key) return nullptr;
  if (PyObject* made = PyDict_GetItemWithError(memo, key.get())) return Py_NewRef(made);
  const at::Tensor& tensor = TensorOf(source);
  PyRef gradient = PyRef::Steal(GetAttr(source, Names().grad));
  PyRef attributes = PyRef::Steal(gradient ? GetAttr(source, Names().dict) : nullptr);
  const Py_ssize_t size = attributes ? Length(attributes.get()) : -1;
  if (size < 0) return nullptr;
  if (IsSymbolic()) StayStatic("a deep copy of a tensor");
  const int32_t storage = FakeSession::MetaOf(tensor).storage;
  auto& storages = copied_storages[memo];
  kept_alive.push_back(PyRef::Borrow(memo));
  if (tensor.requires_grad() || gradient.get() != Py_None || size != 0 || !IsWholeMemory(tensor) ||
      !storages.insert(storage).second) {
    return BreakNull(BreakCode::kTensorData, QualifiedName(call.callable));
  }
  // Where the tensor begins in its memory, the copy does in its own; and tensors that share memory have copies that do.
  GuardOffsets(storage);
  bool begins = tensor.storage_offset() == 0;
  for (const auto& [object, provenance] : known) {
    PyObject* fake = provenance.lifted.get();
    if (object != provenance.real.get() || !IsTensor(object) || !IsTensor(fake) || !IsFakeTensor(fake)) continue;
    if (FakeSession::MetaOf(TensorOf(fake)).storage == storage) begins &= TensorOf(object).storage_offset() == 0;
  }
  if (!begins || (storages.size() > 1 && InputsShareMemory()))
    return BreakNull(BreakCode::kTensorData, QualifiedName(call.callable));
  if (storages.size() > 1) AddGuard(GuardKind::kNoOverlap, kNoSource);
  PyRef clone = PyRef::Steal(PyObject_GetAttrString(source, "clone"));
  PyRef format = ImportedAttribute("torch", "preserve_format");
  PyRef name = PyRef::Steal(PyUnicode_InternFromString("memory_format"));
  PyRef kwnames = PyRef::Steal(name ? PyTuple_Pack(1, name.get()) : nullptr);
  if (!clone || !format || !kwnames) return nullptr;
  PyObject* args[] = {source, format.get()};
  PyRef copy =
      PyRef::Steal(RecordTorch(TorchCall::Kind::kMethod, Names().clone, {Names().clone, args, 1, kwnames.get()},
                               [&] { return PyObject_Vectorcall(clone.get(), args + 1, 0, kwnames.get()); }));
  if (!copy || PyDict_SetItem(memo, key.get(), copy.get()) != 0) return nullptr;
  return copy.release();
}

// copy.copy(tensor): another tensor over the same memory.
PyObject* RecorderState::Impl::ModelCopy(const NativeCall& call) {
  PyObject* source = call.nargs > 0 ? call.args[0] : nullptr;
  if (source == nullptr || Py_TYPE(source) != Names().tensor || !IsFakeTensor(source) || InsideTransform() ||
      TensorOf(source).requires_grad() || call.total() != 1 || HasTorchFunction(call)) {
    PyObject* result = PyObject_Vectorcall(call.callable, call.args, static_cast<size_t>(call.nargs), call.kwnames);
    return CheckFailure() != 0 ? (Py_XDECREF(result), nullptr) : result;
  }
  PyRef attributes = PyRef::Steal(GetAttr(source, Names().dict));
  const Py_ssize_t size = attributes ? Length(attributes.get()) : -1;
  if (size < 0) return nullptr;
  if (size != 0) return BreakNull(BreakCode::kTensorData, QualifiedName(call.callable));
  PyRef detach = PyRef::Steal(PyUnicode_InternFromString("detach"));
  if (!detach) return nullptr;
  return RecordTorch(TorchCall::Kind::kMethod, detach.get(), {detach.get(), &source, 1, nullptr},
                     [&] { return PyObject_CallMethodNoArgs(source, detach.get()); });
}

}  // namespace framejit
