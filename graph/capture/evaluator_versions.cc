// Opcodes that not every minor has: what 3.11 has and 3.12 dropped, what 3.12 brought, and what 3.13 brought.
#include <opcode.h>

#include "graph/capture/frame_evaluator.h"

namespace framejit {
namespace {

// Jumps are relative in both directions in 3.11, forward only later.

template <bool wanted, int direction>
Flow PopJumpIfBool(FrameEvaluator& f, int arg) {
  PyRef condition = f.Pop();
  int truth = f.recorder.IsTrue(condition.get());
  if (truth < 0) return Flow::kError;
  if ((truth != 0) == wanted) f.Jump(direction * arg);
  return Flow::kNext;
}

template <bool wanted, int direction>
Flow PopJumpIfNone(FrameEvaluator& f, int arg) {
  PyRef value = f.Pop();
  if ((value.get() == Py_None) == wanted) f.Jump(direction * arg);
  return Flow::kNext;
}

Flow ListToTuple(FrameEvaluator& f, int) {
  PyRef list = f.Pop();
  return PushLocal(f, PyList_AsTuple(list.get()));
}

Flow UnaryPositive(FrameEvaluator& f, int) {
  PyRef operand = f.Pop();
  return f.PushResult(f.recorder.Unary(UnaryOperator::kPositive, operand.get()));
}

// --- 3.11 ------------------------------------------------------------------------------------------------------------
#if PY_VERSION_HEX < 0x030C0000

Flow LoadMethodByName(FrameEvaluator& f, int arg) { return LoadMethod(f, f.Name(arg)); }

template <bool wanted>
Flow JumpIfOrPop(FrameEvaluator& f, int arg) {
  int truth = f.recorder.IsTrue(f.Top());
  if (truth < 0) return Flow::kError;
  if ((truth != 0) == wanted) {
    f.Jump(arg);
  } else {
    f.Pop();
  }
  return Flow::kNext;
}

Flow LoadClassDeref(FrameEvaluator& f, int arg) {
  if (f.frame_locals == nullptr) return f.BreakAt(BreakCode::kUnsupportedOpcode, "a frame without a namespace");
  PyObject* value = nullptr;
  const int found = NamespaceItem(f, f.frame_locals, f.LocalName(arg), &value);
  return found == 0 ? LoadDeref(f, arg) : f.PushResult(value);
}

// The exceptions that the clauses of a try statement with except* left to be raised, below them what was caught.
Flow PrepareRaiseStar(FrameEvaluator& f, int) {
  PyRef raised = f.Pop();
  PyRef original = f.Pop();
  return f.PushResult(PrepareRaiseOfGroup(f, original.get(), raised.get()));
}

#endif
// --- 3.11 and 3.12 ---------------------------------------------------------------------------------------------------
#if PY_VERSION_HEX < 0x030D0000

Flow KwNames(FrameEvaluator& f, int arg) {
  f.kwnames = f.Constant(arg);
  return Flow::kNext;
}

Flow FormatValue(FrameEvaluator& f, int arg) {
  PyRef spec = (arg & 4) != 0 ? f.Pop() : PyRef();
  PyRef value = f.Pop();
  return f.PushResult(f.recorder.Format(value.get(), arg & 3, spec.get()));
}

#endif
// --- since 3.12 ------------------------------------------------------------------------------------------------------
#if PY_VERSION_HEX >= 0x030C0000

Flow EndSend(FrameEvaluator& f, int) {
  PyRef value = f.Pop();
  f.Pop();
  f.Push(value.release());
  return Flow::kNext;
}

// What a comprehension that runs in this frame does with an outer variable of the same name: null where it is unbound.
Flow LoadFastAndClear(FrameEvaluator& f, int arg) {
  f.Push(std::exchange(f.locals[arg], nullptr));
  return Flow::kNext;
}

Flow BinarySlice(FrameEvaluator& f, int) {
  PyRef stop = f.Pop();
  PyRef start = f.Pop();
  PyRef container = f.Pop();
  PyRef slice = PyRef::Steal(PySlice_New(start.get(), stop.get(), nullptr));
  if (!slice) return Flow::kError;
  return f.PushResult(f.recorder.GetItem(container.get(), slice.get()));
}

Flow StoreSlice(FrameEvaluator& f, int) {
  PyRef stop = f.Pop();
  PyRef start = f.Pop();
  PyRef container = f.Pop();
  PyRef value = f.Pop();
  PyRef slice = PyRef::Steal(PySlice_New(start.get(), stop.get(), nullptr));
  if (!slice) return Flow::kError;
  return f.recorder.SetItem(container.get(), slice.get(), value.get()) != 0 ? Flow::kError : Flow::kNext;
}

// super().name and super(class, object).name without the intermediate object. The lowest bit of the operand says that a
// method is about to be called, the next one that super is given its arguments.
Flow LoadSuperAttr(FrameEvaluator& f, int arg) {
  PyRef receiver = f.Pop();
  PyRef type = f.Pop();
  PyRef global_super = f.Pop();
  PyObject* args[] = {type.get(), receiver.get()};
  const bool is_super = global_super.get() == reinterpret_cast<PyObject*>(&PySuper_Type);
  const int count = is_super || (arg & 2) != 0 ? 2 : 0;
  PyRef object = PyRef::Steal(f.recorder.Call(global_super.get(), args, count, nullptr));
  return f.PushFound(object ? f.recorder.GetAttr(object.get(), f.Name(arg >> 2)) : nullptr, (arg & 1) != 0);
}

Flow LoadLocals(FrameEvaluator& f, int) {
  if (f.frame_locals == nullptr) return f.BreakAt(BreakCode::kUnsupportedOpcode, "class body without a namespace");
  f.Push(Py_NewRef(f.frame_locals));
  return Flow::kNext;
}

Flow LoadFromDictOrDeref(FrameEvaluator& f, int arg) {
  PyRef name_space = f.Pop();
  PyObject* value = nullptr;
  const int found = NamespaceItem(f, name_space.get(), f.LocalName(arg), &value);
  return found == 0 ? LoadDeref(f, arg) : f.PushResult(value);
}

Flow LoadFromDictOrGlobals(FrameEvaluator& f, int arg) {
  PyRef name_space = f.Pop();
  PyObject* value = nullptr;
  const int found = NamespaceItem(f, name_space.get(), f.Name(arg), &value);
  return f.PushResult(found == 0 ? f.recorder.LoadGlobal(f.globals, f.builtins, f.Name(arg)) : value);
}

// A StopIteration that leaves a generator becomes a RuntimeError. Python/intrinsics.c, stopiteration_error.
Flow StopIterationError(FrameEvaluator& f) {
  PyRef exception = f.Pop();
  if (PyErr_GivenExceptionMatches(exception.get(), PyExc_StopIteration) == 0) {
    f.Push(exception.release());
    return Flow::kNext;
  }
  PyRef message = PyRef::Steal(PyUnicode_FromString("generator raised StopIteration"));
  PyRef error = PyRef::Steal(message ? PyObject_CallOneArg(PyExc_RuntimeError, message.get()) : nullptr);
  if (!error) return Flow::kError;
  if (f.recorder.HasCaught(exception.get())) f.recorder.NoteCaught(error.get());  // and is raised next
  PyException_SetCause(error.get(), Py_NewRef(exception.get()));
  PyException_SetContext(error.get(), exception.release());
  f.Push(error.release());
  return Flow::kNext;
}

// The numbers of Include/internal/pycore_intrinsics.h (3.12 and 3.13).
Flow CallIntrinsic1(FrameEvaluator& f, int arg) {
  constexpr int kStopIterationError = 3;
  constexpr int kUnaryPositive = 5;
  constexpr int kListToTuple = 6;
  if (arg == kStopIterationError) return StopIterationError(f);
  if (arg == kUnaryPositive) return UnaryPositive(f, 0);
  if (arg == kListToTuple) return ListToTuple(f, 0);
  return f.BreakAt(BreakCode::kUnsupportedOpcode, "an intrinsic function of CPython");
}

Flow CallIntrinsic2(FrameEvaluator& f, int arg) {
  constexpr int kPrepareRaiseStar = 1;
  if (arg != kPrepareRaiseStar) return f.BreakAt(BreakCode::kUnsupportedOpcode, "an intrinsic function of CPython");
  PyRef raised = f.Pop();
  PyRef original = f.Pop();
  return f.PushResult(PrepareRaiseOfGroup(f, original.get(), raised.get()));
}

// An exception was thrown into a generator that stands in `yield from`, and the inner one raised: StopIteration is its
// result.
Flow CleanupThrow(FrameEvaluator& f, int) {
  PyRef exception = f.Pop();
  if (PyErr_GivenExceptionMatches(exception.get(), PyExc_StopIteration) == 0) {
    PyErr_SetRaisedException(exception.release());
    return Flow::kUnwind;
  }
  f.Drop(2);  // the value that was sent last, and the inner iterator
  f.Push(Py_NewRef(Py_None));
  f.Push(Py_NewRef(reinterpret_cast<PyStopIterationObject*>(exception.get())->value));
  return Flow::kNext;
}

#endif
// --- since 3.13 ------------------------------------------------------------------------------------------------------
#if PY_VERSION_HEX >= 0x030D0000

Flow ToBool(FrameEvaluator& f, int) {
  PyRef value = f.Pop();
  const int truth = f.recorder.IsTrue(value.get());
  return truth < 0 ? Flow::kError : f.PushResult(Py_NewRef(truth != 0 ? Py_True : Py_False));
}

void StoreLocal(FrameEvaluator& f, int index) {
  PyRef old = PyRef::Steal(f.locals[index]);
  f.locals[index] = f.Pop().release();
}

Flow LoadFastLoadFast(FrameEvaluator& f, int arg) {
  const Flow flow = LoadFast(f, arg >> 4);
  return flow == Flow::kNext ? LoadFast(f, arg & 15) : flow;
}

Flow StoreFastLoadFast(FrameEvaluator& f, int arg) {
  StoreLocal(f, arg >> 4);
  return LoadFast(f, arg & 15);
}

Flow StoreFastStoreFast(FrameEvaluator& f, int arg) {
  StoreLocal(f, arg >> 4);
  StoreLocal(f, arg & 15);
  return Flow::kNext;
}

Flow CallKeywords(FrameEvaluator& f, int arg) {
  PyRef kwnames = f.Pop();
  const int total = arg + (f.Peek(arg + 1) != nullptr ? 1 : 0);
  return CallWithStack(f, f.Peek(arg + 2), total, kwnames.get(), arg + 2);
}

Flow SetFunctionAttribute(FrameEvaluator& f, int arg) {
  PyRef function = f.Pop();
  PyRef value = f.Pop();
  auto* object = reinterpret_cast<PyFunctionObject*>(function.get());
  PyObject** slot = arg == 1   ? &object->func_defaults
                    : arg == 2 ? &object->func_kwdefaults
                    : arg == 4 ? &object->func_annotations
                    : arg == 8 ? &object->func_closure
                               : nullptr;
  if (slot == nullptr) return f.BreakAt(BreakCode::kUnsupportedOpcode, "SET_FUNCTION_ATTRIBUTE");
  PyRef old = PyRef::Steal(std::exchange(*slot, value.release()));
  f.Push(function.release());
  return Flow::kNext;
}

Flow ConvertValue(FrameEvaluator& f, int arg) {
  PyRef value = f.Pop();
  return f.PushResult(f.recorder.Format(value.get(), arg, nullptr));
}

Flow FormatSimple(FrameEvaluator& f, int) {
  PyRef value = f.Pop();
  return f.PushResult(f.recorder.Format(value.get(), 0, nullptr));
}

Flow FormatWithSpec(FrameEvaluator& f, int) {
  PyRef spec = f.Pop();
  PyRef value = f.Pop();
  return f.PushResult(f.recorder.Format(value.get(), 0, spec.get()));
}

#endif

constexpr OpcodeRow kRows[] = {
#if PY_VERSION_HEX < 0x030C0000
    {PRECALL, Nop},
    {LOAD_METHOD, LoadMethodByName},
    {UNARY_POSITIVE, UnaryPositive},
    {LIST_TO_TUPLE, ListToTuple},
    {LOAD_CLASSDEREF, LoadClassDeref},
    {PREP_RERAISE_STAR, PrepareRaiseStar},
    {POP_JUMP_FORWARD_IF_FALSE, PopJumpIfBool<false, 1>},
    {POP_JUMP_FORWARD_IF_TRUE, PopJumpIfBool<true, 1>},
    {POP_JUMP_BACKWARD_IF_FALSE, PopJumpIfBool<false, -1>},
    {POP_JUMP_BACKWARD_IF_TRUE, PopJumpIfBool<true, -1>},
    {POP_JUMP_FORWARD_IF_NONE, PopJumpIfNone<true, 1>},
    {POP_JUMP_FORWARD_IF_NOT_NONE, PopJumpIfNone<false, 1>},
    {POP_JUMP_BACKWARD_IF_NONE, PopJumpIfNone<true, -1>},
    {POP_JUMP_BACKWARD_IF_NOT_NONE, PopJumpIfNone<false, -1>},
    {JUMP_IF_FALSE_OR_POP, JumpIfOrPop<false>},
    {JUMP_IF_TRUE_OR_POP, JumpIfOrPop<true>},
#endif
#if PY_VERSION_HEX < 0x030D0000
    {LOAD_CLOSURE, LoadFast},
    {KW_NAMES, KwNames},
    {FORMAT_VALUE, FormatValue},
#endif
#if PY_VERSION_HEX >= 0x030C0000
    {POP_JUMP_IF_FALSE, PopJumpIfBool<false, 1>},
    {POP_JUMP_IF_TRUE, PopJumpIfBool<true, 1>},
    {POP_JUMP_IF_NONE, PopJumpIfNone<true, 1>},
    {POP_JUMP_IF_NOT_NONE, PopJumpIfNone<false, 1>},
    {RETURN_CONST, Leave},
    {END_SEND, EndSend},
    {LOAD_FAST_CHECK, LoadFast},
    {LOAD_FAST_AND_CLEAR, LoadFastAndClear},
    {BINARY_SLICE, BinarySlice},
    {STORE_SLICE, StoreSlice},
    {LOAD_SUPER_ATTR, LoadSuperAttr},
    {LOAD_LOCALS, LoadLocals},
    {LOAD_FROM_DICT_OR_DEREF, LoadFromDictOrDeref},
    {LOAD_FROM_DICT_OR_GLOBALS, LoadFromDictOrGlobals},
    {CALL_INTRINSIC_1, CallIntrinsic1},
    {CALL_INTRINSIC_2, CallIntrinsic2},
    {CLEANUP_THROW, CleanupThrow},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {TO_BOOL, ToBool},
    {LOAD_FAST_LOAD_FAST, LoadFastLoadFast},
    {STORE_FAST_LOAD_FAST, StoreFastLoadFast},
    {STORE_FAST_STORE_FAST, StoreFastStoreFast},
    {CALL_KW, CallKeywords},
    {SET_FUNCTION_ATTRIBUTE, SetFunctionAttribute},
    {CONVERT_VALUE, ConvertValue},
    {FORMAT_SIMPLE, FormatSimple},
    {FORMAT_WITH_SPEC, FormatWithSpec},
#endif
};

}  // namespace

absl::Span<const OpcodeRow> VersionOpcodes() { return kRows; }

}  // namespace framejit
