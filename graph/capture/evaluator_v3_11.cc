// The evaluator's loop for CPython 3.11: dispatch, exceptions, entering and leaving a frame. Mirrors
// _PyEval_EvalFrameDefault of Python/ceval.c, 3.11. The opcodes are in evaluator_v3_11_*.cc.
#include <Python.h>
#include <frameobject.h>
#include <opcode.h>

#include <array>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "bytecode/exception_table.h"
#include "bytecode/print.h"
#include "graph/capture/evaluator.h"
#include "graph/capture/frame_evaluator_v3_11.h"

#if PY_VERSION_HEX < 0x030B0000 || PY_VERSION_HEX >= 0x030C0000
#error "this evaluator is for CPython 3.11"
#endif

namespace framejit {
namespace {

std::array<OpcodeHandler, 256> BuildHandlers() {
  std::array<OpcodeHandler, 256> handlers{};
  for (auto group :
       {StackOpcodes(), ContainerOpcodes(), ControlOpcodes(), CallOpcodes(), ExceptionOpcodes(), MatchOpcodes()}) {
    for (const OpcodeRow& row : group) handlers[row.opcode] = row.handler;
  }
  return handlers;
}

FrameEvaluator MakeEvaluator(RecorderState& recorder, PyThreadState* thread, FrameView frame) {
  PyCodeObject* code = frame.code();
  const auto* first = reinterpret_cast<const uint16_t*>(_PyCode_CODE(code));
  const int start = frame.next_offset();
  return FrameEvaluator{
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
      .first = first,
      .next = first + start,
      .offset = start - 1,
  };
}

// Once for each frame: a generator's comes back each time it is resumed, first behind RETURN_GENERATOR.
void LogBytecode(const FrameEvaluator& f) {
  if (!LogEnabled(LogArtifact::k_bytecode)) return;
  if (!f.runs_own_code) return;
  if (f.next != f.first && kShimDeopt[f.next[-1] & 0xff] != RETURN_GENERATOR) return;
  absl::StatusOr<DecodedCode> decoded = DecodedCode::Decode(f.code);
  const char* name = PyUnicode_AsUTF8(f.code->co_qualname);
  if (name == nullptr) PyErr_Clear();
  Log(LogArtifact::k_bytecode, absl::StrCat("bytecode of ", name == nullptr ? "?" : name, ":\n",
                                            decoded.ok() ? PrintCode(*decoded, f.code) : decoded.status().message()));
}

// Yields to the generator's caller, which looks at the state that is set here.
void Suspend(FrameEvaluator& f) {
  f.result = f.Pop();
  f.frame.set_suspended();
}

// Executes the instruction at `next`. EXTENDED_ARG prefixes belong to the instruction behind them.
Flow Step(FrameEvaluator& f, const std::array<OpcodeHandler, 256>& handlers) {
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
  if (opcode == YIELD_VALUE) {
    Suspend(f);
    return Flow::kReturn;
  }
  OpcodeHandler handler = handlers[opcode];
  if (handler == nullptr) {
    PyRef name = PyRef::Steal(PyUnicode_FromFormat("opcode %d", opcode));
    return f.BreakAt(BreakCode::kUnsupportedOpcode, name ? PyUnicode_AsUTF8(name.get()) : "");
  }
  f.next += kShimCaches[opcode];
  return handler(f, static_cast<int>(arg));
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
    PyObject* lasti = PyLong_FromLong(f.runs_own_code ? f.frame.lasti() : f.offset);
    if (lasti == nullptr) {
      f.recorder.Break(BreakCode::kInternalError, "out of memory");
      f.Drop(static_cast<int>(f.sp - f.stack_base));
      return false;
    }
    f.Push(lasti);
  }
  PyObject* type = nullptr;
  PyObject* value = nullptr;
  PyObject* traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  PyException_SetTraceback(value, traceback != nullptr ? traceback : Py_None);
  Py_XDECREF(traceback);
  Py_XDECREF(type);
  f.Push(value);
  f.next = f.first + handler->target;
  return true;
}

// A frame of a function that ResumeTable made: its only argument is a state, its code is a detour into the user's.
// Returns the state.
PyRef GoOnInUserCode(FrameEvaluator& f, const ResumePoint& point) {
  PyRef state = PyRef::Steal(std::exchange(f.locals[0], nullptr));
  f.locals += f.code->co_nlocalsplus - point.code->co_nlocalsplus;
  f.code = point.code;
  f.first = reinterpret_cast<const uint16_t*>(_PyCode_CODE(point.code));
  f.runs_own_code = false;
  return state;
}

Flow EnterResumed(FrameEvaluator& f, const ResumePoint& point, PyRef state) {
  const CodeAnalysis& analysis = *f.recorder.Analyze(point.code);
  f.next = f.first + analysis.decoded[point.target].start;
  f.offset = analysis.decoded[point.waits() ? point.call : point.target].offset;
  f.live->offset = f.offset;
  if (f.recorder.EnterResumed(point, Py_NewRef(state.get()), *f.live) != 0) return Flow::kError;
  return point.waits() ? f.PushResult(f.recorder.CallInner(point, state.get())) : Flow::kNext;
}

}  // namespace

PyObject* EvaluateFrame(RecorderState& recorder, PyThreadState* thread, ShimFrame* shim_frame, int throwflag) {
  static const std::array<OpcodeHandler, 256> handlers = BuildHandlers();
  // The user's own recursion limit, met earlier than in the interpreter because C frames count while recording.
  if (Py_EnterRecursiveCall("")) {
    recorder.Break(BreakCode::kTooDeep, "recursion limit");
    return nullptr;
  }
  FrameView frame(shim_frame);
  FrameEvaluator f = MakeEvaluator(recorder, thread, frame);
  const ResumePoint* point = recorder.ResumePointOf(f.code);
  PyRef state = point != nullptr ? GoOnInUserCode(f, *point) : PyRef();
  LiveFrame live{.code = f.code,
                 .globals = f.globals,
                 .locals = f.locals,
                 .stack_base = f.stack_base,
                 .stack_top = &f.sp,
                 .unread = {}};
  f.live = &live;
  frame.set_stacktop(-1);
  FrameEntry entry(thread, frame);
  recorder.PushFrame(&live);
  LogBytecode(f);
  // generator.throw(): the exception is set already and belongs to the instruction the generator stands at.
  Flow flow = throwflag ? Flow::kError : Flow::kNext;
  if (point != nullptr) flow = EnterResumed(f, *point, std::move(state));
  while (flow != Flow::kReturn) {
    if (flow == Flow::kNext) {
      flow = Step(f, handlers);
      continue;
    }
    if (flow == Flow::kError && !recorder.broken()) AddTraceback(f);
    if (!Unwind(f)) break;
    flow = Flow::kNext;
  }
  frame.set_stacktop(static_cast<int>(f.sp - frame.localsplus()));
  recorder.PopFrame();
  Py_LeaveRecursiveCall();
  return f.result.release();
}

}  // namespace framejit
