// The evaluator's loop: dispatch, exceptions, entering and leaving a frame. Mirrors _PyEval_EvalFrameDefault of
// Python/ceval.c (3.11 to 3.13). The opcodes are in evaluator_*.cc.
//
// The instruction that leaves the frame with a value is executed by CPython itself, so that suspending a generator and,
// from 3.12 on, freeing the frame are its own doing.
#include "graph/capture/evaluator.h"

#include <Python.h>
#include <frameobject.h>
#include <opcode.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "bytecode/exception_table.h"
#include "bytecode/print.h"
#include "graph/capture/frame_evaluator.h"
#include "graph/capture/unread.h"

namespace framejit {
namespace {

std::array<OpcodeHandler, 256> BuildHandlers() {
  std::array<OpcodeHandler, 256> handlers{};
  for (auto group : {StackOpcodes(), ContainerOpcodes(), ControlOpcodes(), CallOpcodes(), ExceptionOpcodes(),
                     MatchOpcodes(), VersionOpcodes()}) {
    for (const OpcodeRow& row : group) handlers[row.opcode] = row.handler;
  }
  return handlers;
}

FrameEvaluator MakeEvaluator(RecorderState& recorder, PyThreadState* thread, FrameView frame) {
  PyCodeObject* code = frame.code();
  const int start = frame.next_offset();
  FrameEvaluator f{
      .recorder = recorder,
      .live = nullptr,
      .thread = thread,
      .frame = frame,
      .code = code,
      .function = frame.function(),
      .globals = frame.globals(),
      .builtins = frame.builtins(),
      .frame_locals = ShimFrameLocals(frame.get()),
      .locals = frame.localsplus(),
      .stack_base = frame.stack_base(),
      .sp = frame.localsplus() + frame.stacktop(),
      .instruction_slot = frame.instruction_slot(),
      .offset = start - 1,
  };
  f.ReadCode(code);
  f.next = f.first + start;
  return f;
}

// Once for each frame: a generator's comes back each time it is resumed, first behind RETURN_GENERATOR.
void LogBytecode(const FrameEvaluator& f) {
  if (!LogEnabled(LogArtifact::k_bytecode) || f.resumed()) return;
  if (f.next != f.first && kShimDeopt[f.next[-1] & 0xff] != RETURN_GENERATOR) return;
  absl::StatusOr<DecodedCode> decoded = DecodedCode::Decode(f.code);
  const char* name = PyUnicode_AsUTF8(f.code->co_qualname);
  if (name == nullptr) PyErr_Clear();
  Log(LogArtifact::k_bytecode, absl::StrCat("bytecode of ", name == nullptr ? "?" : name, ":\n",
                                            decoded.ok() ? PrintCode(*decoded, f.code) : decoded.status().message()));
}

// The operands of the instruction, where it looks at them.
bool ReadOperands(FrameEvaluator& f, Opcode opcode, int arg) {
  if (OnlyMoves(opcode)) return true;
  const int operands =
      std::max(StackEffectOf(opcode, arg, /*taken=*/false).pops, StackEffectOf(opcode, arg, /*taken=*/true).pops);
  // A write to a set or dict that the state holds would rest on its content; the interpreter does it.
  if (const int place = PlaceOfBuilt(opcode, arg); place > 0 && IsUnread(f.Peek(place))) {
    f.recorder.Break(BreakCode::kUnsupportedEffect, "a container that was being built at a break");
    return false;
  }
  for (int n = 1; n <= operands && f.sp - n >= f.stack_base; ++n) {
    if (f.Peek(n) != nullptr && IsUnread(f.Peek(n)) && f.recorder.Read(&f.Peek(n)) != 0) return false;
  }
  return true;
}

// Executes the instruction at `next`. EXTENDED_ARG prefixes belong to the instruction behind them.
Flow Step(FrameEvaluator& f, const std::array<OpcodeHandler, 256>& handlers, bool has_unread) {
  unsigned arg = 0;
  uint8_t opcode;
  do {
    f.offset = static_cast<int>(f.next - f.first);
    const uint16_t unit = *f.next++;
    opcode = kShimDeopt[unit & 0xff];
    arg = arg << 8 | unit >> 8;
  } while (opcode == EXTENDED_ARG);
  f.SetLastInstruction(f.offset);
  if (!f.recorder.BeginInstruction(f.offset)) return Flow::kError;
  OpcodeHandler handler = handlers[opcode];
  if (handler == nullptr) {
    PyRef name = PyRef::Steal(PyUnicode_FromFormat("opcode %d", opcode));
    return f.BreakAt(BreakCode::kUnsupportedOpcode, name ? PyUnicode_AsUTF8(name.get()) : "");
  }
  f.next += kShimCaches[opcode];
  if (has_unread && !ReadOperands(f, static_cast<Opcode>(opcode), static_cast<int>(arg))) return Flow::kError;
  return handler(f, static_cast<int>(arg));
}

// The last instruction: returns what it hands to the caller. A resumed frame has one of its own for that.
PyObject* LeaveWithValue(FrameEvaluator& f) {
  const Opcode last = static_cast<Opcode>(kShimDeopt[f.first[f.offset] & 0xff]);
  if (f.resumed() && InfoOf(last).name == "RETURN_CONST") f.Push(Py_NewRef(f.Constant(f.first[f.offset] >> 8)));
  f.frame.set_stacktop(static_cast<int>(f.sp - f.frame.localsplus()));
  f.frame.set_next_offset(f.resumed() ? f.entered->return_offset : f.offset);
  return ShimEvalDefault(f.thread, f.frame.get(), 0);
}

PyObject* LeaveWithError(FrameEvaluator& f) {
  f.frame.set_stacktop(static_cast<int>(f.sp - f.frame.localsplus()));
  // The first instruction of what enters a frame in the middle has no handler either.
  const int offset = f.recorder.broken() ? 0 : f.resumed() ? 1 : f.offset + 1;
  return ShimLeaveWithError(f.thread, f.frame.get(), offset);
}

void AddTraceback(FrameEvaluator& f) {
  PyRef frame_object = PyRef::Steal(reinterpret_cast<PyObject*>(PyThreadState_GetFrame(f.thread)));
  if (frame_object) PyTraceBack_Here(reinterpret_cast<PyFrameObject*>(frame_object.get()));
}

// Goes to the handler of the raised exception; false: the frame is left with it.
bool Unwind(FrameEvaluator& f) {
  f.kwnames = nullptr;
  std::optional<ExceptionHandler> handler = FindExceptionHandler(f.code, f.offset);
  // A break is not an exception: nothing of the program may see it.
  if (f.recorder.broken() || !handler) {
    f.Drop(static_cast<int>(f.sp - f.stack_base));
    return false;
  }
  f.Drop(static_cast<int>(f.sp - f.stack_base) - handler->depth);
  if (handler->push_lasti) {
    PyObject* lasti = PyLong_FromLong(f.resumed() ? f.offset : f.frame.lasti());
    if (lasti == nullptr) {
      f.recorder.Break(BreakCode::kInternalError, "out of memory");
      f.Drop(static_cast<int>(f.sp - f.stack_base));
      return false;
    }
    f.Push(lasti);
  }
  PyRef exception = TakeException();
  f.recorder.NoteCaught(exception.get());
  f.Push(exception.release());
  f.next = f.first + handler->target;
  return true;
}

// A frame of a function that ResumeTable made: its only argument is a state, its code is a detour into the user's.
// Returns the state, or nothing for any other frame.
PyRef GoOnInUserCode(FrameEvaluator& f) {
  f.entered = f.recorder.ResumedCodeOf(f.code);
  if (!f.resumed()) return {};
  PyRef state = PyRef::Steal(std::exchange(f.locals[0], nullptr));
  PyCodeObject* code = f.entered->point->code;
  f.locals += f.code->co_nlocalsplus - code->co_nlocalsplus;
  f.ReadCode(code);
  return state;
}

Flow EnterResumed(FrameEvaluator& f, PyRef state) {
  const ResumePoint& point = *f.entered->point;
  const CodeAnalysis& analysis = *f.recorder.Analyze(point.code);
  f.next = f.first + analysis.decoded[point.target].start;
  f.offset = analysis.decoded[point.waits() ? point.call : point.target].offset;
  f.live->offset = f.offset;
  if (f.recorder.EnterResumed(point, Py_NewRef(state.get()), *f.live) != 0) return Flow::kError;
  return point.waits() ? f.PushResult(f.recorder.CallInner(point, state.get())) : Flow::kNext;
}

// Executes instructions up to the one that leaves the frame; false: the frame is left with an exception or a break.
bool RunInstructions(FrameEvaluator& f, int throwflag, PyRef state) {
  static const std::array<OpcodeHandler, 256> handlers = BuildHandlers();
  FrameEntry entry(f.thread, f.frame);
  PyObject** handled_slot = ShimHandledExceptionSlot(f.thread);
  PyRef handled = PyRef::Borrow(*handled_slot);
  // generator.throw(): the exception is set already and belongs to the instruction the generator stands at.
  Flow flow = throwflag ? Flow::kError : Flow::kNext;
  // In a state, or among the arguments of the entry.
  const bool has_unread = f.resumed() || std::any_of(f.locals, f.locals + f.code->co_nlocalsplus, [](PyObject* local) {
                            return local != nullptr && IsUnread(local);
                          });
  if (f.resumed()) flow = EnterResumed(f, std::move(state));
  while (flow != Flow::kLeave) {
    if (flow == Flow::kNext) {
      flow = Step(f, handlers, has_unread);
      continue;
    }
    if (flow == Flow::kError && !f.recorder.broken()) {
      f.recorder.NoteRaise();
      AddTraceback(f);
    }
    if (!Unwind(f)) {
      // A break inside an `except` block: no POP_EXCEPT will follow.
      if (f.recorder.broken()) Py_XDECREF(std::exchange(*handled_slot, handled.release()));
      return false;
    }
    flow = Flow::kNext;
  }
  return true;
}

}  // namespace

PyObject* EvaluateFrame(RecorderState& recorder, PyThreadState* thread, ShimFrame* shim_frame, int throwflag) {
  // The user's own recursion limit, met earlier than in the interpreter because C frames count while recording.
  if (Py_EnterRecursiveCall("")) {
    recorder.Break(BreakCode::kTooDeep, "recursion limit");
    return ShimLeaveWithError(thread, shim_frame, 0);
  }
  FrameView frame(shim_frame);
  FrameEvaluator f = MakeEvaluator(recorder, thread, frame);
  PyRef state = GoOnInUserCode(f);
  LiveFrame live{
      .code = f.code, .globals = f.globals, .locals = f.locals, .stack_base = f.stack_base, .stack_top = &f.sp};
  f.live = &live;
  frame.set_stacktop(-1);
  recorder.PushFrame(&live);
  LogBytecode(f);
  const bool has_value = RunInstructions(f, throwflag, std::move(state));
  if (has_value && f.sp > f.stack_base) recorder.GiveResult(live, f.Top());
  recorder.PopFrame();
  PyObject* result = has_value ? LeaveWithValue(f) : LeaveWithError(f);
  Py_LeaveRecursiveCall();
  return result;
}

}  // namespace framejit
