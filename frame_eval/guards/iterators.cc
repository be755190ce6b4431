#include "frame_eval/guards/iterators.h"

namespace framejit {
namespace {

const char* DictView(PyTypeObject* type) {
  if (type == &PyDictIterKey_Type) return "keys";
  if (type == &PyDictIterValue_Type) return "values";
  if (type == &PyDictIterItem_Type) return "items";
  return nullptr;
}

bool IsOverSequence(PyTypeObject* type) {
  return type == &PyListIter_Type || type == &PyTupleIter_Type || type == &PyRangeIter_Type ||
         type == &PyUnicodeIter_Type || type == &PyListRevIter_Type || type == &PyReversed_Type;
}

int KeepDict(PyObject* object, void* found) {
  if (PyDict_Check(object)) *static_cast<PyObject**>(found) = object;
  return 0;
}

// The dict is known to the iterator's traversal alone; how far it came, to its length hint.
PyRef DictIteratorParts(PyObject* iterator) {
  PyObject* dict = nullptr;
  Py_TYPE(iterator)->tp_traverse(iterator, KeepDict, &dict);
  PyRef held = PyRef::Borrow(dict);
  if (dict == nullptr) held = PyRef::Steal(PyDict_New());  // exhausted
  if (!held) return {};
  const Py_ssize_t left = PyObject_LengthHint(iterator, 0);
  if (left < 0) return {};
  const Py_ssize_t passed = PyDict_GET_SIZE(held.get()) - left;
  if (left == 0 && passed > 0) {
    // At the end, or the dict was changed in between: __reduce__ asks a copy, which raises then.
    PyRef rest = PyRef::Steal(PyObject_CallMethod(iterator, "__reduce__", nullptr));
    if (!rest) return {};
  }
  PyRef position = PyRef::Steal(PyLong_FromSsize_t(passed));
  return position ? PyRef::Steal(PyTuple_Pack(2, held.get(), position.get())) : PyRef();
}

// (callable, arguments[, position]) -> (container, position), or the arguments of zip and enumerate.
PyRef PartsFromReduce(PyObject* iterator) {
  PyRef reduced = PyRef::Steal(PyObject_CallMethod(iterator, "__reduce__", nullptr));
  if (!reduced || !PyTuple_Check(reduced.get()) || PyTuple_GET_SIZE(reduced.get()) < 2) return {};
  PyObject* arguments = PyTuple_GET_ITEM(reduced.get(), 1);
  if (!IsOverSequence(Py_TYPE(iterator))) return PyRef::Borrow(arguments);
  if (!PyTuple_Check(arguments) || PyTuple_GET_SIZE(arguments) != 1) return {};
  // Of an exhausted iterator there is no position; its container is an empty one. The container of a range iterator is,
  // from 3.12 on, the range that is left.
  const bool has_position = PyTuple_GET_SIZE(reduced.get()) > 2 && PyTuple_GET_ITEM(reduced.get(), 2) != Py_None;
  PyRef position = has_position ? PyRef::Borrow(PyTuple_GET_ITEM(reduced.get(), 2)) : PyRef::Steal(PyLong_FromLong(0));
  return position ? PyRef::Steal(PyTuple_Pack(2, PyTuple_GET_ITEM(arguments, 0), position.get())) : PyRef();
}

bool IsStrictZip(PyObject* iterator) {
  PyRef reduced = PyRef::Steal(PyObject_CallMethod(iterator, "__reduce__", nullptr));
  if (!reduced) PyErr_Clear();
  return !reduced || PyTuple_GET_SIZE(reduced.get()) > 2;
}

PyObject* MakeDictIterator(const char* view_name, PyObject* dict, Py_ssize_t passed) {
  auto* type = reinterpret_cast<PyObject*>(&PyDict_Type);
  PyRef view = PyRef::Steal(PyObject_CallMethod(type, view_name, "O", dict));
  PyRef iterator = PyRef::Steal(view ? PyObject_GetIter(view.get()) : nullptr);
  for (; iterator && passed > 0; --passed) {
    if (!PyRef::Steal(PyIter_Next(iterator.get()))) {
      if (!PyErr_Occurred()) PyErr_SetString(PyExc_RuntimeError, "a dict lost items");
      return nullptr;
    }
  }
  return iterator.release();
}

PyObject* MakeSequenceIterator(PyTypeObject* type, PyObject* container, PyObject* position) {
  const bool backwards = type == &PyListRevIter_Type || type == &PyReversed_Type;
  PyRef iterator =
      PyRef::Steal(backwards ? PyObject_CallOneArg(reinterpret_cast<PyObject*>(&PyReversed_Type), container)
                             : PyObject_GetIter(container));
  // An empty container has no position to go to; setting one backwards would move it before the end.
  if (!iterator || PyObject_Size(container) == 0) return iterator.release();
  PyRef done = PyRef::Steal(PyObject_CallMethod(iterator.get(), "__setstate__", "O", position));
  return done ? iterator.release() : nullptr;
}

}  // namespace

bool IsPlainIterator(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  if (type == &PyZip_Type) return !IsStrictZip(object);
  return IsOverSequence(type) || DictView(type) != nullptr || type == &PyEnum_Type;
}

PyRef IteratorParts(PyObject* iterator) {
  PyRef parts = DictView(Py_TYPE(iterator)) != nullptr ? DictIteratorParts(iterator) : PartsFromReduce(iterator);
  if (!parts && !PyErr_Occurred()) PyErr_SetString(PyExc_RuntimeError, "an iterator in an unknown state");
  return parts;
}

PyObject* MakeIterator(PyTypeObject* type, PyObject* parts) {
  if (type == &PyZip_Type || type == &PyEnum_Type) return PyObject_CallObject(reinterpret_cast<PyObject*>(type), parts);
  PyObject* container = PyTuple_GET_ITEM(parts, 0);
  PyObject* position = PyTuple_GET_ITEM(parts, 1);
  if (const char* view = DictView(type); view != nullptr) {
    const Py_ssize_t passed = PyLong_AsSsize_t(position);
    return passed == -1 && PyErr_Occurred() ? nullptr : MakeDictIterator(view, container, passed);
  }
  return MakeSequenceIterator(type, container, position);
}

}  // namespace framejit
