// Special methods of a class that are neither Python functions nor what the C type below it has: a class may say
// `__setattr__ = dict.__setitem__`.
#ifndef FRAMEJIT_GRAPH_CAPTURE_FOREIGN_METHOD_H_
#define FRAMEJIT_GRAPH_CAPTURE_FOREIGN_METHOD_H_

#include "graph/capture/recorder_impl.h"

namespace framejit {

// Such a method `name` of `type`, or null. Borrowed.
inline PyObject* ForeignMethod(PyTypeObject* type, PyObject* name) {
  PyObject* found = IsPythonClass(type) ? ShimTypeLookup(type, name) : nullptr;
  if (found == nullptr || found == Py_None || PyFunction_Check(found)) return nullptr;
  const bool is_native = Py_TYPE(found) == &PyWrapperDescr_Type || Py_TYPE(found) == &PyMethodDescr_Type;
  if (is_native && PyUnicode_Compare(reinterpret_cast<PyDescrObject*>(found)->d_name, name) == 0) return nullptr;
  return found;
}

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_CAPTURE_FOREIGN_METHOD_H_
