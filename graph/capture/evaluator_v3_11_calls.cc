// Opcodes that call and that look up what is called: attributes, calls, functions made by the frame, imports, yield.
#include <opcode.h>

#include <vector>

#include "graph/capture/frame_evaluator_v3_11.h"

extern "C" int _PyDict_MergeEx(PyObject* dict, PyObject* other, int override_mode);  // Objects/dictobject.c, 3.11

namespace framejit {
namespace {

Flow LoadAttr(FrameEvaluator& f, int arg) {
  PyRef object = f.Pop();
  return f.PushResult(f.recorder.GetAttr(object.get(), f.Name(arg)));
}

Flow StoreAttr(FrameEvaluator& f, int arg) {
  PyRef object = f.Pop();
  PyRef value = f.Pop();
  return f.recorder.SetAttr(object.get(), f.Name(arg), value.get()) != 0 ? Flow::kError : Flow::kNext;
}

Flow DeleteAttr(FrameEvaluator& f, int arg) {
  PyRef object = f.Pop();
  return f.recorder.SetAttr(object.get(), f.Name(arg), nullptr) != 0 ? Flow::kError : Flow::kNext;
}

Flow LoadMethod(FrameEvaluator& f, int arg) {
  PyRef object = f.Pop();
  PyObject* method = nullptr;
  int unbound = f.recorder.GetMethod(object.get(), f.Name(arg), &method);
  if (unbound < 0 || method == nullptr) return Flow::kError;
  f.Push(unbound ? method : nullptr);
  f.Push(unbound ? object.release() : method);
  return Flow::kNext;
}

Flow KwNames(FrameEvaluator& f, int arg) {
  f.kwnames = f.Constant(arg);
  return Flow::kNext;
}

Flow Call(FrameEvaluator& f, int arg) {
  PyObject* kwnames = std::exchange(f.kwnames, nullptr);
  const bool is_method = f.Peek(arg + 2) != nullptr;
  const int total = arg + (is_method ? 1 : 0);
  const Py_ssize_t keywords = kwnames != nullptr ? PyTuple_GET_SIZE(kwnames) : 0;
  PyObject* result = f.recorder.Call(f.Peek(total + 1), f.sp - total, total - keywords, kwnames);
  f.Drop(arg + 2);
  return f.PushResult(result);
}

// f(*args, **kwargs) with the keywords spread behind the positional arguments, as vectorcall wants them.
PyObject* CallSpread(FrameEvaluator& f, PyObject* callable, PyObject* args, PyObject* kwargs) {
  Py_ssize_t positional = PyTuple_GET_SIZE(args);
  Py_ssize_t keywords = kwargs != nullptr ? PyDict_GET_SIZE(kwargs) : 0;
  std::vector<PyObject*> values(static_cast<size_t>(positional + keywords + 1));
  for (Py_ssize_t i = 0; i < positional; ++i) values[static_cast<size_t>(i)] = PyTuple_GET_ITEM(args, i);
  if (keywords == 0) return f.recorder.Call(callable, values.data(), positional, nullptr);
  PyRef kwnames = PyRef::Steal(PyTuple_New(keywords));
  if (!kwnames) return nullptr;
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  Py_ssize_t cursor = 0;
  for (Py_ssize_t i = 0; PyDict_Next(kwargs, &cursor, &key, &value); ++i) {
    if (!PyUnicode_Check(key)) {
      PyErr_SetString(PyExc_TypeError, "keywords must be strings");
      return nullptr;
    }
    PyTuple_SET_ITEM(kwnames.get(), i, Py_NewRef(key));
    values[static_cast<size_t>(positional + i)] = value;
  }
  return f.recorder.Call(callable, values.data(), positional, kwnames.get());
}

Flow CallFunctionEx(FrameEvaluator& f, int arg) {
  PyRef kwargs = (arg & 1) != 0 ? f.Pop() : PyRef();
  PyRef args = f.Pop();
  PyRef callable = f.Pop();
  f.Pop();  // the NULL below the callable
  if (kwargs) {
    if (f.recorder.PrepareForC(kwargs.get()) < 0) return Flow::kError;
    // A copy: the dict may change while the call reads it.
    PyRef copy = PyRef::Steal(PyDict_New());
    if (!copy) return Flow::kError;
    if (_PyDict_MergeEx(copy.get(), kwargs.get(), 2) != 0) {
      return f.BreakAt(BreakCode::kUnsupportedOpcode, "an error in ** unpacking");
    }
    kwargs = std::move(copy);
  }
  if (!PyTuple_CheckExact(args.get())) {
    args = PyRef::Steal(f.recorder.AsTuple(args.get()));
    if (!args) return Flow::kError;
  }
  return f.PushResult(CallSpread(f, callable.get(), args.get(), kwargs.get()));
}

Flow MakeFunction(FrameEvaluator& f, int arg) {
  PyRef code = f.Pop();
  PyRef function = PyRef::Steal(PyFunction_New(code.get(), f.globals));
  if (!function) return Flow::kError;
  auto* object = reinterpret_cast<PyFunctionObject*>(function.get());
  if (arg & 0x08) object->func_closure = f.Pop().release();
  if (arg & 0x04) object->func_annotations = f.Pop().release();
  if (arg & 0x02) object->func_kwdefaults = f.Pop().release();
  if (arg & 0x01) object->func_defaults = f.Pop().release();
  f.recorder.NewLocal(function.get());
  f.Push(function.release());
  return Flow::kNext;
}

Flow LoadBuildClass(FrameEvaluator& f, int) {
  PyRef name = PyRef::Steal(PyUnicode_InternFromString("__build_class__"));
  if (!name) return Flow::kError;
  return f.PushResult(f.recorder.LoadGlobal(f.builtins, f.builtins, name.get()));
}

Flow ImportName(FrameEvaluator& f, int arg) {
  PyRef fromlist = f.Pop();
  PyRef level = f.Pop();
  return f.PushResult(f.recorder.ImportName(f.Name(arg), f.globals, fromlist.get(), level.get()));
}

Flow ImportFrom(FrameEvaluator& f, int arg) { return f.PushResult(f.recorder.GetAttr(f.Top(), f.Name(arg))); }

constexpr OpcodeRow kRows[] = {
    {LOAD_ATTR, LoadAttr},
    {STORE_ATTR, StoreAttr},
    {DELETE_ATTR, DeleteAttr},
    {LOAD_METHOD, LoadMethod},
    {KW_NAMES, KwNames},
    {CALL, Call},
    {CALL_FUNCTION_EX, CallFunctionEx},
    {MAKE_FUNCTION, MakeFunction},
    {LOAD_BUILD_CLASS, LoadBuildClass},
    {IMPORT_NAME, ImportName},
    {IMPORT_FROM, ImportFrom},
};

}  // namespace

absl::Span<const OpcodeRow> CallOpcodes() { return kRows; }

}  // namespace framejit
