// The evaluator of CPython bytecode: its machine state, shared by the opcode groups. Private to graph/capture.
//
// An opcode handler pops its operands into owning references, so that an early return releases them, and pushes what it
// made. Everything that could touch an outside object goes through RecorderState. Stack effects, jumps and exception
// handling mirror Python/ceval.c (3.11) and Python/bytecodes.c (3.12, 3.13). Opcodes that all three minors have are in
// one place, with what differs beside them; those that some minor lacks are in evaluator_versions.cc.
#ifndef FRAMEJIT_GRAPH_CAPTURE_FRAME_EVALUATOR_H_
#define FRAMEJIT_GRAPH_CAPTURE_FRAME_EVALUATOR_H_

#include <Python.h>

#include <cstdint>

#include "absl/types/span.h"
#include "frame_eval/cpython/frame_view.h"
#include "frame_eval/cpython/py_ref.h"
#include "frame_eval/cpython/shim.h"
#include "graph/capture/recorder_state.h"

namespace framejit {

inline constexpr int kMinor = PY_MINOR_VERSION;

enum class Flow : uint8_t {
  kNext,    // go on at `next`
  kError,   // an exception (or a break) happened at this instruction
  kUnwind,  // an exception is raised again: its traceback already has this frame
  kLeave,   // the instruction leaves the frame: CPython executes it
};

struct FrameEvaluator {
  RecorderState& recorder;
  LiveFrame* live;  // what the recorder knows of this frame
  PyThreadState* thread;
  FrameView frame;
  PyCodeObject* code;
  PyFunctionObject* function;
  PyObject* globals;  // borrowed from the frame, as the next two
  PyObject* builtins;
  PyObject* frame_locals;  // mapping of a class body or of code made from text, else null
  PyObject** locals;       // fast locals, cells and free variables
  PyObject** stack_base;
  PyObject** sp;
  ShimCodeUnit** instruction_slot;  // where tracebacks and f_lineno look
  const uint16_t* first = nullptr;  // code units
  const uint16_t* next = nullptr;   // the next instruction
  int offset = 0;                   // of the instruction being executed, in code units
  PyObject* kwnames = nullptr;      // set by KW_NAMES for the CALL that follows; borrowed from the constants

  // Of a frame that was entered in the middle: `code` is the user's, the frame's own is what enters there.
  const ResumedCode* entered = nullptr;
  PyRef original_code;  // where tools have changed the opcodes of `code`: the bytes that `first` points to

  // Goes over to `user_code`, whose instructions are read from now on.
  void ReadCode(PyCodeObject* user_code) {
    code = user_code;
    first = reinterpret_cast<const ShimCodeUnit*>(code->co_code_adaptive);
    if (!ShimIsInstrumented(code)) return;
    original_code = PyRef::Steal(PyCode_GetCode(code));
    if (!original_code) return PyErr_Clear();
    first = reinterpret_cast<const ShimCodeUnit*>(PyBytes_AS_STRING(original_code.get()));
  }
  bool resumed() const { return entered != nullptr; }
  void Push(PyObject* stolen) { *sp++ = stolen; }
  PyRef Pop() { return PyRef::Steal(*--sp); }
  PyObject*& Top() { return sp[-1]; }
  // The n-th value from the top, starting at 1.
  PyObject*& Peek(int n) { return sp[-n]; }
  PyObject* Name(int index) const { return PyTuple_GET_ITEM(code->co_names, index); }
  PyObject* Constant(int index) const { return PyTuple_GET_ITEM(code->co_consts, index); }
  PyObject* LocalName(int index) const { return PyTuple_GET_ITEM(code->co_localsplusnames, index); }
  void Jump(int delta) { next += delta; }
  // Drops `count` values.
  void Drop(int count) {
    while (count-- > 0) Py_XDECREF(*--sp);
  }
  // Pushes a new reference; null means failure.
  Flow PushResult(PyObject* value) {
    if (value == nullptr) return Flow::kError;
    Push(value);
    return Flow::kNext;
  }
  // Pushes (stolen) what a call finds: a function and the receiver of a method, or a callable and null for the
  // receiver.
  void PushCallable(PyObject* callable, PyObject* receiver) {
    const bool null_below = kMinor < 13 && receiver == nullptr;
    Push(null_below ? nullptr : callable);
    Push(null_below ? callable : receiver);
  }
  // What a name was found to be (stolen; null means failure): for a call, or as a value.
  Flow PushFound(PyObject* value, bool to_be_called) {
    if (value == nullptr) return Flow::kError;
    if (to_be_called) {
      PushCallable(value, nullptr);
    } else {
      Push(value);
    }
    return Flow::kNext;
  }
  // What f_lasti and the next traceback entry say. Of a frame that was entered in the middle, `first` is not the
  // frame's own code.
  void SetLastInstruction(int unit) {
    PyCodeObject* own = code;
    if (resumed()) {
      own = frame.code();
      unit = entered->offsets[static_cast<size_t>(unit)];
    }
    *instruction_slot = reinterpret_cast<ShimCodeUnit*>(own->co_code_adaptive) + unit;
  }
  // An opcode, or a use of one, that is not captured.
  Flow BreakAt(BreakCode break_code, const char* detail) {
    recorder.Break(break_code, detail);
    return Flow::kError;
  }
};

using OpcodeHandler = Flow (*)(FrameEvaluator&, int arg);
struct OpcodeRow {
  uint8_t opcode;
  OpcodeHandler handler;
};

// The opcode groups. Together they hold every opcode that is captured.
absl::Span<const OpcodeRow> StackOpcodes();      // evaluator_stack.cc: stack, locals, cells, names
absl::Span<const OpcodeRow> ContainerOpcodes();  // evaluator_containers.cc: build, extend, unpack, format
absl::Span<const OpcodeRow> ControlOpcodes();    // evaluator_control.cc: operators, jumps, iteration, generators
absl::Span<const OpcodeRow> CallOpcodes();       // evaluator_calls.cc: calls, functions, attributes, imports
absl::Span<const OpcodeRow> ExceptionOpcodes();  // evaluator_exceptions.cc: raise, handlers, with
absl::Span<const OpcodeRow> MatchOpcodes();      // evaluator_match.cc: class and mapping patterns
absl::Span<const OpcodeRow> VersionOpcodes();    // evaluator_versions.cc: what not every minor has

// Handlers that opcodes of several groups share.
Flow Nop(FrameEvaluator& f, int arg);
Flow Leave(FrameEvaluator& f, int arg);
Flow LoadFast(FrameEvaluator& f, int arg);
Flow LoadDeref(FrameEvaluator& f, int arg);
Flow RaiseUnboundLocal(FrameEvaluator& f, int index);
// 1 and the value (new) of `name` in a namespace, or 0, or -1 for an error or a break.
int NamespaceItem(FrameEvaluator& f, PyObject* name_space, PyObject* name, PyObject** value);
// What a try statement with except* raises at its end, or None: of the exception that it caught, and those that its
// clauses raised or did not take.
PyObject* PrepareRaiseOfGroup(FrameEvaluator& f, PyObject* original, PyObject* raised);
// Replaces the object on top of the stack by its method `name`, in the form that a call expects.
Flow LoadMethod(FrameEvaluator& f, PyObject* name);
// Pushes a container that the frame has made (stolen; null means failure).
Flow PushLocal(FrameEvaluator& f, PyObject* object);
// Calls `callable` with `total` arguments on top of the stack, those named by `kwnames` (or null) last, and replaces
// the topmost `drop` values by the result.
Flow CallWithStack(FrameEvaluator& f, PyObject* callable, int total, PyObject* kwnames, int drop);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_CAPTURE_FRAME_EVALUATOR_H_
