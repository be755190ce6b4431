// The evaluator of CPython 3.11 bytecode: its machine state, shared by the opcode groups. Private to graph/capture.
//
// An opcode handler pops its operands into owning references, so that an early return releases them, and pushes what it
// made. Everything that could touch an outside object goes through RecorderState. Stack effects, jumps and exception
// handling mirror Python/ceval.c of CPython 3.11.
#ifndef FRAMEJIT_GRAPH_CAPTURE_FRAME_EVALUATOR_V3_11_H_
#define FRAMEJIT_GRAPH_CAPTURE_FRAME_EVALUATOR_V3_11_H_

#include <Python.h>

#include <cstdint>

#include "absl/types/span.h"
#include "frame_eval/cpython/frame_view.h"
#include "frame_eval/cpython/py_ref.h"
#include "graph/capture/recorder_state.h"

namespace framejit {

enum class Flow : uint8_t {
  kNext,    // go on at `next`
  kError,   // an exception (or a break) happened at this instruction
  kUnwind,  // an exception is raised again: its traceback already has this frame
  kReturn,  // leave the frame with `result`
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
  PyObject* frame_locals;  // mapping of a class body, else null
  PyObject** locals;       // fast locals, cells and free variables
  PyObject** stack_base;
  PyObject** sp;
  _Py_CODEUNIT** instruction_slot;  // where tracebacks and f_lineno look
  const uint16_t* first;            // code units
  const uint16_t* next;             // the next instruction
  int offset = 0;                   // of the instruction being executed, in code units
  PyObject* kwnames = nullptr;      // set by KW_NAMES for the CALL that follows; borrowed from the constants
  // False for a frame that was entered in the middle: `code` is the user's, the frame's is what enters there.
  bool runs_own_code = true;
  PyRef result;

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
  // What f_lasti and the next traceback entry say.
  void SetLastInstruction(int unit) {
    if (runs_own_code) *instruction_slot = const_cast<_Py_CODEUNIT*>(first) + unit;
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
absl::Span<const OpcodeRow> StackOpcodes();      // evaluator_v3_11_stack.cc: stack, locals, cells, names
absl::Span<const OpcodeRow> ContainerOpcodes();  // evaluator_v3_11_containers.cc: build, extend, unpack, format
absl::Span<const OpcodeRow> ControlOpcodes();    // evaluator_v3_11_control.cc: operators, jumps, iteration, generators
absl::Span<const OpcodeRow> CallOpcodes();       // evaluator_v3_11_calls.cc: calls, functions, attributes, imports
absl::Span<const OpcodeRow> ExceptionOpcodes();  // evaluator_v3_11_exceptions.cc: raise, handlers, with
absl::Span<const OpcodeRow> MatchOpcodes();      // evaluator_v3_11_match.cc: class and mapping patterns

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_CAPTURE_FRAME_EVALUATOR_V3_11_H_
