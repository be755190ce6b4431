// Exceptions as CPython's own code raises them: the fields `name` and `obj` of AttributeError and NameError, the key of
// KeyError.
#ifndef FRAMEJIT_GRAPH_CAPTURE_RAISE_H_
#define FRAMEJIT_GRAPH_CAPTURE_RAISE_H_

#include <Python.h>

namespace framejit {

// Of the exception that is set, if it is an AttributeError that does not say yet what was asked for.
inline void NoteMissingAttribute(PyObject* object, PyObject* name) {
  if (!PyErr_ExceptionMatches(PyExc_AttributeError)) return;
  PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  auto* error = reinterpret_cast<PyAttributeErrorObject*>(value);
  if (PyErr_GivenExceptionMatches(value, PyExc_AttributeError) != 0 && error->name == nullptr &&
      error->obj == nullptr) {
    error->name = Py_NewRef(name);
    error->obj = Py_NewRef(object);
  }
  PyErr_Restore(type, value, traceback);
}

// Raises KeyError with the key as its only argument: None and tuples as they are too.
inline void RaiseKeyError(PyObject* key) {
  PyObject* arguments = PyTuple_Pack(1, key);
  if (arguments == nullptr) return;
  PyErr_SetObject(PyExc_KeyError, arguments);
  Py_DECREF(arguments);
}

// Raises NameError with a text of one %U.
inline void RaiseNameError(const char* format, PyObject* name) {
  PyErr_Format(PyExc_NameError, format, name);
  PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  if (PyErr_GivenExceptionMatches(value, PyExc_NameError) != 0)
    Py_XSETREF(reinterpret_cast<PyNameErrorObject*>(value)->name, Py_NewRef(name));
  PyErr_Restore(type, value, traceback);
}

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_CAPTURE_RAISE_H_
