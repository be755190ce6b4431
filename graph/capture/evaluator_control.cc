// Opcodes that compute and steer: operators, comparisons, subscripts, jumps, iteration and generators.
#include <opcode.h>

#include "graph/capture/frame_evaluator.h"

namespace framejit {
namespace {

template <UnaryOperator op>
Flow Unary(FrameEvaluator& f, int) {
  PyRef operand = f.Pop();
  return f.PushResult(f.recorder.Unary(op, operand.get()));
}

Flow BinaryOp(FrameEvaluator& f, int arg) {
  PyRef right = f.Pop();
  PyRef left = f.Pop();
  return f.PushResult(f.recorder.Binary(arg, left.get(), right.get()));
}

// The operand of COMPARE_OP: the operator above `kCompareShift` bits of hints; from 3.13 on one of them asks for a
// bool.
constexpr int kCompareShift = kMinor >= 13 ? 5 : kMinor == 12 ? 4 : 0;
constexpr int kCompareToBool = kMinor >= 13 ? 16 : 0;

Flow CompareOp(FrameEvaluator& f, int arg) {
  PyRef right = f.Pop();
  PyRef left = f.Pop();
  PyRef result = PyRef::Steal(f.recorder.RichCompare(left.get(), right.get(), arg >> kCompareShift));
  if (!result || (arg & kCompareToBool) == 0) return f.PushResult(result.release());
  const int truth = f.recorder.IsTrue(result.get());
  return truth < 0 ? Flow::kError : f.PushResult(Py_NewRef(truth != 0 ? Py_True : Py_False));
}

// `outcome` is 0 or 1, or -1 for an error.
Flow PushBool(FrameEvaluator& f, int outcome, int inverted) {
  if (outcome < 0) return Flow::kError;
  f.Push(Py_NewRef((outcome ^ inverted) != 0 ? Py_True : Py_False));
  return Flow::kNext;
}

Flow IsOp(FrameEvaluator& f, int arg) {
  PyRef right = f.Pop();
  PyRef left = f.Pop();
  return PushBool(f, f.recorder.Is(left.get(), right.get()), arg);
}

Flow ContainsOp(FrameEvaluator& f, int arg) {
  PyRef container = f.Pop();
  PyRef value = f.Pop();
  return PushBool(f, f.recorder.Contains(container.get(), value.get()), arg);
}

Flow BinarySubscr(FrameEvaluator& f, int) {
  PyRef key = f.Pop();
  PyRef container = f.Pop();
  return f.PushResult(f.recorder.GetItem(container.get(), key.get()));
}

Flow StoreSubscr(FrameEvaluator& f, int) {
  PyRef key = f.Pop();
  PyRef container = f.Pop();
  PyRef value = f.Pop();
  return f.recorder.SetItem(container.get(), key.get(), value.get()) != 0 ? Flow::kError : Flow::kNext;
}

Flow DeleteSubscr(FrameEvaluator& f, int) {
  PyRef key = f.Pop();
  PyRef container = f.Pop();
  return f.recorder.DelItem(container.get(), key.get()) != 0 ? Flow::kError : Flow::kNext;
}

Flow GetLen(FrameEvaluator& f, int) {
  Py_ssize_t length = f.recorder.Length(f.Top());
  return length < 0 ? Flow::kError : f.PushResult(PyLong_FromSsize_t(length));
}

template <unsigned long flag>
Flow MatchType(FrameEvaluator& f, int) {
  return PushBool(f, PyType_HasFeature(Py_TYPE(f.Top()), flag) ? 1 : 0, 0);
}

// --- jumps -----------------------------------------------------------------------------------------------------------

Flow JumpForward(FrameEvaluator& f, int arg) {
  f.Jump(arg);
  return Flow::kNext;
}

Flow JumpBackward(FrameEvaluator& f, int arg) {
  f.Jump(-arg);
  return Flow::kNext;
}

// --- iteration -------------------------------------------------------------------------------------------------------

Flow GetIter(FrameEvaluator& f, int) {
  PyRef iterable = f.Pop();
  return f.PushResult(f.recorder.GetIter(iterable.get()));
}

Flow GetYieldFromIter(FrameEvaluator& f, int arg) {
  if (PyGen_CheckExact(f.Top())) return Flow::kNext;
  if (PyCoro_CheckExact(f.Top())) return f.BreakAt(BreakCode::kCoroutine, "");
  return GetIter(f, arg);
}

Flow ForIter(FrameEvaluator& f, int arg) {
  PyObject* value = f.recorder.IterNext(f.Top());
  if (value != nullptr) return f.PushResult(value);
  if (f.recorder.broken()) return Flow::kError;
  if (PyErr_Occurred()) {
    if (!PyErr_ExceptionMatches(PyExc_StopIteration)) return Flow::kError;
    PyErr_Clear();
  }
  f.Pop();
  // The target cleans up what 3.12 and 3.13 left on the stack in an instrumented loop: END_FOR, and POP_TOP behind it.
  f.Jump(arg + (kMinor >= 13 ? 2 : kMinor == 12 ? 1 : 0));
  return Flow::kNext;
}

// `yield from` and `await`: a generator is resumed through the hook; any other iterator is advanced, which is all that
// sending None to it does.
Flow Send(FrameEvaluator& f, int arg) {
  PyRef value = f.Pop();
  PyObject* receiver = f.Top();
  PyObject* result = nullptr;
  PySendResult status;
  if (PyGen_CheckExact(receiver)) {
    f.recorder.ResumeGenerator();
    status = PyIter_Send(receiver, value.get(), &result);
  } else if (value.get() == Py_None && PyIter_Check(receiver)) {
    result = f.recorder.IterNext(receiver);
    status = result != nullptr ? PYGEN_NEXT : PYGEN_RETURN;
    if (result == nullptr && (f.recorder.broken() || _PyGen_FetchStopIterationValue(&result) < 0)) status = PYGEN_ERROR;
  } else {
    return f.BreakAt(BreakCode::kUnsupportedOpcode, "a value was sent to an iterator that is no generator");
  }
  if (status == PYGEN_ERROR) return Flow::kError;
  if (status == PYGEN_NEXT) return f.PushResult(result);
  if (kMinor < 12) f.Pop();  // later END_SEND drops the receiver
  f.Push(result);
  f.Jump(arg);
  return Flow::kNext;
}

constexpr OpcodeRow kRows[] = {
    {UNARY_NEGATIVE, Unary<UnaryOperator::kNegative>},
    {UNARY_INVERT, Unary<UnaryOperator::kInvert>},
    {UNARY_NOT, Unary<UnaryOperator::kNot>},
    {BINARY_OP, BinaryOp},
    {COMPARE_OP, CompareOp},
    {IS_OP, IsOp},
    {CONTAINS_OP, ContainsOp},
    {BINARY_SUBSCR, BinarySubscr},
    {STORE_SUBSCR, StoreSubscr},
    {DELETE_SUBSCR, DeleteSubscr},
    {GET_LEN, GetLen},
    {MATCH_SEQUENCE, MatchType<Py_TPFLAGS_SEQUENCE>},
    {MATCH_MAPPING, MatchType<Py_TPFLAGS_MAPPING>},
    {JUMP_FORWARD, JumpForward},
    {JUMP_BACKWARD, JumpBackward},
    {JUMP_BACKWARD_NO_INTERRUPT, JumpBackward},
    {GET_ITER, GetIter},
    {GET_YIELD_FROM_ITER, GetYieldFromIter},
    {FOR_ITER, ForIter},
    {SEND, Send},
    {RETURN_VALUE, Leave},
    {YIELD_VALUE, Leave},
};

}  // namespace

// CPython pops the value.
Flow Leave(FrameEvaluator&, int) { return Flow::kLeave; }

absl::Span<const OpcodeRow> ControlOpcodes() { return kRows; }

}  // namespace framejit
