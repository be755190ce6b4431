#include "frame_eval/argument_binder.h"

#include <algorithm>

namespace framejit {

ArgumentBinder::ArgumentBinder(PyCodeObject* code)
    : code_(PyRef::Borrow(reinterpret_cast<PyObject*>(code))),
      positional_only_(code->co_posonlyargcount),
      positional_(code->co_argcount),
      keyword_only_(code->co_kwonlyargcount) {
  int slots = positional_ + keyword_only_;
  if (code->co_flags & CO_VARARGS) args_slot_ = slots++;
  if (code->co_flags & CO_VARKEYWORDS) kwargs_slot_ = slots++;
  for (int i = 0; i < slots; ++i) names_.push_back(PyRef::Borrow(PyTuple_GET_ITEM(code->co_localsplusnames, i)));
}

std::vector<std::string> ArgumentBinder::Names() const {
  std::vector<std::string> names;
  for (const PyRef& name : names_) {
    const char* text = PyUnicode_AsUTF8(name.get());
    if (text == nullptr) PyErr_Clear();
    names.emplace_back(text == nullptr ? "?" : text);
  }
  return names;
}

// The slot a keyword may fill, or -1. Names are compared by identity first, which interning makes the usual case.
int ArgumentBinder::SlotOf(PyObject* name) const {
  int count = positional_ + keyword_only_;
  for (int i = positional_only_; i < count; ++i) {
    if (names_[static_cast<size_t>(i)].get() == name) return i;
  }
  for (int i = positional_only_; i < count; ++i) {
    if (PyUnicode_Compare(names_[static_cast<size_t>(i)].get(), name) == 0) return i;
  }
  return -1;
}

bool ArgumentBinder::BindKeywords(PyObject* const* values, PyObject* kwnames, BoundArguments& bound) const {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kwnames); ++i) {
    PyObject* name = PyTuple_GET_ITEM(kwnames, i);
    if (!PyUnicode_CheckExact(name)) return false;
    int slot = SlotOf(name);
    if (slot >= 0) {
      if (bound.slots_[static_cast<size_t>(slot)] != nullptr) return false;
      bound.slots_[static_cast<size_t>(slot)] = values[i];
      continue;
    }
    if (kwargs_slot_ < 0 || PyDict_SetItem(bound.star_kwargs_.get(), name, values[i]) < 0) return false;
  }
  return true;
}

bool ArgumentBinder::DefaultsCover(PyFunctionObject* function, const BoundArguments& bound) const {
  Py_ssize_t defaults = function->func_defaults == nullptr ? 0 : PyTuple_GET_SIZE(function->func_defaults);
  for (int i = 0; i < positional_ - static_cast<int>(std::min<Py_ssize_t>(defaults, positional_)); ++i) {
    if (bound.slots_[static_cast<size_t>(i)] == nullptr) return false;
  }
  for (int i = positional_; i < positional_ + keyword_only_; ++i) {
    if (bound.slots_[static_cast<size_t>(i)] != nullptr) continue;
    PyObject* keywords = function->func_kwdefaults;
    if (keywords == nullptr || PyDict_GetItemWithError(keywords, names_[static_cast<size_t>(i)].get()) == nullptr) {
      return false;
    }
  }
  return true;
}

bool ArgumentBinder::Bind(PyFunctionObject* function, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames,
                          BoundArguments& bound) const {
  bound.slots_.assign(names_.size(), nullptr);
  Py_ssize_t taken = std::min<Py_ssize_t>(nargs, positional_);
  for (Py_ssize_t i = 0; i < taken; ++i) bound.slots_[static_cast<size_t>(i)] = args[i];
  if (nargs > taken && args_slot_ < 0) return false;
  bool complete = true;
  if (args_slot_ >= 0) {
    bound.star_args_ = PyRef::Steal(PyTuple_New(nargs - taken));
    complete = static_cast<bool>(bound.star_args_);
    for (Py_ssize_t i = taken; complete && i < nargs; ++i) {
      PyTuple_SET_ITEM(bound.star_args_.get(), i - taken, Py_NewRef(args[i]));
    }
    bound.slots_[static_cast<size_t>(args_slot_)] = bound.star_args_.get();
  }
  if (complete && kwargs_slot_ >= 0) {
    bound.star_kwargs_ = PyRef::Steal(PyDict_New());
    complete = static_cast<bool>(bound.star_kwargs_);
    bound.slots_[static_cast<size_t>(kwargs_slot_)] = bound.star_kwargs_.get();
  }
  if (complete && kwnames != nullptr) complete = BindKeywords(args + nargs, kwnames, bound);
  if (complete) complete = DefaultsCover(function, bound);
  if (!complete && PyErr_Occurred() != nullptr) PyErr_Clear();
  return complete;
}

}  // namespace framejit
