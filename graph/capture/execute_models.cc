// Code made from text: exec and eval in namespaces that the program gives them, as namedtuple and dataclass make their
// functions, and the frames that such libraries ask for the name of their module.
#include "graph/capture/evaluator.h"
#include "graph/capture/imported.h"
#include "graph/capture/recorder_impl.h"
#include "graph/capture/unread.h"
#include "graph/capture/unrecorded.h"

namespace framejit {
namespace {

bool IsExec(PyObject* callable) {
  return std::string_view(reinterpret_cast<PyCFunctionObject*>(callable)->m_ml->ml_name) == "exec";
}

// `source`, which is text or code, as code. The flags are those of the code that calls, as in CPython: it is the
// innermost frame.
PyRef CompileText(PyObject* source, bool is_exec) {
  if (PyCode_Check(source)) return PyRef::Borrow(source);
  Py_ssize_t size = 0;
  const char* text = PyUnicode_Check(source) ? PyUnicode_AsUTF8AndSize(source, &size) : nullptr;
  if (text == nullptr) return {};
  while (!is_exec && (*text == ' ' || *text == '\t')) ++text;
  PyCompilerFlags flags = _PyCompilerFlags_INIT;
  flags.cf_flags = PyCF_SOURCE_IS_UTF8;
  PyEval_MergeCompilerFlags(&flags);
  Disarmed disarmed;
  return PyRef::Steal(Py_CompileStringExFlags(text, "<string>", is_exec ? Py_file_input : Py_eval_input, &flags, -1));
}

bool IsModule(PyObject* globals, const char* module) {
  PyObject* name = PyDict_GetItemString(globals, "__name__");
  return name != nullptr && PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, module) == 0;
}

// Modules that ask a frame for the name of its module, and for nothing else.
bool AsksForModule(PyObject* globals) {
  for (const char* module : {"typing", "enum", "collections", "dataclasses"}) {
    if (IsModule(globals, module)) return true;
  }
  return false;
}

// One that asks for its variables as well.
bool AsksForVariables(PyObject* globals) { return IsModule(globals, "typing_extensions"); }

// The variables of a frame, as f_locals. Null, with or without an exception, where one is from another scope outside.
PyRef VariablesOf(const LiveFrame& frame, const absl::flat_hash_set<PyObject*>& local_cells) {
  PyRef variables = PyRef::Steal((frame.code->co_flags & CO_OPTIMIZED) != 0 ? PyDict_New() : nullptr);
  for (int slot = 0; variables && slot < frame.code->co_nlocalsplus; ++slot) {
    PyObject* value = frame.locals[slot];
    if (value != nullptr && PyCell_Check(value)) {
      if (!local_cells.contains(value)) return {};
      value = PyCell_GET(value);
    }
    if (value == nullptr) continue;
    if (IsUnread(value)) return {};
    PyObject* name = PyTuple_GET_ITEM(frame.code->co_localsplusnames, slot);
    if (PyDict_SetItem(variables.get(), name, value) != 0) return {};
  }
  return variables;
}

}  // namespace

// What the functions of the code are to have as their globals: the dict from outside that the program sees as a shadow,
// or a dict made inside. Null with a break. Borrowed.
PyObject* RecorderState::Impl::RealNamespace(PyObject* name_space) {
  static PyObject* const builtins_name = PyUnicode_InternFromString("__builtins__");
  if (Shadow* shadow = FindShadow(name_space)) {
    PyObject* real = shadow->real.get();
    if (PyDict_CheckExact(real) && PyDict_GetItemWithError(real, builtins_name) != nullptr) return real;
    return BreakNull(BreakCode::kUnsupportedEffect, "code made from text in a dict from outside that has no builtins");
  }
  if (!PyDict_CheckExact(name_space) || IsOutside(name_space))
    return BreakNull(BreakCode::kUnsupportedCallable, "code made from text in a special namespace");
  if (!local_namespaces.insert(name_space).second) return name_space;
  kept_alive.push_back(PyRef::Borrow(name_space));
  PyObject* builtins = PyDict_GetItemWithError(name_space, builtins_name);
  if (builtins == nullptr) {
    Shadow* shadow = GlobalsShadow(PyEval_GetBuiltins());
    if (shadow == nullptr || PyDict_SetItem(name_space, builtins_name, shadow->copy.get()) != 0) return nullptr;
  } else if (PyDict_CheckExact(builtins) && !IsOutside(builtins) && local_namespaces.insert(builtins).second) {
    kept_alive.push_back(PyRef::Borrow(builtins));
  }
  return name_space;
}

PyObject* RecorderState::Impl::RunCode(PyObject* code, PyObject* globals, PyObject* locals) {
  PyObject* outer = std::exchange(class_body, code);
  PyObject* result = PyEval_EvalCode(code, globals, locals);
  class_body = outer;
  return CheckFailure() != 0 ? (Py_XDECREF(result), nullptr) : result;
}

// exec(source, globals, locals) and eval(source, globals, locals).
PyObject* RecorderState::Impl::ModelExecute(const NativeCall& call) {
  PyObject* const* args = call.args;
  // Without namespaces it reads those of the frame.
  const bool usual = call.kwnames == nullptr && (call.nargs == 2 || call.nargs == 3) && args[1] != Py_None &&
                     PyDict_Check(args[1]) && (PyUnicode_CheckExact(args[0]) || PyCode_Check(args[0]));
  if (!usual) return BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(call.callable));
  PyObject* locals = call.nargs == 3 && args[2] != Py_None ? args[2] : args[1];
  PyObject* globals = RealNamespace(args[1]);
  if (globals == nullptr) return nullptr;
  PyRef code = CompileText(args[0], IsExec(call.callable));
  if (!code) return nullptr;
  if (PyCode_GetNumFree(reinterpret_cast<PyCodeObject*>(code.get())) > 0)
    return BreakNull(BreakCode::kUnsupportedCallable, "code with free variables");
  kept_alive.push_back(code);
  PyRef result = PyRef::Steal(RunCode(code.get(), globals, locals));
  return result && IsExec(call.callable) ? Py_NewRef(Py_None) : result.release();
}

// sys._getframe(depth), of which libraries ask f_globals and f_locals, and sys._getframemodulename(depth).
PyObject* RecorderState::Impl::ModelGetFrame(const NativeCall& call) {
  const long depth = call.nargs == 0 ? 0 : PyLong_Check(call.args[0]) ? PyLong_AsLong(call.args[0]) : -1;
  const long index = static_cast<long>(frames.size()) - 1 - depth;
  const bool usual = call.kwnames == nullptr && call.nargs <= 1 && depth >= 0 && index >= 0;
  if (PyErr_Occurred()) return nullptr;
  const bool asks_for_variables = usual && AsksForVariables(frames.back()->globals);
  if (!usual || !(asks_for_variables || AsksForModule(frames.back()->globals)))
    return BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(call.callable));
  PyObject* globals = frames[static_cast<size_t>(index)]->globals;
  PyRef seen = PyRef::Borrow(globals);
  if (!local_namespaces.contains(globals)) {
    Shadow* shadow = GlobalsShadow(globals);
    if (shadow == nullptr) return nullptr;
    seen = shadow->copy;
  }
  PyRef key = PyRef::Steal(PyUnicode_InternFromString("__name__"));
  if (!QualifiedName(call.callable).ends_with("_getframe")) {
    PyRef name = PyRef::Steal(key ? GlobalsGet(globals, key.get()) : nullptr);
    return name ? name.release() : PyErr_Occurred() || broken() ? nullptr : Py_NewRef(Py_None);
  }
  PyRef maker = ImportedAttribute("types", "SimpleNamespace");
  PyRef fields = PyRef::Steal(maker ? PyDict_New() : nullptr);
  PyRef none = PyRef::Steal(fields ? PyTuple_New(0) : nullptr);
  if (!none || PyDict_SetItemString(fields.get(), "f_globals", seen.get()) != 0) return nullptr;
  if (asks_for_variables) {
    PyRef variables = VariablesOf(*frames[static_cast<size_t>(index)], local_cells);
    if (!variables && !PyErr_Occurred())
      return BreakNull(BreakCode::kUnsupportedCallable, QualifiedName(call.callable) + ", for variables");
    if (!variables || PyDict_SetItemString(fields.get(), "f_locals", variables.get()) != 0) return nullptr;
  }
  return PyObject_Call(maker.get(), none.get(), fields.get());
}

}  // namespace framejit
