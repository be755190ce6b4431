// Opcodes of exceptions: raise, handlers, `with` blocks. What a handler may catch is decided by the loop in
// evaluator.cc, which lets no handler see a break.
#include <opcode.h>

#include "graph/capture/evaluator.h"
#include "graph/capture/frame_evaluator.h"
#include "graph/capture/imported.h"
#include "graph/capture/unrecorded.h"

namespace framejit {
namespace {

PyTypeObject* GroupType() { return reinterpret_cast<PyTypeObject*>(PyExc_BaseExceptionGroup); }

PyRef SpecialName(const char* name) { return PyRef::Steal(PyUnicode_InternFromString(name)); }

Flow PushExcInfo(FrameEvaluator& f, int) {
  PyObject* value = f.Top();
  _PyErr_StackItem* handled = f.thread->exc_info;
  f.Top() = handled->exc_value != nullptr ? handled->exc_value : Py_NewRef(Py_None);
  f.Push(Py_NewRef(value));
  handled->exc_value = value;
  return Flow::kNext;
}

Flow PopExcept(FrameEvaluator& f, int) {
  _PyErr_StackItem* handled = f.thread->exc_info;
  PyRef old = PyRef::Steal(std::exchange(handled->exc_value, f.Pop().release()));
  return Flow::kNext;
}

Flow CheckExcMatch(FrameEvaluator& f, int) {
  PyRef type = f.Pop();
  bool is_class = PyExceptionClass_Check(type.get());
  for (Py_ssize_t i = 0; PyTuple_Check(type.get()) && i < PyTuple_GET_SIZE(type.get()); ++i) {
    is_class = PyExceptionClass_Check(PyTuple_GET_ITEM(type.get(), i));
    if (!is_class) break;
  }
  if (!is_class && !(PyTuple_Check(type.get()) && PyTuple_GET_SIZE(type.get()) == 0)) {
    PyErr_SetString(PyExc_TypeError, "catching classes that do not inherit from BaseException is not allowed");
    return Flow::kError;
  }
  bool matches = PyErr_GivenExceptionMatches(f.Top(), type.get()) != 0;
  f.Push(Py_NewRef(matches ? Py_True : Py_False));
  return Flow::kNext;
}

// The exception instance of a `raise` operand: itself, or the class called.
PyRef ExceptionInstance(FrameEvaluator& f, PyRef raised, const char* message) {
  if (PyExceptionInstance_Check(raised.get())) return raised;
  if (!PyExceptionClass_Check(raised.get())) {
    PyErr_SetString(PyExc_TypeError, message);
    return PyRef();
  }
  PyRef instance = PyRef::Steal(f.recorder.Call(raised.get(), nullptr, 0, nullptr));
  if (instance && !PyExceptionInstance_Check(instance.get())) {
    PyErr_Format(PyExc_TypeError, "calling %R should have returned an instance of BaseException, not %R", raised.get(),
                 Py_TYPE(instance.get()));
    return PyRef();
  }
  return instance;
}

// Raising writes the traceback and the context of an exception.
Flow RaisesFromOutside(FrameEvaluator& f) {
  return f.BreakAt(BreakCode::kUnsupportedEffect, "an exception from outside is raised");
}

// A bare `raise`: the exception being handled, with the traceback it has.
Flow RaiseAgain(FrameEvaluator& f) {
  _PyErr_StackItem* item = f.thread->exc_info;
  while ((item->exc_value == nullptr || item->exc_value == Py_None) && item->previous_item != nullptr) {
    item = item->previous_item;
  }
  PyObject* value = item->exc_value;
  if (value == nullptr || value == Py_None) {
    PyErr_SetString(PyExc_RuntimeError, "No active exception to reraise");
    return Flow::kError;
  }
  if (!f.recorder.HasCaught(value)) return RaisesFromOutside(f);
  PyErr_Restore(Py_NewRef(reinterpret_cast<PyObject*>(Py_TYPE(value))), Py_NewRef(value),
                PyException_GetTraceback(value));
  return Flow::kUnwind;
}

Flow RaiseVarargs(FrameEvaluator& f, int arg) {
  if (arg == 0) return RaiseAgain(f);
  PyRef cause = arg == 2 ? f.Pop() : PyRef();
  PyRef exception = ExceptionInstance(f, f.Pop(), "exceptions must derive from BaseException");
  if (!exception) return Flow::kError;
  if (f.recorder.IsOutside(exception.get())) return RaisesFromOutside(f);
  if (cause && cause.get() != Py_None) {
    cause = ExceptionInstance(f, std::move(cause), "exception causes must derive from BaseException");
    if (!cause) return Flow::kError;
  }
  if (arg == 2) PyException_SetCause(exception.get(), cause.get() == Py_None ? nullptr : cause.release());
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.get())), exception.get());
  return Flow::kError;
}

// RERAISE with an operand takes the instruction that raised first from the stack; the loop has put it there.
Flow Reraise(FrameEvaluator& f, int arg) {
  if (arg != 0) {
    long lasti = PyLong_AsLong(f.Peek(arg + 1));
    if (lasti < 0) return f.BreakAt(BreakCode::kInternalError, "no instruction offset below a re-raised exception");
    f.SetLastInstruction(static_cast<int>(lasti));
  }
  if (!f.recorder.HasCaught(f.Top())) return RaisesFromOutside(f);
  PyRef value = f.Pop();
  PyObject* traceback = PyException_GetTraceback(value.get());
  PyErr_Restore(Py_NewRef(reinterpret_cast<PyObject*>(Py_TYPE(value.get()))), value.get(), traceback);
  value.release();
  return Flow::kUnwind;
}

Flow BeforeWith(FrameEvaluator& f, int) {
  PyRef manager = f.Pop();
  PyRef enter_name = SpecialName("__enter__");
  PyRef exit_name = SpecialName("__exit__");
  if (!enter_name || !exit_name) return Flow::kError;
  const char* message = "'%.200s' object does not support the context manager protocol";
  PyRef enter = PyRef::Steal(f.recorder.LookupSpecial(manager.get(), enter_name.get()));
  PyRef exit;
  if (enter) {
    exit = PyRef::Steal(f.recorder.LookupSpecial(manager.get(), exit_name.get()));
    message = "'%.200s' object does not support the context manager protocol (missed __exit__ method)";
  }
  if (!exit) {
    if (!PyErr_Occurred() && !f.recorder.broken())
      PyErr_Format(PyExc_TypeError, message, Py_TYPE(manager.get())->tp_name);
    return Flow::kError;
  }
  f.Push(exit.release());
  return f.PushResult(f.recorder.Call(enter.get(), nullptr, 0, nullptr));
}

Flow WithExceptStart(FrameEvaluator& f, int) {
  PyObject* value = f.Top();
  PyRef traceback = PyRef::Steal(PyException_GetTraceback(value));
  PyObject* args[3] = {reinterpret_cast<PyObject*>(Py_TYPE(value)), value, traceback ? traceback.get() : Py_None};
  return f.PushResult(f.recorder.Call(f.Peek(4), args, 3, nullptr));
}

Flow LoadAssertionError(FrameEvaluator& f, int) {
  f.Push(Py_NewRef(PyExc_AssertionError));
  return Flow::kNext;
}

// --- exception groups ------------------------------------------------------------------------------------------------

bool IsGroup(PyObject* exception) { return PyObject_TypeCheck(exception, GroupType()); }

// As check_except_star_type_valid of Python/ceval.c.
bool MayBeCaughtByStar(PyObject* type) {
  PyRef types = PyTuple_Check(type) ? PyRef::Borrow(type) : PyRef::Steal(PyTuple_Pack(1, type));
  for (Py_ssize_t i = 0; types && i < PyTuple_GET_SIZE(types.get()); ++i) {
    PyObject* one = PyTuple_GET_ITEM(types.get(), i);
    if (!PyExceptionClass_Check(one)) {
      PyErr_SetString(PyExc_TypeError, "catching classes that do not inherit from BaseException is not allowed");
      return false;
    }
    if (PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(one), GroupType())) {
      PyErr_SetString(PyExc_TypeError, "catching ExceptionGroup with except* is not allowed. Use except instead.");
      return false;
    }
  }
  return static_cast<bool>(types);
}

// (match, rest) as exception_group_match of Python/ceval.c; null with an exception.
PyRef SplitByType(PyObject* exception, PyObject* type) {
  if (exception == Py_None) return PyRef::Steal(PyTuple_Pack(2, Py_None, Py_None));
  const bool group = IsGroup(exception);
  if (PyErr_GivenExceptionMatches(exception, type) != 0) {
    PyRef match =
        group ? PyRef::Borrow(exception)
              : PyRef::Steal(PyObject_CallFunction(reinterpret_cast<PyObject*>(GroupType()), "s[O]", "", exception));
    return match ? PyRef::Steal(PyTuple_Pack(2, match.get(), Py_None)) : PyRef();
  }
  if (!group) return PyRef::Steal(PyTuple_Pack(2, Py_None, exception));
  PyRef pair = PyRef::Steal(PyObject_CallMethod(exception, "split", "(O)", type));
  if (pair && (!PyTuple_CheckExact(pair.get()) || PyTuple_GET_SIZE(pair.get()) < 2)) {
    PyErr_Format(PyExc_TypeError, "%.200s.split must return a tuple, not %.200s", Py_TYPE(exception)->tp_name,
                 Py_TYPE(pair.get())->tp_name);
    return {};
  }
  return pair;
}

void NoteMade(FrameEvaluator& f, PyObject* exception) {
  if (exception != Py_None && !f.recorder.HasCaught(exception)) f.recorder.NoteCaught(exception);
}

Flow CheckGroupMatch(FrameEvaluator& f, int) {
  PyRef type = f.Pop();
  PyObject* exception = f.Top();
  if (exception != Py_None && !f.recorder.HasCaught(exception)) return RaisesFromOutside(f);
  if (!MayBeCaughtByStar(type.get())) return Flow::kError;
  PyRef pair = SplitByType(exception, type.get());
  if (!pair || f.recorder.broken()) return Flow::kError;
  PyObject* match = PyTuple_GET_ITEM(pair.get(), 0);
  PyObject* rest = PyTuple_GET_ITEM(pair.get(), 1);
  if (match == Py_None) {
    f.Push(Py_NewRef(match));
    return Flow::kNext;
  }
  NoteMade(f, match);
  NoteMade(f, rest);
  PyRef caught = PyRef::Steal(std::exchange(f.Top(), Py_NewRef(rest)));
  f.Push(Py_NewRef(match));
  PyErr_SetHandledException(match);
  return Flow::kNext;
}

constexpr OpcodeRow kRows[] = {
    {PUSH_EXC_INFO, PushExcInfo},
    {POP_EXCEPT, PopExcept},
    {CHECK_EXC_MATCH, CheckExcMatch},
    {CHECK_EG_MATCH, CheckGroupMatch},
    {RAISE_VARARGS, RaiseVarargs},
    {RERAISE, Reraise},
    {BEFORE_WITH, BeforeWith},
    {WITH_EXCEPT_START, WithExceptStart},
    {LOAD_ASSERTION_ERROR, LoadAssertionError},
};

}  // namespace

absl::Span<const OpcodeRow> ExceptionOpcodes() { return kRows; }

PyObject* PrepareRaiseOfGroup(FrameEvaluator& f, PyObject* original, PyObject* raised) {
  Disarmed disarmed;
  PyRef prepare = ImportedAttribute("framejit._groups", "prepare_raise");
  PyRef result =
      PyRef::Steal(prepare ? PyObject_CallFunctionObjArgs(prepare.get(), original, raised, nullptr) : nullptr);
  if (result) NoteMade(f, result.get());
  return result.release();
}

PyRef TakeException() {
  PyObject* type = nullptr;
  PyObject* value = nullptr;
  PyObject* traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  if (type == nullptr) return {};
  PyErr_NormalizeException(&type, &value, &traceback);
  PyException_SetTraceback(value, traceback != nullptr ? traceback : Py_None);
  Py_XDECREF(traceback);
  Py_DECREF(type);
  return PyRef::Steal(value);
}

}  // namespace framejit
