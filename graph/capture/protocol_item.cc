// Subscripts, membership, length, truth and iteration.
#include "graph/capture/foreign_method.h"
#include "graph/capture/raise.h"
#include "graph/capture/recorder_impl.h"

namespace framejit {
namespace {

// C types whose objects cannot change and hold nothing but numbers and names.
bool IsImmutableLeaf(PyObject* object) {
  const WellKnown& n = Names();
  PyTypeObject* type = Py_TYPE(object);
  return type == &PyRange_Type || type == n.size || type == n.device || PyTuple_Check(object) ||
         PyFrozenSet_CheckExact(object) || type == &PySlice_Type || IsNativeValue(object) || IsNumPyArray(object);
}

// Made by the recording, of a type whose length and items are had without a look at the other items: preparing them
// would take time for each.
template <typename Recorder>
bool IsOwnContainer(Recorder& recorder, PyObject* object) {
  return (PyList_CheckExact(object) || PyTuple_CheckExact(object) || PyDict_CheckExact(object) ||
          PySet_CheckExact(object)) &&
         !IsUnlifted(object) && recorder.FindShadow(object) == nullptr && !recorder.IsOutside(object);
}

}  // namespace

int RecorderState::Impl::PrepareSlot(PyObject* object, PyObject* name) {
  PyTypeObject* type = Py_TYPE(object);
  if (IsPrimitive(object)) return 0;
  if (IsUnlifted(object)) return BreakInt(BreakCode::kInternalError, "an element of a container escaped unread");
  GuardType(type);
  PyObject* found = ShimTypeLookup(type, name);
  if (found == nullptr || found == Py_None || PyFunction_Check(found)) return 0;
  if (FindShadow(object) != nullptr || IsImmutableLeaf(object)) return Prepare(object);
  if (!IsOutside(object)) return Prepare(object);
  if (PyType_Check(object) || PyModule_Check(object) || PyFunction_Check(object)) return 0;
  if (Py_TYPE(found) == &PyWrapperDescr_Type && reinterpret_cast<PyDescrObject*>(found)->d_type == &PyBaseObject_Type)
    return 0;
  return BreakInt(BreakCode::kUnsupportedObject, std::string("use of ") + type->tp_name);
}

// As dict.__getitem__: a dict subclass may have __missing__.
PyObject* RecorderState::Impl::DictGetItem(PyObject* dict, PyObject* key) {
  if (HasUnguardedContent(key) && IsOutside(key))
    return BreakNull(BreakCode::kUnsupportedObject, std::string("the content of a ") + Py_TYPE(key)->tp_name);
  Shadow* shadow = FindShadow(dict);
  PyObject* value = shadow != nullptr ? ShadowDictGet(*shadow, key) : Py_XNewRef(PyDict_GetItemWithError(dict, key));
  if (value != nullptr || PyErr_Occurred()) return value;
  PyTypeObject* type = Py_TYPE(dict);
  if (!PyDict_CheckExact(dict)) {
    PyObject* missing = ShimTypeLookup(type, Names().missing);
    if (missing != nullptr && PyFunction_Check(missing)) return Call(missing, {dict, key});
    if (missing != nullptr && PyType_IsSubtype(type, Names().default_dict)) {
      PyRef factory = PyRef::Steal(PyObject_GenericGetAttr(dict, Names().default_factory));
      if (!factory) return nullptr;
      if (factory.get() != Py_None) {
        PyRef made = PyRef::Steal(Call(factory.get(), {}));
        if (!made || SetItem(dict, key, made.get()) != 0) return nullptr;
        return made.release();
      }
    }
  }
  RaiseKeyError(key);
  return nullptr;
}

PyObject* RecorderState::Impl::ListGetItem(Shadow& shadow, PyObject* key) {
  PyObject* list = shadow.copy.get();
  if (!PyIndex_Check(key) || IsTensor(key)) {
    if (FullLift(shadow) != 0) return nullptr;
    return PyList_Type.tp_as_mapping->mp_subscript(list, key);
  }
  Py_ssize_t index = PyNumber_AsSsize_t(key, PyExc_IndexError);
  if (index == -1 && PyErr_Occurred()) return nullptr;
  GuardLength(shadow);
  const Py_ssize_t size = PyList_GET_SIZE(list);
  if (index < 0) index += size;
  if (index >= 0 && index < size) return ShadowListGet(shadow, index);
  PyErr_SetString(PyExc_IndexError, "list index out of range");
  return nullptr;
}

// torch makes a tensor of each list of integers in an index; here that tensor is a constant of the graph. It lies on
// the CPU, whatever the default device is: operators take such an index for tensors anywhere.
PyObject* RecorderState::Impl::TensorIndex(PyObject* key) {
  if (PyList_Check(key)) {
    if (Prepare(key) != 0) return nullptr;
    bool integers = PyList_GET_SIZE(key) > 0;
    for (Py_ssize_t i = 0; integers && i < PyList_GET_SIZE(key); ++i) {
      integers = PyLong_CheckExact(PyList_GET_ITEM(key, i)) != 0;
    }
    if (!integers) return Py_NewRef(key);
    PyObject* args[] = {key, Names().cpu};
    return Call(Names().tensor_function, args, 1, Names().device_keyword);
  }
  if (!PyTuple_CheckExact(key)) return Py_NewRef(key);
  PyRef parts = PyRef::Steal(PyTuple_New(PyTuple_GET_SIZE(key)));
  for (Py_ssize_t i = 0; parts && i < PyTuple_GET_SIZE(key); ++i) {
    PyObject* item = PyTuple_GET_ITEM(key, i);
    PyObject* part = PyList_Check(item) ? TensorIndex(item) : Py_NewRef(item);
    if (part == nullptr) return nullptr;
    PyTuple_SET_ITEM(parts.get(), i, part);
  }
  return parts.release();
}

PyObject* RecorderState::Impl::GetItem(PyObject* container, PyObject* key) {
  if (IsTensor(container) || IsTensor(key)) {
    if (IsTensor(container)) {
      PyRef index = PyRef::Steal(TensorIndex(key));
      if (!index) return nullptr;
      return CallOperator("getitem", {container, index.get()},
                          [&] { return PyObject_GetItem(container, index.get()); });
    }
    if (!PyDict_Check(container)) {
      return BreakNull(BreakCode::kDataDependent, "a tensor as an index");
    }
  }
  UseAsKey(key);
  if (PyType_Check(container)) return Scan(PyObject_GetItem(container, key));
  if (auto proxy = proxies.find(container); proxy != proxies.end()) {
    PyRef value = PyRef::Steal(PyObject_GetItem(container, key));
    auto* type = reinterpret_cast<PyTypeObject*>(proxy->second.get());
    return value ? LiftTypeAttribute(type, key, value.get()) : nullptr;
  }
  PyTypeObject* type = Py_TYPE(container);
  PyObject* override_ = IsPythonClass(type) ? ShimTypeLookup(type, Names().getitem) : nullptr;
  if (override_ != nullptr && PyFunction_Check(override_)) {
    GuardType(type);
    return Call(override_, {container, key});
  }
  if (PyObject* foreign = ForeignMethod(type, Names().getitem)) {
    PyRef bound = PyRef::Steal(Bind(foreign, container, type, type, Names().getitem));
    return bound ? Call(bound.get(), {key}) : nullptr;
  }
  if (PyDict_Check(container)) return DictGetItem(container, key);
  if (Shadow* shadow = FindShadow(container); shadow != nullptr && shadow->kind == ShadowKind::kList) {
    return ListGetItem(*shadow, key);
  }
  if (!IsOwnContainer(*this, container) && PrepareSlot(container, Names().getitem) != 0) return nullptr;
  return Scan(PyObject_GetItem(container, key));
}

int RecorderState::Impl::SetItem(PyObject* container, PyObject* key, PyObject* value) {
  if (IsTensor(container)) {
    PyRef index = PyRef::Steal(TensorIndex(key));
    if (!index) return -1;
    PyRef done = PyRef::Steal(CallOperator("setitem", {container, index.get(), value}, [&]() -> PyObject* {
      return PyObject_SetItem(container, index.get(), value) == 0 ? Py_NewRef(Py_None) : nullptr;
    }));
    return done ? 0 : -1;
  }
  UseAsKey(key);
  PyTypeObject* type = Py_TYPE(container);
  PyObject* override_ = IsPythonClass(type) ? ShimTypeLookup(type, Names().setitem) : nullptr;
  if (override_ != nullptr && PyFunction_Check(override_)) {
    GuardType(type);
    PyRef done = PyRef::Steal(Call(override_, {container, key, value}));
    return done ? 0 : -1;
  }
  if (PyObject* foreign = ForeignMethod(type, Names().setitem)) {
    PyRef bound = PyRef::Steal(Bind(foreign, container, type, type, Names().setitem));
    PyRef done = PyRef::Steal(bound ? Call(bound.get(), {key, value}) : nullptr);
    return done ? 0 : -1;
  }
  if (Shadow* shadow = FindShadow(container)) {
    if (PyDict_Check(container)) return ShadowDictSet(*shadow, key, value);
    if (FullLift(*shadow) != 0) return -1;
    Touch(*shadow);
    return PyObject_SetItem(container, key, value);
  }
  if (IsOutside(container) && Py_TYPE(container)->tp_as_mapping != nullptr) {
    return BreakInt(BreakCode::kUnsupportedEffect, std::string("an item of ") + type->tp_name + " is set");
  }
  return PyObject_SetItem(container, key, value);
}

int RecorderState::Impl::DelItem(PyObject* container, PyObject* key) {
  UseAsKey(key);
  PyTypeObject* type = Py_TYPE(container);
  PyObject* override_ = IsPythonClass(type) ? ShimTypeLookup(type, Names().delitem) : nullptr;
  if (override_ != nullptr && PyFunction_Check(override_)) {
    GuardType(type);
    PyRef done = PyRef::Steal(Call(override_, {container, key}));
    return done ? 0 : -1;
  }
  if (Shadow* shadow = FindShadow(container)) {
    if (PyDict_Check(container)) return ShadowDictSet(*shadow, key, nullptr);
    if (FullLift(*shadow) != 0) return -1;
    Touch(*shadow);
  } else if (IsOutside(container) && Py_TYPE(container)->tp_as_mapping != nullptr) {
    return BreakInt(BreakCode::kUnsupportedEffect, std::string("an item of ") + type->tp_name + " is deleted");
  }
  return PyObject_DelItem(container, key);
}

int RecorderState::Impl::IsTrue(PyObject* object) {
  if (object == Py_True) return 1;
  if (object == Py_False || object == Py_None) return 0;
  if (SymbolOf(object) != kNoSymbol) {
    PyRef truth =
        PyRef::Steal(ComputeOperator("truth", {object}, [&] { return PyBool_FromLong(PyObject_IsTrue(object)); }));
    return truth ? truth.get() == Py_True : -1;
  }
  if (IsPrimitive(object)) return PyObject_IsTrue(object);
  if (IsTensor(object)) {
    if (std::optional<at::Tensor> known = session.KnownValue(TensorOf(object)); known && known->numel() == 1) {
      if (IsSymbolic()) StayStatic("bool of a tensor");
      FakeSession::Pause pause;
      return known->is_nonzero() ? 1 : 0;
    }
    return BreakInt(BreakCode::kDataDependent, "bool(tensor)");
  }
  if (Shadow* shadow = FindShadow(object); shadow != nullptr && !IsPythonClass(Py_TYPE(object))) {
    GuardLength(*shadow);
    return PyObject_IsTrue(object);
  }
  PyTypeObject* type = Py_TYPE(object);
  GuardType(type);
  PyObject* method = IsPythonClass(type) ? ShimTypeLookup(type, Names().boolean) : nullptr;
  if (method == nullptr && IsPythonClass(type)) method = ShimTypeLookup(type, Names().len);
  if (IsPythonClass(type) && method == nullptr) return 1;
  if (method != nullptr && PyFunction_Check(method)) return PyObject_IsTrue(object);
  if (FindShadow(object) != nullptr) GuardLength(*FindShadow(object));
  if (method != nullptr && FindShadow(object) == nullptr && PrepareSlot(object, Names().len) != 0) return -1;
  if (IsOutside(object) && FindShadow(object) == nullptr && !IsCodeLike(object) && !IsImmutableLeaf(object) &&
      ((type->tp_as_number != nullptr && type->tp_as_number->nb_bool != nullptr) ||
       (type->tp_as_sequence != nullptr && type->tp_as_sequence->sq_length != nullptr) ||
       (type->tp_as_mapping != nullptr && type->tp_as_mapping->mp_length != nullptr))) {
    return BreakInt(BreakCode::kUnsupportedObject, std::string("bool of ") + type->tp_name);
  }
  return PyObject_IsTrue(object);
}

int RecorderState::Impl::Contains(PyObject* container, PyObject* value) {
  if (IsTensor(value)) CompareIdentity(value);
  if (AreNumbers(container, value)) {
    PyRef found = PyRef::Steal(ComputeOperator("contains", {container, value}, [&]() -> PyObject* {
      const int outcome = PySequence_Contains(container, value);
      return outcome < 0 ? nullptr : PyBool_FromLong(outcome);
    }));
    return found ? found.get() == Py_True : -1;
  }
  if (PyDict_Check(container)) {
    UseAsKey(value);  // its keys are fixed, and nothing looks at its values
  } else {
    SpecialiseOperands({container, value});
  }
  if (proxies.contains(container)) return PySequence_Contains(container, value);
  PyTypeObject* type = Py_TYPE(container);
  PyObject* override_ = IsPythonClass(type) ? ShimTypeLookup(type, Names().contains) : nullptr;
  if (override_ != nullptr && PyFunction_Check(override_))
    return GuardType(type), PySequence_Contains(container, value);
  Shadow* shadow = FindShadow(container);
  if (shadow != nullptr && PyDict_Check(container)) return ShadowDictContains(*shadow, value);
  if (IsTensor(container)) {
    return BreakInt(BreakCode::kDataDependent, "membership in a tensor");
  }
  if (PrepareSlot(container, Names().contains) != 0 || PrepareSlot(container, Names().iter) != 0 || Prepare(value) != 0)
    return -1;
  if (IsTensor(value) && (PyTuple_Check(container) || PyList_Check(container))) {
    // Items are compared with ==, which for tensors is data, unless identity answers first.
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(container); ++i) {
      if (PySequence_Fast_GET_ITEM(container, i) == value) return 1;
      if (IsTensor(PySequence_Fast_GET_ITEM(container, i)))
        return BreakInt(BreakCode::kDataDependent, "membership of a tensor");
    }
  }
  const int result = PySequence_Contains(container, value);
  return CheckFailure() != 0 ? -1 : result;
}

Py_ssize_t RecorderState::Impl::Length(PyObject* object) {
  if (IsPrimitive(object)) return PyObject_Length(object);
  if (IsTensor(object)) {
    const at::Tensor& tensor = TensorOf(object);
    if (tensor.dim() == 0) return PyErr_SetString(PyExc_TypeError, "len() of a 0-d tensor"), -1;
    if (IsSymbolic()) StayStatic("the length of a tensor");
    return tensor.size(0);
  }
  if (proxies.contains(object)) return PyObject_Length(object);
  PyTypeObject* type = Py_TYPE(object);
  PyObject* override_ = IsPythonClass(type) ? ShimTypeLookup(type, Names().len) : nullptr;
  if (override_ != nullptr && PyFunction_Check(override_)) return GuardType(type), PyObject_Length(object);
  if (Shadow* shadow = FindShadow(object)) {
    GuardLength(*shadow);
    return PyObject_Length(object);
  }
  if (!IsOwnContainer(*this, object) && PrepareSlot(object, Names().len) != 0) return -1;
  return PyObject_Length(object);
}

PyObject* RecorderState::Impl::GetIter(PyObject* object) {
  if (IsPrimitive(object)) return PyObject_GetIter(object);
  if (IsTensor(object)) {
    if (!IsFakeTensor(object)) return BreakNull(BreakCode::kUnknownTensor, Py_TYPE(object)->tp_name);
    if (TensorOf(object).dim() == 0) return PyErr_SetString(PyExc_TypeError, "iteration over a 0-d tensor"), nullptr;
    NativeCall call{Names().unbind, &object, 1, nullptr};
    PyRef rows = PyRef::Steal(CallTorch(TorchCall::Kind::kMethod, Names().unbind, call,
                                        [&] { return PyObject_CallMethodNoArgs(object, Names().unbind); }));
    return rows ? PyObject_GetIter(rows.get()) : nullptr;
  }
  PyTypeObject* type = Py_TYPE(object);
  GuardType(type);
  PyObject* override_ = ShimTypeLookup(type, Names().iter);
  if (override_ != nullptr && PyFunction_Check(override_)) return PyObject_GetIter(object);
  if (Shadow* shadow = FindShadow(object); shadow != nullptr && PyDict_Check(object)) {
    // Only the keys are seen: values are lifted when they are asked for.
    return GuardKeys(*shadow) != 0 ? nullptr : PyObject_GetIter(object);
  }
  if (override_ == nullptr && IsPythonClass(type)) {
    if (PrepareSlot(object, Names().getitem) != 0) return nullptr;
    return PyObject_GetIter(object);
  }
  if (PyType_Check(object)) return Scan(PyObject_GetIter(object));
  if (PrepareSlot(object, Names().iter) != 0) return nullptr;
  return PyObject_GetIter(object);
}

PyObject* RecorderState::Impl::IterNext(PyObject* iterator) {
  PyTypeObject* type = Py_TYPE(iterator);
  if (type->tp_iternext == nullptr) {
    PyErr_Format(PyExc_TypeError, "'%.200s' object is not an iterator", type->tp_name);
    return nullptr;
  }
  PyObject* override_ = IsPythonClass(type) ? ShimTypeLookup(type, Names().next) : nullptr;
  if (override_ != nullptr && PyFunction_Check(override_)) {
    GuardType(type);
  } else if (IsOutside(iterator)) {
    return BreakNull(BreakCode::kUnsupportedEffect,
                     std::string("an iterator from outside is advanced: ") + type->tp_name);
  }
  SpecialiseIterator(iterator);
  own_call = PyGen_CheckExact(iterator);
  PyObject* item = Scan(type->tp_iternext(iterator));
  own_call = false;
  return CheckFailure() != 0 ? (Py_XDECREF(item), nullptr) : item;
}

PyObject* RecorderState::Impl::AsTuple(PyObject* sequence) {
  if (PyTuple_CheckExact(sequence)) return Py_NewRef(sequence);
  if (Shadow* shadow = FindShadow(sequence); shadow != nullptr && FullLift(*shadow, true) != 0) return nullptr;
  if (PyList_CheckExact(sequence)) return PyList_AsTuple(sequence);
  PyRef iterator = PyRef::Steal(GetIter(sequence));
  PyRef items = PyRef::Steal(iterator ? PyList_New(0) : nullptr);
  if (!items) return nullptr;
  while (PyRef item = PyRef::Steal(IterNext(iterator.get()))) {
    if (PyList_Append(items.get(), item.get()) != 0) return nullptr;
  }
  if (!broken() && PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_StopIteration)) PyErr_Clear();
  return PyErr_Occurred() || broken() ? nullptr : PyList_AsTuple(items.get());
}

}  // namespace framejit
