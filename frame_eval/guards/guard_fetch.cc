#include "frame_eval/guards/guard_fetch.h"

#include <torch/csrc/Device.h>
#include <torch/csrc/autograd/python_variable.h>

#include <cmath>
#include <cstring>

#include "frame_eval/cpython/shim.h"
#include "frame_eval/guards/iterators.h"
#include "frame_eval/guards/native_value.h"
#include "frame_eval/guards/tensor_check.h"

namespace framejit {
namespace {

// Mirrors partialobject of Modules/_functoolsmodule.c (CPython 3.11 to 3.13), as far as it is read here.
struct PartialObject {
  PyObject_HEAD PyObject* function;
  PyObject* arguments;
  PyObject* keywords;
};

// An attribute of a module of the standard library, looked up once; immortal.
PyTypeObject* ImportType(const char* module_name, const char* name) {
  PyRef module = PyRef::Steal(PyImport_ImportModule(module_name));
  PyObject* type = module ? PyObject_GetAttrString(module.get(), name) : nullptr;
  if (type == nullptr || !PyType_Check(type)) {
    PyErr_Clear();
    Py_XDECREF(type);
    return nullptr;
  }
  return reinterpret_cast<PyTypeObject*>(type);
}

PyTypeObject* PartialType() {
  static PyTypeObject* type = ImportType("functools", "partial");
  return type;
}

bool IsImmutableConstant(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  if (type == &PyTuple_Type) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(object); ++i) {
      if (!IsImmutableConstant(PyTuple_GET_ITEM(object, i))) return false;
    }
    return true;
  }
  return type == &PyLong_Type || type == &PyFloat_Type || type == &PyBool_Type || type == &PyBytes_Type ||
         type == &PyFrozenSet_Type || type == &PyUnicode_Type || type == &PyComplex_Type || object == Py_None ||
         object == Py_Ellipsis;
}

PyObject* Keep(PyObject* object, std::vector<PyRef>& owned) {
  if (object == nullptr) {
    PyErr_Clear();  // absent; what the getter says about it is not ours to raise
    return nullptr;
  }
  owned.push_back(PyRef::Steal(object));
  return object;
}

PyObject* FetchInstanceDict(PyObject* parent) {
  PyObject** slot = _PyObject_GetDictPtr(parent);
  if (slot == nullptr) return nullptr;
  if (*slot != nullptr) return *slot;
  // An instance without attributes has no dict yet; to say which keys it lacks, it must have one.
  PyRef dict = PyRef::Steal(PyObject_GenericGetDict(parent, nullptr));
  if (!dict) PyErr_Clear();
  slot = _PyObject_GetDictPtr(parent);
  return slot == nullptr ? nullptr : *slot;
}

PyObject* FetchDequeItem(PyObject* parent, int32_t index, std::vector<PyRef>& owned) {
  PyTypeObject* deque = DequeType();
  if (deque == nullptr || !PyObject_TypeCheck(parent, deque) || index >= Py_SIZE(parent)) return nullptr;
  return Keep(deque->tp_as_sequence->sq_item(parent, index), owned);
}

PyObject* FetchFromFunction(const FetchKey& source, PyObject* parent) {
  if (!PyFunction_Check(parent)) return nullptr;
  auto* function = reinterpret_cast<PyFunctionObject*>(parent);
  if (source.kind == SourceKind::kGlobals) return function->func_globals;
  if (source.kind == SourceKind::kBuiltins) return function->func_builtins;
  if (source.kind == SourceKind::kCell) {
    PyObject* closure = function->func_closure;
    if (closure == nullptr || source.index >= PyTuple_GET_SIZE(closure)) return nullptr;
    return PyTuple_GET_ITEM(closure, source.index);
  }
  if (source.kind == SourceKind::kDefault) {
    PyObject* defaults = function->func_defaults;
    if (defaults == nullptr || source.index >= PyTuple_GET_SIZE(defaults)) return nullptr;
    return PyTuple_GET_ITEM(defaults, source.index);
  }
  PyObject* keywords = function->func_kwdefaults;
  PyObject* key = source.key.get();
  return keywords == nullptr || key == nullptr ? nullptr : DictItem(keywords, key, source.hash);
}

PyObject* FetchPartialField(PyObject* parent, int32_t index) {
  PyTypeObject* type = PartialType();
  if (type == nullptr || !PyObject_TypeCheck(parent, type)) return nullptr;
  auto* partial = reinterpret_cast<PartialObject*>(parent);
  return index == 0 ? partial->function : index == 1 ? partial->arguments : partial->keywords;
}

PyObject* FetchGrad(PyObject* parent, std::vector<PyRef>& owned) {
  const at::Tensor* tensor = TensorOrNull(parent);
  if (tensor == nullptr) return nullptr;
  const at::Tensor& grad = tensor->grad();
  return grad.defined() ? Keep(THPVariable_Wrap(grad), owned) : Py_None;
}

}  // namespace

PyTypeObject* DequeType() {
  static PyTypeObject* type = ImportType("collections", "deque");
  return type;
}

Holder::Holder(PyObject* object) {
  if (object == nullptr) return;
  bool static_type =
      PyType_Check(object) && !PyType_HasFeature(reinterpret_cast<PyTypeObject*>(object), Py_TPFLAGS_HEAPTYPE);
  if (!static_type && !IsImmutableConstant(object) && PyType_SUPPORTS_WEAKREFS(Py_TYPE(object))) {
    ref_ = PyRef::Steal(PyWeakref_NewRef(object, nullptr));
    weak_ = static_cast<bool>(ref_);
    if (weak_) return;
    PyErr_Clear();
  }
  ref_ = PyRef::Borrow(object);
}

PyObject* Fetch(const FetchKey& source, PyObject* parent, const CallState& state, std::vector<PyRef>& owned) {
  if (SourceHasParent(source.kind) && parent == nullptr) return nullptr;
  switch (source.kind) {
    case SourceKind::kArgument:
      return static_cast<size_t>(source.index) < state.slots.size() ? state.slots[source.index] : nullptr;
    case SourceKind::kFunction:
      return state.function;
    case SourceKind::kPinned:
      return source.key.get();
    case SourceKind::kGlobals:
    case SourceKind::kBuiltins:
    case SourceKind::kCell:
    case SourceKind::kDefault:
    case SourceKind::kKwDefault:
      return FetchFromFunction(source, parent);
    case SourceKind::kCellContents:
      return PyCell_Check(parent) ? PyCell_GET(parent) : nullptr;
    case SourceKind::kInstanceDict:
      return FetchInstanceDict(parent);
    case SourceKind::kAttribute: {
      PyObject* name = source.key.get();
      return name == nullptr ? nullptr : Keep(PyObject_GenericGetAttr(parent, name), owned);
    }
    case SourceKind::kTypeAttribute: {
      PyObject* name = source.key.get();
      if (name == nullptr || !PyType_Check(parent)) return nullptr;
      PyObject* found = _PyType_Lookup(reinterpret_cast<PyTypeObject*>(parent), name);
      if (found == nullptr || Py_TYPE(found) != &PyStaticMethod_Type) return found;
      return Keep(PyObject_GetAttrString(found, "__func__"), owned);
    }
    case SourceKind::kDictItem: {
      PyObject* key = source.key.get();
      return key == nullptr || !PyDict_Check(parent) ? nullptr : DictItem(parent, key, source.hash);
    }
    case SourceKind::kListItem:
      return PyList_Check(parent) && source.index < PyList_GET_SIZE(parent) ? PyList_GET_ITEM(parent, source.index)
                                                                            : nullptr;
    case SourceKind::kTupleItem:
      return PyTuple_Check(parent) && source.index < PyTuple_GET_SIZE(parent) ? PyTuple_GET_ITEM(parent, source.index)
                                                                              : nullptr;
    case SourceKind::kDequeItem:
      return FetchDequeItem(parent, source.index, owned);
    case SourceKind::kMethodSelf:
      return PyMethod_Check(parent) ? PyMethod_GET_SELF(parent) : nullptr;
    case SourceKind::kMethodFunction:
      return PyMethod_Check(parent) ? PyMethod_GET_FUNCTION(parent) : nullptr;
    case SourceKind::kPartialField:
      return FetchPartialField(parent, source.index);
    case SourceKind::kIteratorParts:
      return IsPlainIterator(parent) ? Keep(IteratorParts(parent).release(), owned) : nullptr;
    case SourceKind::kNativeValue:
      return Keep(NativeValue(parent).release(), owned);
    case SourceKind::kWeakReferent: {
      if (!PyWeakref_CheckRef(parent)) return nullptr;
      return PyWeakref_GET_OBJECT(parent);
    }
    case SourceKind::kTensorGrad:
      return FetchGrad(parent, owned);
  }
  return nullptr;
}

bool ConstantsEqual(PyObject* expected, PyObject* actual) {
  if (expected == actual) return true;
  if (expected == nullptr || actual == nullptr || Py_TYPE(expected) != Py_TYPE(actual)) return false;
  PyTypeObject* type = Py_TYPE(expected);
  if (type == &PyFloat_Type) {
    double a = PyFloat_AS_DOUBLE(expected), b = PyFloat_AS_DOUBLE(actual);
    return !std::isnan(a) && std::memcmp(&a, &b, sizeof(a)) == 0;
  }
  if (type == &PyComplex_Type) {
    Py_complex a = reinterpret_cast<PyComplexObject*>(expected)->cval,
               b = reinterpret_cast<PyComplexObject*>(actual)->cval;
    return !std::isnan(a.real) && !std::isnan(a.imag) && std::memcmp(&a, &b, sizeof(a)) == 0;
  }
  if (type == &PyLong_Type || type == &PyUnicode_Type || type == &PyBytes_Type || type == &PyRange_Type) {
    int equal = PyObject_RichCompareBool(expected, actual, Py_EQ);
    if (equal < 0) PyErr_Clear();
    return equal == 1;
  }
  if (PyTuple_Check(expected)) {
    if (PyTuple_GET_SIZE(expected) != PyTuple_GET_SIZE(actual)) return false;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(expected); ++i) {
      if (!ConstantsEqual(PyTuple_GET_ITEM(expected, i), PyTuple_GET_ITEM(actual, i))) return false;
    }
    return true;
  }
  if (type == &PySlice_Type) {
    auto* a = reinterpret_cast<PySliceObject*>(expected);
    auto* b = reinterpret_cast<PySliceObject*>(actual);
    return ConstantsEqual(a->start, b->start) && ConstantsEqual(a->stop, b->stop) && ConstantsEqual(a->step, b->step);
  }
  if (type == &PyFrozenSet_Type) return SetEqualsConstants(actual, expected);
  if (THPDevice_Check(expected)) {
    return reinterpret_cast<THPDevice*>(expected)->device == reinterpret_cast<THPDevice*>(actual)->device;
  }
  return false;
}

Py_ssize_t BuiltinLength(PyObject* object) {
  if (PyTuple_Check(object) || PyList_Check(object) || PyBytes_Check(object)) return Py_SIZE(object);
  if (PyDict_Check(object)) return PyDict_GET_SIZE(object);
  if (PyAnySet_Check(object)) return PySet_GET_SIZE(object);
  if (PyUnicode_Check(object)) return PyUnicode_GET_LENGTH(object);
  PyTypeObject* deque = DequeType();
  return deque != nullptr && PyObject_TypeCheck(object, deque) ? Py_SIZE(object) : -1;
}

bool DictKeysAre(PyObject* dict, PyObject* keys) {
  Py_ssize_t size = PyTuple_GET_SIZE(keys);
  if (PyDict_GET_SIZE(dict) != size) return false;
  auto same = [](PyObject* a, PyObject* b) { return a == b || ConstantsEqual(a, b); };
  if (PyODict_Check(dict)) {
    // The order of an OrderedDict is in its own linked list. The base type's iterator, so that no override runs.
    PyRef iterator = PyRef::Steal(PyODict_Type.tp_iter(dict));
    for (Py_ssize_t i = 0; iterator && i < size; ++i) {
      PyRef key = PyRef::Steal(PyIter_Next(iterator.get()));
      if (!key || !same(PyTuple_GET_ITEM(keys, i), key.get())) return false;
    }
    return static_cast<bool>(iterator);
  }
  Py_ssize_t position = 0;
  PyObject *key, *value;
  for (Py_ssize_t i = 0; PyDict_Next(dict, &position, &key, &value); ++i) {
    if (i >= size || !same(PyTuple_GET_ITEM(keys, i), key)) return false;
  }
  return true;
}

bool SetEqualsConstants(PyObject* set, PyObject* expected) {
  if (!PyAnySet_Check(set) || !PyAnySet_Check(expected) || PySet_GET_SIZE(set) != PySet_GET_SIZE(expected))
    return false;
  Py_ssize_t position = 0;
  PyObject* item;
  Py_hash_t hash;
  while (_PySet_NextEntry(set, &position, &item, &hash)) {
    // Sets of constants are small; a linear search compares types as well, which hashing would not.
    Py_ssize_t other_position = 0;
    PyObject* other;
    Py_hash_t other_hash;
    bool found = false;
    while (!found && _PySet_NextEntry(expected, &other_position, &other, &other_hash)) {
      found = hash == other_hash && ConstantsEqual(other, item);
    }
    if (!found) return false;
  }
  return true;
}

}  // namespace framejit
