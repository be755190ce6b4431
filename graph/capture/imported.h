// Objects of Python modules, by name.
#ifndef FRAMEJIT_GRAPH_CAPTURE_IMPORTED_H_
#define FRAMEJIT_GRAPH_CAPTURE_IMPORTED_H_

#include "frame_eval/cpython/py_ref.h"

namespace framejit {

// The attribute `name` of the module, which is imported if need be. Null with an exception set.
inline PyRef ImportedAttribute(const char* module, const char* name) {
  PyRef imported = PyRef::Steal(PyImport_ImportModule(module));
  return PyRef::Steal(imported ? PyObject_GetAttrString(imported.get(), name) : nullptr);
}

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_CAPTURE_IMPORTED_H_
