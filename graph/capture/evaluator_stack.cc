// Opcodes that move values: stack, fast locals, cells, globals and names of class bodies.
#include <opcode.h>

#include "graph/capture/frame_evaluator.h"

namespace framejit {

Flow RaiseUnboundLocal(FrameEvaluator& f, int index) {
  PyErr_Format(PyExc_UnboundLocalError, "cannot access local variable '%U' where it is not associated with a value",
               f.LocalName(index));
  return Flow::kError;
}

Flow LoadFast(FrameEvaluator& f, int arg) {
  PyObject* value = f.locals[arg];
  if (value == nullptr) return RaiseUnboundLocal(f, arg);
  f.Push(Py_NewRef(value));
  return Flow::kNext;
}

namespace {

Flow Nop(FrameEvaluator&, int) { return Flow::kNext; }

Flow PopTop(FrameEvaluator& f, int) {
  f.Pop();
  return Flow::kNext;
}

Flow PushNull(FrameEvaluator& f, int) {
  f.Push(nullptr);
  return Flow::kNext;
}

Flow Copy(FrameEvaluator& f, int arg) {
  f.Push(Py_XNewRef(f.Peek(arg)));
  return Flow::kNext;
}

Flow Swap(FrameEvaluator& f, int arg) {
  std::swap(f.Top(), f.Peek(arg));
  return Flow::kNext;
}

Flow LoadConst(FrameEvaluator& f, int arg) {
  f.Push(Py_NewRef(f.Constant(arg)));
  return Flow::kNext;
}

Flow StoreFast(FrameEvaluator& f, int arg) {
  PyRef old = PyRef::Steal(f.locals[arg]);
  f.locals[arg] = f.Pop().release();
  return Flow::kNext;
}

Flow DeleteFast(FrameEvaluator& f, int arg) {
  if (f.locals[arg] == nullptr) return RaiseUnboundLocal(f, arg);
  PyRef old = PyRef::Steal(std::exchange(f.locals[arg], nullptr));
  return Flow::kNext;
}

// --- cells -----------------------------------------------------------------------------------------------------------

int ClosureStart(const FrameEvaluator& f) { return f.code->co_nlocalsplus - f.code->co_nfreevars; }

Flow MakeCell(FrameEvaluator& f, int arg) {
  PyObject* cell = PyCell_New(f.locals[arg]);
  if (cell == nullptr) return Flow::kError;
  PyRef old = PyRef::Steal(std::exchange(f.locals[arg], cell));
  f.recorder.NewLocalCell(cell);
  return Flow::kNext;
}

Flow CopyFreeVars(FrameEvaluator& f, int arg) {
  PyObject* closure = f.function->func_closure;
  for (int i = 0; i < arg; ++i) f.locals[f.code->co_nlocalsplus - arg + i] = Py_NewRef(PyTuple_GET_ITEM(closure, i));
  return Flow::kNext;
}

Flow RaiseUnboundCell(FrameEvaluator& f, int index) {
  if (index < ClosureStart(f)) return RaiseUnboundLocal(f, index);
  PyErr_Format(PyExc_NameError,
               "cannot access free variable '%U' where it is not associated with a value in enclosing scope",
               f.LocalName(index));
  return Flow::kError;
}

}  // namespace

Flow LoadDeref(FrameEvaluator& f, int arg) {
  PyObject* value = f.recorder.LoadCell(f.locals[arg], f.function, arg - ClosureStart(f));
  if (value == nullptr && !PyErr_Occurred() && !f.recorder.broken()) return RaiseUnboundCell(f, arg);
  return f.PushResult(value);
}

namespace {

Flow StoreDeref(FrameEvaluator& f, int arg) {
  PyRef value = f.Pop();
  int failed = f.recorder.StoreCell(f.locals[arg], f.function, arg - ClosureStart(f), value.get());
  return failed != 0 ? Flow::kError : Flow::kNext;
}

Flow DeleteDeref(FrameEvaluator& f, int arg) {
  PyRef old = PyRef::Steal(f.recorder.LoadCell(f.locals[arg], f.function, arg - ClosureStart(f)));
  if (!old) return PyErr_Occurred() || f.recorder.broken() ? Flow::kError : RaiseUnboundCell(f, arg);
  int failed = f.recorder.StoreCell(f.locals[arg], f.function, arg - ClosureStart(f), nullptr);
  return failed != 0 ? Flow::kError : Flow::kNext;
}

// --- globals and class bodies ----------------------------------------------------------------------------------------

Flow LoadGlobal(FrameEvaluator& f, int arg) {
  return f.PushFound(f.recorder.LoadGlobal(f.globals, f.builtins, f.Name(arg >> 1)), (arg & 1) != 0);
}

Flow StoreGlobal(FrameEvaluator& f, int arg) {
  PyRef value = f.Pop();
  return f.recorder.StoreGlobal(f.globals, f.Name(arg), value.get()) != 0 ? Flow::kError : Flow::kNext;
}

Flow DeleteGlobal(FrameEvaluator& f, int arg) {
  return f.recorder.StoreGlobal(f.globals, f.Name(arg), nullptr) != 0 ? Flow::kError : Flow::kNext;
}

// The namespace of a class body is a dict that the recording made (a metaclass's __prepare__ may give another mapping).
bool HasPlainNamespace(const FrameEvaluator& f) {
  return f.frame_locals != nullptr && PyDict_CheckExact(f.frame_locals);
}

Flow LoadName(FrameEvaluator& f, int arg) {
  if (!HasPlainNamespace(f)) return f.BreakAt(BreakCode::kUnsupportedOpcode, "class body with a special namespace");
  PyObject* value = PyDict_GetItemWithError(f.frame_locals, f.Name(arg));
  if (value != nullptr) return f.PushResult(Py_NewRef(value));
  if (PyErr_Occurred()) return Flow::kError;
  return f.PushResult(f.recorder.LoadGlobal(f.globals, f.builtins, f.Name(arg)));
}

Flow StoreName(FrameEvaluator& f, int arg) {
  PyRef value = f.Pop();
  if (!HasPlainNamespace(f)) return f.BreakAt(BreakCode::kUnsupportedOpcode, "class body with a special namespace");
  return PyDict_SetItem(f.frame_locals, f.Name(arg), value.get()) != 0 ? Flow::kError : Flow::kNext;
}

Flow DeleteName(FrameEvaluator& f, int arg) {
  if (!HasPlainNamespace(f)) return f.BreakAt(BreakCode::kUnsupportedOpcode, "class body with a special namespace");
  if (PyDict_DelItem(f.frame_locals, f.Name(arg)) == 0) return Flow::kNext;
  PyErr_Format(PyExc_NameError, "name '%U' is not defined", f.Name(arg));
  return Flow::kError;
}

Flow SetupAnnotations(FrameEvaluator& f, int) {
  if (!HasPlainNamespace(f)) return f.BreakAt(BreakCode::kUnsupportedOpcode, "class body with a special namespace");
  PyRef name = PyRef::Steal(PyUnicode_InternFromString("__annotations__"));
  PyRef annotations = PyRef::Steal(PyDict_New());
  if (!name || !annotations) return Flow::kError;
  return PyDict_SetDefault(f.frame_locals, name.get(), annotations.get()) == nullptr ? Flow::kError : Flow::kNext;
}

constexpr OpcodeRow kRows[] = {
    {NOP, Nop},
    {RESUME, Nop},
#if PY_VERSION_HEX < 0x030C0000
    {PRECALL, Nop},
#endif
    {POP_TOP, PopTop},
    {PUSH_NULL, PushNull},
    {COPY, Copy},
    {SWAP, Swap},
    {LOAD_CONST, LoadConst},
    {LOAD_FAST, LoadFast},
    {STORE_FAST, StoreFast},
    {DELETE_FAST, DeleteFast},
    {MAKE_CELL, MakeCell},
    {COPY_FREE_VARS, CopyFreeVars},
#if PY_VERSION_HEX < 0x030D0000
    {LOAD_CLOSURE, LoadFast},
#endif
    {LOAD_DEREF, LoadDeref},
    {STORE_DEREF, StoreDeref},
    {DELETE_DEREF, DeleteDeref},
    {LOAD_GLOBAL, LoadGlobal},
    {STORE_GLOBAL, StoreGlobal},
    {DELETE_GLOBAL, DeleteGlobal},
    {LOAD_NAME, LoadName},
    {STORE_NAME, StoreName},
    {DELETE_NAME, DeleteName},
    {SETUP_ANNOTATIONS, SetupAnnotations},
};

}  // namespace

absl::Span<const OpcodeRow> StackOpcodes() { return kRows; }

}  // namespace framejit
