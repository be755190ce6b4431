// ArgumentBinder: puts the arguments of a vectorcall into the parameter slots of a Python function, as CPython's own
// binding does, without running user code. Whatever CPython would refuse is left to CPython, whose TypeError it is.
#ifndef FRAMEJIT_FRAME_EVAL_ARGUMENT_BINDER_H_
#define FRAMEJIT_FRAME_EVAL_ARGUMENT_BINDER_H_

#include <Python.h>

#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/types/span.h"
#include "frame_eval/cpython/py_ref.h"

namespace framejit {

// The slots of one call: borrowed from the caller, but for the fresh *args tuple and **kwargs dict, which it owns.
class BoundArguments {
 public:
  absl::Span<PyObject* const> slots() const { return slots_; }

 private:
  friend class ArgumentBinder;
  absl::InlinedVector<PyObject*, 12> slots_;
  PyRef star_args_;
  PyRef star_kwargs_;
};

class ArgumentBinder {
 public:
  // `code` is borrowed and must outlive the binder (the function holds it, unless its __code__ is replaced; see
  // Matches).
  explicit ArgumentBinder(PyCodeObject* code);

  // False where the call must go to CPython itself: wrong arguments, or no memory. No exception is set.
  // `function` says which parameters have defaults.
  bool Bind(PyFunctionObject* function, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames,
            BoundArguments& bound) const;

  bool Matches(PyFunctionObject* function) const {
    return function->func_code == reinterpret_cast<PyObject*>(code_.get());
  }
  // Parameter names by slot; *args and **kwargs last.
  std::vector<std::string> Names() const;

 private:
  int SlotOf(PyObject* name) const;
  bool BindKeywords(PyObject* const* values, PyObject* kwnames, BoundArguments& bound) const;
  bool DefaultsCover(PyFunctionObject* function, const BoundArguments& bound) const;

  PyRef code_;
  int positional_only_;
  int positional_;  // positional-only ones included
  int keyword_only_;
  int args_slot_ = -1;
  int kwargs_slot_ = -1;
  std::vector<PyRef> names_;  // interned
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_ARGUMENT_BINDER_H_
