// framejit_check, the half about frame_eval/cpython/: pass-through hooks that check the frames they see, types and
// instance dicts.
#include <string>

#include "frame_eval/cpython/frame_view.h"
#include "frame_eval/cpython/py_ref.h"
#include "tests/python/interpreters/module.h"

namespace framejit {
namespace {

// Two hooks, so that one can be installed over the other. The GIL guards them.
struct Hook {
  ShimEvaluator evaluator;
  ShimEvaluator previous = nullptr;
  long frames = 0;           // seen at entry
  long resumptions = 0;      // of generators
  std::string problem = {};  // the first frame that did not look as FrameView promises
};
PyObject* EvaluateFirst(PyThreadState* thread, ShimFrame* frame, int throwflag);
PyObject* EvaluateSecond(PyThreadState* thread, ShimFrame* frame, int throwflag);
Hook hooks[2] = {{&EvaluateFirst}, {&EvaluateSecond}};

std::string GeneratorProblem(FrameView frame) {
  PyObject* generator = frame.generator();
  if (!PyGen_Check(generator) && !PyCoro_CheckExact(generator) && !PyAsyncGen_CheckExact(generator)) return "generator";
  if (ShimGeneratorFrame(generator) != frame.get()) return "frame of the generator";
  return frame.is_at_entry() ? "a generator's frame starts behind RETURN_GENERATOR" : "";
}

std::string Problem(FrameView frame) {
  PyCodeObject* code = frame.code();
  if (!PyCode_Check(code)) return "code";
  if (frame.globals() == nullptr || !PyDict_Check(frame.globals())) return "globals";
  if (frame.builtins() == nullptr || !PyDict_Check(frame.builtins())) return "builtins";
  if (frame.stacktop() < code->co_nlocalsplus) return "stacktop";
  if (frame.is_generators()) return GeneratorProblem(frame);
  PyFunctionObject* function = frame.function();
  if (!PyFunction_Check(reinterpret_cast<PyObject*>(function))) return "function";
  if (function->func_globals != frame.globals()) return "globals of the function";
  if (function->func_code != reinterpret_cast<PyObject*>(code)) return "code of the function";
  if (!frame.is_at_entry() || frame.next_offset() != 0) return "not at entry";
  if (frame.stack_base() != frame.localsplus() + frame.stacktop()) return "stack base";
  for (int i = 0; i < code->co_argcount; ++i) {
    if (frame.locals()[i] == nullptr) return "an argument is missing";
  }
  return "";
}

PyObject* Observe(Hook& hook, PyThreadState* thread, ShimFrame* raw, int throwflag) {
  FrameView frame(raw);
  if (hook.problem.empty()) hook.problem = Problem(frame);
  ++(frame.is_generators() ? hook.resumptions : hook.frames);
  // Writing back what is there must change nothing.
  frame.set_next_offset(frame.next_offset());
  frame.set_stacktop(frame.stacktop());
  return ShimEvalPassThrough(hook.previous, thread, raw, throwflag);
}

PyObject* EvaluateFirst(PyThreadState* thread, ShimFrame* frame, int throwflag) {
  return Observe(hooks[0], thread, frame, throwflag);
}
PyObject* EvaluateSecond(PyThreadState* thread, ShimFrame* frame, int throwflag) {
  return Observe(hooks[1], thread, frame, throwflag);
}

Hook* HookArgument(PyObject* index) {
  const long which = PyLong_AsLong(index);
  if (which == 0 || which == 1) return &hooks[which];
  if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "the hook is 0 or 1");
  return nullptr;
}

PyObject* InstallHook(PyObject*, PyObject* index) {
  Hook* hook = HookArgument(index);
  if (hook == nullptr) return nullptr;
  ShimEvaluator previous = ShimInstallEvaluator(PyInterpreterState_Get(), hook->evaluator);
  if (previous == nullptr) Py_RETURN_FALSE;
  *hook = {hook->evaluator, previous};
  Py_RETURN_TRUE;
}

PyObject* RemoveHook(PyObject*, PyObject* index) {
  Hook* hook = HookArgument(index);
  if (hook == nullptr) return nullptr;
  return PyBool_FromLong(ShimRemoveEvaluator(PyInterpreterState_Get(), hook->evaluator, hook->previous));
}

PyObject* HookStatistics(PyObject*, PyObject* index) {
  Hook* hook = HookArgument(index);
  if (hook == nullptr) return nullptr;
  const bool installed = ShimInstalledEvaluator(PyInterpreterState_Get()) == hook->evaluator;
  return Py_BuildValue("{s:l,s:l,s:s,s:i}", "frames", hook->frames, "resumptions", hook->resumptions, "problem",
                       hook->problem.c_str(), "installed", int{installed});
}

PyObject* IsTraced(PyObject*, PyObject* code) {
  if (!PyCode_Check(code)) return PyErr_Format(PyExc_TypeError, "a code object is needed");
  return PyBool_FromLong(ShimIsTraced(PyThreadState_Get(), reinterpret_cast<PyCodeObject*>(code)));
}

// The running Python frame as FrameView shows it.
PyObject* CurrentFrame(PyObject*, PyObject*) {
  FrameView frame(ShimThreadFrame(PyThreadState_Get()));
  if (!frame) Py_RETURN_NONE;
  return Py_BuildValue("{s:O,s:O,s:O,s:O,s:i,s:i}", "code", frame.code(), "function", frame.function(), "globals",
                       frame.globals(), "builtins", frame.builtins(), "lasti", frame.lasti(), "is_at_entry",
                       int{frame.is_at_entry()});
}

PyObject* HandledException(PyObject*, PyObject*) {
  PyObject* exception = ShimTopmostHandledException(PyThreadState_Get());
  return Py_NewRef(exception != nullptr ? exception : Py_None);
}

PyObject* OpcodeTables(PyObject*, PyObject*) {
  return Py_BuildValue("(NN)", PyBytes_FromStringAndSize(reinterpret_cast<const char*>(kShimDeopt), 256),
                       PyBytes_FromStringAndSize(reinterpret_cast<const char*>(kShimCaches), 256));
}

PyObject* TypeVersion(PyObject*, PyObject* type) {
  if (!PyType_Check(type)) return PyErr_Format(PyExc_TypeError, "a type is needed");
  return PyLong_FromUnsignedLong(ShimTypeVersion(reinterpret_cast<PyTypeObject*>(type)));
}

PyObject* CurrentTypeVersion(PyObject*, PyObject* type) {
  if (!PyType_Check(type)) return PyErr_Format(PyExc_TypeError, "a type is needed");
  return PyLong_FromUnsignedLong(ShimTypeCurrentVersion(reinterpret_cast<PyTypeObject*>(type)));
}

PyObject* OptionalTuple(PyObject* found) { return found != nullptr ? PyTuple_Pack(1, found) : PyTuple_New(0); }

PyObject* TypeLookup(PyObject*, PyObject* args) {
  PyObject *type, *name;
  if (!PyArg_ParseTuple(args, "O!U", &PyType_Type, &type, &name)) return nullptr;
  return OptionalTuple(ShimTypeLookup(reinterpret_cast<PyTypeObject*>(type), name));
}

PyObject* NewInt(PyObject*, PyObject* value) {
  const long long number = PyLong_AsLongLong(value);
  return number == -1 && PyErr_Occurred() ? nullptr : ShimNewInt(number);
}

PyObject* GetMethod(PyObject*, PyObject* args) {
  PyObject *object, *name;
  if (!PyArg_ParseTuple(args, "OU", &object, &name)) return nullptr;
  PyObject* method = nullptr;
  const int unbound = ShimGetMethod(object, name, &method);
  return method != nullptr ? Py_BuildValue("(iN)", unbound, method) : nullptr;
}

PyObject* HasInlineValues(PyObject*, PyObject* object) { return PyBool_FromLong(ShimHasInlineValues(object)); }

PyObject* InlineValue(PyObject*, PyObject* args) {
  PyObject *object, *name;
  if (!PyArg_ParseTuple(args, "OU", &object, &name)) return nullptr;
  return OptionalTuple(ShimInlineValue(object, name));
}

PyObject* InstanceDict(PyObject*, PyObject* object) { return OptionalTuple(ShimInstanceDict(object)); }

PyObject* MaterializeDict(PyObject*, PyObject* object) { return ShimMaterializeInstanceDict(object); }

PyObject* DictVersion(PyObject*, PyObject* dict) {
  if (!PyDict_Check(dict)) return PyErr_Format(PyExc_TypeError, "a dict is needed");
  return PyLong_FromUnsignedLongLong(ShimDictVersion(dict));
}

}  // namespace

PyMethodDef kObjectMethods[] = {
    {"install_hook", InstallHook, METH_O, "whether hook 0 or 1 was installed now"},
    {"remove_hook", RemoveHook, METH_O, "whether it was still the installed one"},
    {"hook_statistics", HookStatistics, METH_O, "what the hook saw since it was installed"},
    {"is_traced", IsTraced, METH_O, "whether tools see events of the code in this thread"},
    {"current_frame", CurrentFrame, METH_NOARGS, "the caller's frame"},
    {"handled_exception", HandledException, METH_NOARGS, "the exception a bare raise would raise"},
    {"opcode_tables", OpcodeTables, METH_NOARGS, "(deopt, caches)"},
    {"type_version", TypeVersion, METH_O, "the type's version tag, assigned if need be"},
    {"current_type_version", CurrentTypeVersion, METH_O, "the type's version tag or 0"},
    {"type_lookup", TypeLookup, METH_VARARGS, "(value,) or ()"},
    {"new_int", NewInt, METH_O, "an int of this value that is no other object"},
    {"get_method", GetMethod, METH_VARARGS, "(unbound, method)"},
    {"has_inline_values", HasInlineValues, METH_O, ""},
    {"inline_value", InlineValue, METH_VARARGS, "(value,) or ()"},
    {"instance_dict", InstanceDict, METH_O, "(dict,) or ()"},
    {"materialize_dict", MaterializeDict, METH_O, ""},
    {"dict_version", DictVersion, METH_O, ""},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace framejit
