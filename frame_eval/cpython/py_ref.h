// PyRef: an owned reference to a Python object. Every member that touches a reference count requires the GIL.
#ifndef FRAMEJIT_FRAME_EVAL_CPYTHON_PY_REF_H_
#define FRAMEJIT_FRAME_EVAL_CPYTHON_PY_REF_H_

#include <Python.h>

#include <utility>

namespace framejit {

class PyRef {
 public:
  PyRef() = default;
  PyRef(const PyRef& other) : object_(other.object_) { Py_XINCREF(object_); }
  PyRef(PyRef&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  PyRef& operator=(PyRef other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~PyRef() { Py_XDECREF(object_); }

  // Takes over a new reference (null stays null).
  static PyRef Steal(PyObject* object) {
    PyRef ref;
    ref.object_ = object;
    return ref;
  }
  // Adds a reference to a borrowed object (null stays null).
  static PyRef Borrow(PyObject* object) {
    Py_XINCREF(object);
    return Steal(object);
  }

  PyObject* get() const { return object_; }
  // Gives the reference to the caller.
  PyObject* release() { return std::exchange(object_, nullptr); }
  explicit operator bool() const { return object_ != nullptr; }
  friend bool operator==(const PyRef& a, const PyRef& b) { return a.object_ == b.object_; }

 private:
  PyObject* object_ = nullptr;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_CPYTHON_PY_REF_H_
