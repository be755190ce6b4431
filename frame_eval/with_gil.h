// Owners of Python objects that the last owner may drop in any thread, with or without the GIL.
#ifndef FRAMEJIT_FRAME_EVAL_WITH_GIL_H_
#define FRAMEJIT_FRAME_EVAL_WITH_GIL_H_

#include <Python.h>

#include <memory>
#include <utility>

namespace framejit {

template <typename T>
std::shared_ptr<T> SharedWithGil(T value) {
  return std::shared_ptr<T>(new T(std::move(value)), [](T* owned) {
    if (!Py_IsInitialized()) return;
    PyGILState_STATE state = PyGILState_Ensure();
    delete owned;
    PyGILState_Release(state);
  });
}

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_WITH_GIL_H_
