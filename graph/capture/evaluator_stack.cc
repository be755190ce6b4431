// Opcodes that move values: stack, fast locals, cells, globals and names of class bodies.
#include <opcode.h>

#include "graph/capture/frame_evaluator.h"
#include "graph/capture/raise.h"

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

Flow Nop(FrameEvaluator&, int) { return Flow::kNext; }

namespace {

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
  RaiseNameError("cannot access free variable '%U' where it is not associated with a value in enclosing scope",
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

// The namespace of a class body or of code made from text: a dict that the recording made, or what a metaclass's
// __prepare__ gave, or the shadow of a dict from outside.
bool HasPlainNamespace(const FrameEvaluator& f) {
  return PyDict_CheckExact(f.frame_locals) && !f.recorder.IsOutside(f.frame_locals);
}

Flow NoNamespace(FrameEvaluator& f) { return f.BreakAt(BreakCode::kUnsupportedOpcode, "a frame without a namespace"); }

}  // namespace

int NamespaceItem(FrameEvaluator& f, PyObject* name_space, PyObject* name, PyObject** value) {
  if (PyDict_CheckExact(name_space) && !f.recorder.IsOutside(name_space)) {
    *value = Py_XNewRef(PyDict_GetItemWithError(name_space, name));
  } else {
    *value = f.recorder.GetItem(name_space, name);
    if (*value == nullptr && !f.recorder.broken() && PyErr_ExceptionMatches(PyExc_KeyError)) PyErr_Clear();
  }
  if (*value != nullptr) return 1;
  return PyErr_Occurred() != nullptr || f.recorder.broken() ? -1 : 0;
}

namespace {

Flow LoadName(FrameEvaluator& f, int arg) {
  if (f.frame_locals == nullptr) return NoNamespace(f);
  PyObject* value = nullptr;
  const int found = NamespaceItem(f, f.frame_locals, f.Name(arg), &value);
  return f.PushResult(found == 0 ? f.recorder.LoadGlobal(f.globals, f.builtins, f.Name(arg)) : value);
}

Flow StoreName(FrameEvaluator& f, int arg) {
  PyRef value = f.Pop();
  if (f.frame_locals == nullptr) return NoNamespace(f);
  const int status = HasPlainNamespace(f) ? PyDict_SetItem(f.frame_locals, f.Name(arg), value.get())
                                          : f.recorder.SetItem(f.frame_locals, f.Name(arg), value.get());
  return status != 0 ? Flow::kError : Flow::kNext;
}

Flow DeleteName(FrameEvaluator& f, int arg) {
  if (f.frame_locals == nullptr) return NoNamespace(f);
  const int status = HasPlainNamespace(f) ? PyDict_DelItem(f.frame_locals, f.Name(arg))
                                          : f.recorder.DelItem(f.frame_locals, f.Name(arg));
  if (status == 0) return Flow::kNext;
  if (!f.recorder.broken()) {
    PyErr_Clear();
    RaiseNameError("name '%U' is not defined", f.Name(arg));
  }
  return Flow::kError;
}

Flow SetupAnnotations(FrameEvaluator& f, int) {
  if (f.frame_locals == nullptr) return NoNamespace(f);
  PyRef name = PyRef::Steal(PyUnicode_InternFromString("__annotations__"));
  PyObject* value = nullptr;
  const int found = name ? NamespaceItem(f, f.frame_locals, name.get(), &value) : -1;
  PyRef annotations = PyRef::Steal(found == 0 ? PyDict_New() : value);
  if (found != 0) return found < 0 ? Flow::kError : Flow::kNext;
  if (!annotations || f.recorder.SetItem(f.frame_locals, name.get(), annotations.get()) != 0) return Flow::kError;
  return Flow::kNext;
}

constexpr OpcodeRow kRows[] = {
    {NOP, Nop},
    {RESUME, Nop},
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
