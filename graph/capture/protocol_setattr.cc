// Attribute writes. Those on outside objects go to the overlay: the shadow of the instance dict, or native_attributes.
#include "graph/capture/foreign_method.h"
#include "graph/capture/program_gradients.h"
#include "graph/capture/recorder_impl.h"

namespace framejit {
namespace {

PyObject* PythonSetter(PyTypeObject* type, PyObject* name) {
  PyObject* found = ShimTypeLookup(type, name);
  return found != nullptr && PyFunction_Check(found) ? found : nullptr;
}

// Attributes of functions that nothing but a reader goes by.
bool IsNameOfFunction(PyObject* name) {
  return PyUnicode_CompareWithASCIIString(name, "__name__") == 0 ||
         PyUnicode_CompareWithASCIIString(name, "__qualname__") == 0;
}

}  // namespace

int RecorderState::Impl::SetAttr(PyObject* object, PyObject* name, PyObject* value) {
  PyTypeObject* type = Py_TYPE(object);
  if (IsPrimitive(object)) return PyObject_SetAttr(object, name, value);
  if (RunningCode() == ProgramCode::kBackward)
    return BreakInt(BreakCode::kAutograd, "an attribute is set in a backward");
  if (IsTensor(object)) return TensorSetAttr(object, name, value);
  if (PyType_Check(object) && !local_types.contains(object))
    return BreakInt(BreakCode::kUnsupportedEffect, std::string("an attribute of class ") +
                                                       reinterpret_cast<PyTypeObject*>(object)->tp_name + " is set");
  GuardType(type);
  PyObject* setter_name = value == nullptr ? Names().delattr : Names().setattr;
  if (PyObject* setter = PythonSetter(type, setter_name)) {
    PyRef result = PyRef::Steal(value == nullptr ? Call(setter, {object, name}) : Call(setter, {object, name, value}));
    return result ? 0 : -1;
  }
  if (PyObject* foreign = ForeignMethod(type, setter_name)) {  // __setattr__ = dict.__setitem__
    PyRef bound = PyRef::Steal(Bind(foreign, object, type, type, setter_name));
    if (!bound) return -1;
    PyRef result = PyRef::Steal(value == nullptr ? Call(bound.get(), {name}) : Call(bound.get(), {name, value}));
    return result ? 0 : -1;
  }
  if (PyModule_Check(object)) {
    PyObject* descriptor = ShimTypeLookup(type, name);
    if (descriptor != nullptr && Py_TYPE(descriptor)->tp_descr_set != nullptr)
      return SetData(descriptor, object, name, value);
    return StoreGlobal(PyModule_GetDict(object), name, value);
  }
  return GenericSetAttr(object, name, value);
}

int RecorderState::Impl::GenericSetAttr(PyObject* object, PyObject* name, PyObject* value) {
  PyTypeObject* type = Py_TYPE(object);
  if (PyType_Check(object)) {
    if (!local_types.contains(object))
      return BreakInt(BreakCode::kUnsupportedEffect, std::string("an attribute of class ") +
                                                         reinterpret_cast<PyTypeObject*>(object)->tp_name + " is set");
    return PyType_Type.tp_setattro(object, name, value);
  }
  PyRef descriptor = PyRef::Borrow(ShimTypeLookup(type, name));
  if (descriptor && Py_TYPE(descriptor.get())->tp_descr_set != nullptr)
    return SetData(descriptor.get(), object, name, value);
  if (IsTensor(object) && FindKnown(object) == nullptr) return PyObject_GenericSetAttr(object, name, value);
  if (!IsOutside(object)) {
    if (type->tp_setattro != PyObject_GenericSetAttr && !IsPythonClass(type))
      return PyObject_SetAttr(object, name, value);
    return PyObject_GenericSetAttr(object, name, value);
  }
  Shadow* dict = InstanceDict(object);
  if (dict == nullptr) return -1;
  const int status = ShadowDictSet(*dict, name, value);
  if (status != 0 && !broken() && PyErr_ExceptionMatches(PyExc_KeyError)) {
    PyErr_Clear();
    PyErr_Format(PyExc_AttributeError, "'%.50s' object has no attribute '%U'", type->tp_name, name);
  }
  return status;
}

int RecorderState::Impl::SetData(PyObject* descriptor, PyObject* object, PyObject* name, PyObject* value) {
  PyTypeObject* kind = Py_TYPE(descriptor);
  if (PyType_IsSubtype(kind, &PyProperty_Type)) {
    PyRef setter = PyRef::Steal(PyObject_GetAttr(descriptor, value == nullptr ? Names().fdel : Names().fset));
    if (!setter) return -1;
    if (setter.get() == Py_None) return PyProperty_Type.tp_descr_set(descriptor, object, value);  // raises
    PyRef result = PyRef::Steal(value == nullptr ? Call(setter.get(), {object}) : Call(setter.get(), {object, value}));
    return result ? 0 : -1;
  }
  if (kind == &PyMemberDescr_Type || kind == &PyGetSetDescr_Type) {
    if (!IsOutside(object)) return kind->tp_descr_set(descriptor, object, value);
    if (kind == &PyGetSetDescr_Type && !(PyFunction_Check(object) && IsNameOfFunction(name) && value != nullptr))
      return BreakInt(BreakCode::kUnsupportedEffect, std::string("attribute of ") + Py_TYPE(object)->tp_name);
    if (value == nullptr) {  // an empty slot cannot be deleted
      PyRef old = PyRef::Steal(BindNative(descriptor, object, name));
      if (!old) return -1;
    }
    auto [row, inserted] = native_attributes.insert_or_assign(std::pair(object, name), PyRef::Borrow(value));
    if (inserted)
      writes.push_back(
          Write{.shadow = nullptr, .cell = {}, .object = PyRef::Borrow(object), .name = PyRef::Borrow(name)});
    return 0;
  }
  static PyObject* const delete_name = PyUnicode_InternFromString("__delete__");
  if (PyObject* set = PythonSetter(kind, value == nullptr ? delete_name : Names().set)) {
    GuardType(kind);
    PyRef lifted = PyRef::Steal(LiftTypeAttribute(Py_TYPE(object), name, descriptor));
    PyRef result = PyRef::Steal(!lifted            ? nullptr
                                : value == nullptr ? Call(set, {lifted.get(), object})
                                                   : Call(set, {lifted.get(), object, value}));
    return result ? 0 : -1;
  }
  return BreakInt(BreakCode::kUnsupportedEffect, std::string("a descriptor of type ") + kind->tp_name);
}

namespace {

// What torch takes without an error.
bool IsGradientOf(PyObject* value, PyObject* tensor) {
  if (value == Py_None) return true;
  if (value == tensor || !IsFakeTensor(value)) return false;
  const at::Tensor &gradient = TensorOf(value), &of = TensorOf(tensor);
  return gradient.sizes() == of.sizes() && gradient.scalar_type() == of.scalar_type() &&
         gradient.device() == of.device() && gradient.key_set() == of.key_set();
}

// The same elements in the same layout.
bool IsOwnData(PyObject* value, PyObject* tensor) {
  if (TensorOf(value).is_same(TensorOf(tensor))) return true;
  const TensorMeta data = FakeSession::MetaOf(TensorOf(value)), own = FakeSession::MetaOf(TensorOf(tensor));
  return data.storage == own.storage && data.storage >= 0 && data.dtype == own.dtype && data.sizes == own.sizes &&
         data.strides == own.strides && data.storage_offset == own.storage_offset && data.is_conj == own.is_conj &&
         data.is_neg == own.is_neg;
}

}  // namespace

// Of a tensor that the recording made, its fake has the gradient.
int RecorderState::Impl::SetTensorGradient(PyObject* tensor, PyObject* gradient) {
  if (IsSymbolic()) StayStatic("Tensor.grad is set");
  if (FindKnown(tensor) == nullptr) {
    if (!TensorOf(tensor).is_leaf()) return BreakInt(BreakCode::kAutograd, "Tensor.grad is set");
    Gradients().with_gradients.push_back(PyRef::Borrow(tensor));
    return PyObject_SetAttr(tensor, Names().grad, gradient);
  }
  auto [row, inserted] = native_attributes.insert_or_assign(std::pair(tensor, Names().grad), PyRef::Borrow(gradient));
  if (!inserted) return 0;
  writes.push_back(
      Write{.shadow = nullptr, .cell = {}, .object = PyRef::Borrow(tensor), .name = PyRef::Borrow(Names().grad)});
  return 0;
}

// That it does is not guarded: what looks like the tensor's own memory may be the other's.
bool RecorderState::Impl::SharesMemoryWithAnotherInput(PyObject* tensor) const {
  const int32_t storage = FakeSession::MetaOf(TensorOf(tensor)).storage;
  const std::vector<LiftedInput> inputs = LiftedInputs();
  return std::any_of(inputs.begin(), inputs.end(), [&](const LiftedInput& input) {
    return !input.fake.is_same(TensorOf(tensor)) && FakeSession::MetaOf(input.fake).storage == storage;
  });
}

int RecorderState::Impl::TensorSetAttr(PyObject* tensor, PyObject* name, PyObject* value) {
  if (!IsFakeTensor(tensor)) return BreakInt(BreakCode::kUnknownTensor, Py_TYPE(tensor)->tp_name);
  PyObject* descriptor = ShimTypeLookup(Py_TYPE(tensor), name);
  if (descriptor != nullptr && Py_TYPE(descriptor) == &PyGetSetDescr_Type) {
    const char* text = PyUnicode_AsUTF8(name);
    if (text == nullptr) return -1;
    // Module.to() of what is there already, `p.data -= g`: a tensor that is given its own data stays as it is.
    if (std::string_view(text) == "data" && value != nullptr && IsFakeTensor(value) && IsOwnData(value, tensor) &&
        !SharesMemoryWithAnotherInput(tensor))
      return 0;
    if (std::string_view(text) == "grad" && value != nullptr && IsGradientOf(value, tensor))
      return SetTensorGradient(tensor, value);
    const bool is_gradient = std::string_view(text) == "grad" || std::string_view(text) == "requires_grad";
    return BreakInt(is_gradient ? BreakCode::kAutograd : BreakCode::kTensorMetadataMutation,
                    std::string("Tensor.") + text + " is set");
  }
  return GenericSetAttr(tensor, name, value);
}

}  // namespace framejit
