// Opcodes of the match statement that look into their subject. Mirrors match_class, match_class_attr and match_keys of
// CPython's Python/ceval.c over the recorder's protocol functions.
#include <opcode.h>

#include <initializer_list>

#include "graph/capture/frame_evaluator.h"
#include "graph/capture/imported.h"

namespace framejit {
namespace {

PyRef CallBuiltin(FrameEvaluator& f, const char* name, std::initializer_list<PyObject*> args) {
  PyRef callable = ImportedAttribute("builtins", name);
  if (!callable) return PyRef();
  return PyRef::Steal(f.recorder.Call(callable.get(), args.begin(), static_cast<Py_ssize_t>(args.size()), nullptr));
}

// Appends subject.name: 1, or 0 where there is no such attribute, or -1 for an error.
int MatchAttribute(FrameEvaluator& f, PyObject* subject, PyTypeObject* type, PyObject* name, PyObject* seen,
                   PyObject* values) {
  const int twice = PySet_Contains(seen, name);
  if (twice < 0) return -1;
  if (twice > 0) {
    PyErr_Format(PyExc_TypeError, "%s() got multiple sub-patterns for attribute %R", type->tp_name, name);
    return -1;
  }
  if (PySet_Add(seen, name) != 0) return -1;
  PyRef value = PyRef::Steal(f.recorder.GetAttr(subject, name));
  if (value) return PyList_Append(values, value.get()) == 0 ? 1 : -1;
  if (f.recorder.broken() || !PyErr_ExceptionMatches(PyExc_AttributeError)) return -1;
  PyErr_Clear();
  return 0;
}

// The names of the positional sub-patterns; an empty tuple with *whole true where the subject itself is matched.
PyRef PositionalNames(FrameEvaluator& f, PyTypeObject* type, bool* whole) {
  PyRef name = PyRef::Steal(PyUnicode_InternFromString("__match_args__"));
  if (!name) return PyRef();
  PyRef names = PyRef::Steal(f.recorder.GetAttr(reinterpret_cast<PyObject*>(type), name.get()));
  if (names && !PyTuple_CheckExact(names.get())) {
    PyErr_Format(PyExc_TypeError, "%s.__match_args__ must be a tuple (got %s)", type->tp_name,
                 Py_TYPE(names.get())->tp_name);
    return PyRef();
  }
  if (names || f.recorder.broken() || !PyErr_ExceptionMatches(PyExc_AttributeError)) return names;
  PyErr_Clear();
  *whole = PyType_HasFeature(type, _Py_TPFLAGS_MATCH_SELF);
  return PyRef::Steal(PyTuple_New(0));
}

int MatchPositional(FrameEvaluator& f, PyObject* subject, PyTypeObject* type, Py_ssize_t count, PyObject* seen,
                    PyObject* values) {
  bool whole = false;
  PyRef names = PositionalNames(f, type, &whole);
  if (!names) return -1;
  const Py_ssize_t allowed = whole ? 1 : PyTuple_GET_SIZE(names.get());
  if (allowed < count) {
    PyErr_Format(PyExc_TypeError, "%s() accepts %zd positional sub-pattern%s (%zd given)", type->tp_name, allowed,
                 allowed == 1 ? "" : "s", count);
    return -1;
  }
  if (whole) return PyList_Append(values, subject) == 0 ? 1 : -1;
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* name = PyTuple_GET_ITEM(names.get(), i);
    if (!PyUnicode_CheckExact(name)) {
      PyErr_Format(PyExc_TypeError, "__match_args__ elements must be strings (got %s)", Py_TYPE(name)->tp_name);
      return -1;
    }
    if (const int found = MatchAttribute(f, subject, type, name, seen, values); found != 1) return found;
  }
  return 1;
}

// Fills `values`: 1, or 0 where the pattern does not match, or -1 for an error.
int MatchClassInto(FrameEvaluator& f, PyObject* subject, PyObject* pattern, Py_ssize_t count, PyObject* names,
                   PyObject* values) {
  if (!PyType_Check(pattern)) {
    PyErr_SetString(PyExc_TypeError, "called match pattern must be a class");
    return -1;
  }
  PyRef is_instance = CallBuiltin(f, "isinstance", {subject, pattern});
  if (!is_instance) return -1;
  if (is_instance.get() != Py_True) return 0;
  auto* type = reinterpret_cast<PyTypeObject*>(pattern);
  PyRef seen = PyRef::Steal(PySet_New(nullptr));
  if (!seen) return -1;
  if (count > 0) {
    if (const int found = MatchPositional(f, subject, type, count, seen.get(), values); found != 1) return found;
  }
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); ++i) {
    PyObject* name = PyTuple_GET_ITEM(names, i);
    if (const int found = MatchAttribute(f, subject, type, name, seen.get(), values); found != 1) return found;
  }
  return 1;
}

// A tuple of the values that matched, or None.
PyObject* Matched(int found, const PyRef& values) {
  if (found < 0) return nullptr;
  return found == 0 ? Py_NewRef(Py_None) : PyList_AsTuple(values.get());
}

Flow MatchClass(FrameEvaluator& f, int arg) {
  PyRef names = f.Pop();
  PyRef pattern = f.Pop();
  PyRef subject = f.Pop();
  PyRef values = PyRef::Steal(PyList_New(0));
  if (!values) return Flow::kError;
  const int found = MatchClassInto(f, subject.get(), pattern.get(), arg, names.get(), values.get());
  return f.PushResult(Matched(found, values));
}

int MatchKeysInto(FrameEvaluator& f, PyObject* subject, PyObject* keys, PyObject* values) {
  PyRef seen = PyRef::Steal(PySet_New(nullptr));
  PyRef name = PyRef::Steal(PyUnicode_InternFromString("get"));
  PyRef absent = CallBuiltin(f, "object", {});
  if (!seen || !name || !absent) return -1;
  PyRef get = PyRef::Steal(f.recorder.GetAttr(subject, name.get()));
  if (!get) return -1;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(keys); ++i) {
    PyObject* key = PyTuple_GET_ITEM(keys, i);
    const int twice = PySet_Contains(seen.get(), key);
    if (twice > 0) PyErr_Format(PyExc_ValueError, "mapping pattern checks duplicate key (%R)", key);
    if (twice != 0 || PySet_Add(seen.get(), key) != 0) return -1;
    PyObject* args[] = {key, absent.get()};
    PyRef value = PyRef::Steal(f.recorder.Call(get.get(), args, 2, nullptr));
    if (!value) return -1;
    if (value.get() == absent.get()) return 0;
    if (PyList_Append(values, value.get()) != 0) return -1;
  }
  return 1;
}

Flow MatchKeys(FrameEvaluator& f, int) {
  PyRef values = PyRef::Steal(PyList_New(0));
  if (!values) return Flow::kError;
  const int found = MatchKeysInto(f, f.Peek(2), f.Top(), values.get());
  return f.PushResult(Matched(found, values));
}

constexpr OpcodeRow kRows[] = {
    {MATCH_CLASS, MatchClass},
    {MATCH_KEYS, MatchKeys},
};

}  // namespace

absl::Span<const OpcodeRow> MatchOpcodes() { return kRows; }

}  // namespace framejit
