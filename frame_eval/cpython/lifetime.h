// Whether a program can tell when an object dies. Frames that are left and entered again carry such objects even where
// no instruction will read them.
#ifndef FRAMEJIT_FRAME_EVAL_CPYTHON_LIFETIME_H_
#define FRAMEJIT_FRAME_EVAL_CPYTHON_LIFETIME_H_

#include <Python.h>

namespace framejit {

// Instances of classes with a __del__, and those that are referred to weakly. Of classes and functions weak references
// are common, and nothing is made of them.
inline bool DeathIsSeen(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  if ((type->tp_flags & Py_TPFLAGS_HEAPTYPE) == 0 || PyType_Check(object)) return false;
  if (type->tp_finalize != nullptr) return true;
  if (type->tp_weaklistoffset == 0) return false;
  return *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + type->tp_weaklistoffset) != nullptr;
}

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_CPYTHON_LIFETIME_H_
