// Opcodes that call and that look up what is called: attributes, calls, functions made by the frame, imports, yield.
#include <opcode.h>

#include <vector>

#include "graph/capture/frame_evaluator.h"
#include "graph/capture/resume.h"

namespace framejit {

Flow LoadMethod(FrameEvaluator& f, PyObject* name) {
  PyRef object = f.Pop();
  PyObject* method = nullptr;
  int unbound = f.recorder.GetMethod(object.get(), name, &method);
  if (unbound < 0 || method == nullptr) return Flow::kError;
  f.PushCallable(method, unbound ? object.release() : nullptr);
  return Flow::kNext;
}

namespace {

Flow LoadAttribute(FrameEvaluator& f, PyObject* name) {
  PyRef object = f.Pop();
  return f.PushResult(f.recorder.GetAttr(object.get(), name));
}

// From 3.12 on the lowest bit of the operand says that a method is about to be called; 3.11 has an opcode for that.
Flow LoadAttr(FrameEvaluator& f, int arg) {
  if (kMinor < 12) return LoadAttribute(f, f.Name(arg));
  return (arg & 1) != 0 ? LoadMethod(f, f.Name(arg >> 1)) : LoadAttribute(f, f.Name(arg >> 1));
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

// Before 3.13 the keyword names are in a register that KW_NAMES sets; the stack holds a method and its receiver, or
// null and the callable. From 3.13 on it holds the callable and a receiver or null.
Flow Call(FrameEvaluator& f, int arg) {
  PyObject* kwnames = std::exchange(f.kwnames, nullptr);
  if (kMinor >= 13) {
    const int total = arg + (f.Peek(arg + 1) != nullptr ? 1 : 0);
    return CallWithStack(f, f.Peek(arg + 2), total, kwnames, arg + 2);
  }
  const int total = arg + (f.Peek(arg + 2) != nullptr ? 1 : 0);
  return CallWithStack(f, f.Peek(total + 1), total, kwnames, arg + 2);
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
  if (kMinor >= 13) f.Pop();  // the null above the callable
  PyRef callable = f.Pop();
  if (kMinor < 13) f.Pop();  // the null below the callable
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
    if (Py_TYPE(args.get())->tp_iter == nullptr && !PySequence_Check(args.get()))
      return f.BreakAt(BreakCode::kUnsupportedOpcode, "an error in * unpacking");
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
  // From 3.13 on the operand is not used: SET_FUNCTION_ATTRIBUTE follows.
  if (kMinor >= 13) arg = 0;
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
    {CALL, Call},
    {CALL_FUNCTION_EX, CallFunctionEx},
    {MAKE_FUNCTION, MakeFunction},
    {LOAD_BUILD_CLASS, LoadBuildClass},
    {IMPORT_NAME, ImportName},
    {IMPORT_FROM, ImportFrom},
};

// super() takes the class out of the frame's closure, unseen. False where the recording cannot go on.
bool ReadClassOfSuper(FrameEvaluator& f) {
  const std::vector<int> slots = SlotsOfSuper(f.code);
  if (slots.empty()) return true;
  const int cell = slots[1], closure = f.code->co_nlocalsplus - f.code->co_nfreevars;
  const PyRef read = PyRef::Steal(f.recorder.LoadCell(f.locals[cell], f.function, cell - closure));
  return read || !(f.recorder.broken() || PyErr_Occurred());
}

}  // namespace

Flow CallWithStack(FrameEvaluator& f, PyObject* callable, int total, PyObject* kwnames, int drop) {
  const Py_ssize_t keywords = kwnames != nullptr ? PyTuple_GET_SIZE(kwnames) : 0;
  if (total == 0 && callable == reinterpret_cast<PyObject*>(&PySuper_Type) && !ReadClassOfSuper(f)) return Flow::kError;
  PyObject* result = f.recorder.Call(callable, f.sp - total, total - keywords, kwnames);
  f.Drop(drop);
  return f.PushResult(result);
}

absl::Span<const OpcodeRow> CallOpcodes() { return kRows; }

}  // namespace framejit
