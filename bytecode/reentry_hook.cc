#include "bytecode/reentry_hook.h"

namespace framejit {
namespace {

struct ReentryHook {
  PyObject_HEAD PyObject* hook;
};

PyObject* Invert(PyObject* self) { return PyObject_CallNoArgs(reinterpret_cast<ReentryHook*>(self)->hook); }

void Dealloc(PyObject* self) {
  Py_DECREF(reinterpret_cast<ReentryHook*>(self)->hook);
  Py_TYPE(self)->tp_free(self);
}

// Without its address, for printed code.
PyObject* Repr(PyObject*) { return PyUnicode_FromString("<re-entry hook>"); }

PyNumberMethods number_methods = {.nb_invert = Invert};

PyTypeObject MakeHookType() {
  PyTypeObject type = {PyVarObject_HEAD_INIT(nullptr, 0)};
  type.tp_name = "framejit.reentry_hook";
  type.tp_basicsize = sizeof(ReentryHook);
  type.tp_dealloc = Dealloc;
  type.tp_repr = Repr;
  type.tp_as_number = &number_methods;
  type.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION;
  return type;
}
// Not a garbage collector's type: it is reached from code objects only, and those are not either.
PyTypeObject hook_type = MakeHookType();

}  // namespace

PyRef WrapReentryHook(const PyRef& hook) {
  if (!hook) return PyRef();
  ReentryHook* wrapper = PyType_Ready(&hook_type) == 0 ? PyObject_New(ReentryHook, &hook_type) : nullptr;
  if (wrapper == nullptr) {
    PyErr_Clear();
    return PyRef();
  }
  wrapper->hook = Py_NewRef(hook.get());
  return PyRef::Steal(reinterpret_cast<PyObject*>(wrapper));
}

}  // namespace framejit
