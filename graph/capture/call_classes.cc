// Calls of a class statement, of custom autograd Functions, and of torch.utils.checkpoint.
#include <ATen/core/grad_mode.h>

#include <string_view>

#include "bytecode/decode.h"
#include "graph/capture/evaluator.h"
#include "graph/capture/recorder_impl.h"

namespace framejit {
namespace {

// Instructions of a class body that makes functions and stores them.
bool MakesFunctions(std::string_view name) {
  static constexpr std::string_view kNames[] = {
      "RESUME",       "NOP",         "CACHE",   "LOAD_NAME", "STORE_NAME",     "LOAD_CONST",  "RETURN_VALUE",
      "RETURN_CONST", "PUSH_NULL",   "PRECALL", "CALL",      "COPY_FREE_VARS", "MAKE_CELL",   "MAKE_FUNCTION",
      "LOAD_CLOSURE", "BUILD_TUPLE", "COPY",    "LOAD_FAST", "LOAD_LOCALS",    "STORE_DEREF", "SET_FUNCTION_ATTRIBUTE"};
  for (std::string_view known : kNames) {
    if (known == name) return true;
  }
  return false;
}

bool IsMethodKind(PyObject* name) {
  for (const char* known : {"staticmethod", "classmethod", "property"}) {
    if (PyUnicode_CompareWithASCIIString(name, known) == 0) return true;
  }
  return false;
}

class Native {
 public:
  Native() : armed_(RecordingHook::Arm(false)) {}
  ~Native() { RecordingHook::Arm(armed_); }
  Native(const Native&) = delete;
  Native& operator=(const Native&) = delete;

 private:
  FakeSession::Pause pause_;
  bool armed_;
};

bool RequiresGrad(PyObject* const* args, Py_ssize_t count) {
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (IsTensor(args[i]) && TensorOf(args[i]).requires_grad()) return true;
  }
  return false;
}

}  // namespace

// Whether a class body does nothing but define functions, so that it may run for real: it reads no variable but the
// builtins that wrap methods, and calls nothing else.
bool RecorderState::Impl::IsPlainClassBody(PyFunctionObject* body) {
  auto* code = reinterpret_cast<PyCodeObject*>(body->func_code);
  absl::StatusOr<DecodedCode> decoded = DecodedCode::Decode(code);
  if (!decoded.ok()) return false;
  for (const Instruction& instruction : decoded->instructions()) {
    const std::string_view opcode = instruction.info().name;
    if (!MakesFunctions(opcode)) return false;
    if (opcode != "LOAD_NAME") continue;
    PyObject* name = PyTuple_GET_ITEM(code->co_names, instruction.oparg);
    if (PyUnicode_CompareWithASCIIString(name, "__name__") == 0) continue;
    if (!IsMethodKind(name)) return false;
    PyRef shadowing = PyRef::Steal(GlobalsGet(body->func_globals, name));
    if (shadowing || PyErr_Occurred() || broken()) return false;
  }
  return true;
}

// The class and what its body made are of this recording, as functions made by a def statement are.
int RecorderState::Impl::NewLocalType(PyTypeObject* type) {
  auto* object = reinterpret_cast<PyObject*>(type);
  local_types.insert(object);
  kept_alive.push_back(PyRef::Borrow(object));
  PyRef dict = PyRef::Steal(ShimTypeDict(type));
  if (!dict) return -1;
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  for (Py_ssize_t cursor = 0; PyDict_Next(dict.get(), &cursor, &key, &value);) {
    PyRef function = PyRef::Borrow(value);
    if (PyType_IsSubtype(Py_TYPE(value), &PyProperty_Type))
      function = PyRef::Steal(PyObject_GetAttr(value, Names().fget));
    if (Py_TYPE(value) == &PyStaticMethod_Type || Py_TYPE(value) == &PyClassMethod_Type)
      function = PyRef::Steal(PyObject_GetAttrString(value, "__func__"));
    if (!function) return -1;
    if (PyFunction_Check(function.get()) && local_functions.insert(function.get()).second)
      kept_alive.push_back(function);
    if (PyCell_Check(value)) local_cells.insert(value);
  }
  return 0;
}

// __build_class__(body, name, *bases). Metaclasses of the program's own may do anything; type, and that of custom
// autograd Functions, only make classes.
PyObject* RecorderState::Impl::ModelBuildClass(const NativeCall& call) {
  const bool plain = call.nargs >= 2 && call.kwnames == nullptr && PyFunction_Check(call.args[0]);
  if (!plain) return BreakNull(BreakCode::kUnsupportedCallable, "a class statement with a metaclass or keywords");
  for (Py_ssize_t i = 2; i < call.nargs; ++i) {
    PyTypeObject* meta = Py_TYPE(call.args[i]);
    const bool known = meta == &PyType_Type || std::string_view(meta->tp_name) == "FunctionMeta";
    if (!known || local_types.contains(call.args[i]))
      return BreakNull(BreakCode::kUnsupportedCallable, std::string("a class statement with base ") + meta->tp_name);
    auto* base = reinterpret_cast<PyTypeObject*>(call.args[i]);
    PyRef hook = PyRef::Steal(PyUnicode_InternFromString("__init_subclass__"));
    PyObject* found = hook ? ShimTypeLookup(base, hook.get()) : nullptr;
    if (found == nullptr || Py_TYPE(found) != &PyClassMethodDescr_Type)
      return BreakNull(BreakCode::kUnsupportedCallable, "a class statement with __init_subclass__");
    GuardType(base);
  }
  if (!IsPlainClassBody(reinterpret_cast<PyFunctionObject*>(call.args[0])))
    return broken() ? nullptr : BreakNull(BreakCode::kUnsupportedCallable, "a class statement that computes");
  PyRef made;
  {
    Native native;
    made = PyRef::Steal(PyObject_Vectorcall(call.callable, call.args, static_cast<size_t>(call.nargs), nullptr));
  }
  if (!made || !PyType_Check(made.get())) return made.release();
  return NewLocalType(reinterpret_cast<PyTypeObject*>(made.get())) != 0 ? nullptr : made.release();
}

// As torch._C._set_grad_enabled called by the program.
int RecorderState::Impl::SetGradMode(bool enabled) {
  PyRef module = PyRef::Steal(PyImport_ImportModule("torch._C"));
  PyRef function = PyRef::Steal(module ? PyObject_GetAttrString(module.get(), "_set_grad_enabled") : nullptr);
  PyObject* arg = enabled ? Py_True : Py_False;
  PyRef done = PyRef::Steal(function ? ModelTorchState({function.get(), &arg, 1, nullptr}) : nullptr);
  return done ? 0 : -1;
}

// The C part of autograd.Function.apply calls forward without gradients. Where there is one to compute, its backward
// is the program's.
PyObject* RecorderState::Impl::ModelFunctionApply(const NativeCall& call) {
  const bool enabled = at::GradMode::is_enabled();
  if (enabled && RequiresGrad(call.args, call.total()))
    return BreakNull(BreakCode::kAutograd, "a custom Function whose arguments require grad");
  if (PrepareArguments(call) != 0 || (enabled && SetGradMode(false) != 0)) return nullptr;
  PyRef result = PyRef::Steal(CallReal(call));
  if (broken()) return nullptr;
  // Also where it raised: a handler of the program goes on with gradients.
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  const bool restored = !enabled || SetGradMode(true) == 0;
  if (!restored) return Py_XDECREF(type), Py_XDECREF(value), Py_XDECREF(traceback), nullptr;
  PyErr_Restore(type, value, traceback);
  return result ? Scan(result.release()) : nullptr;
}

// checkpoint(function, *args, use_reentrant=..., preserve_rng_state=True, **kwargs)
PyObject* RecorderState::Impl::ModelCheckpoint(const NativeCall& call) {
  PyObject* reentrant = nullptr;
  std::vector<PyObject*> args(call.args + std::min<Py_ssize_t>(call.nargs, 1), call.args + call.nargs);
  PyRef names = PyRef::Steal(PyList_New(0));
  bool others = false;
  for (Py_ssize_t i = 0; names && call.kwnames != nullptr && i < PyTuple_GET_SIZE(call.kwnames); ++i) {
    PyObject* name = PyTuple_GET_ITEM(call.kwnames, i);
    PyObject* value = call.args[call.nargs + i];
    if (PyUnicode_CompareWithASCIIString(name, "use_reentrant") == 0) {
      reentrant = value;
    } else if (PyUnicode_CompareWithASCIIString(name, "preserve_rng_state") != 0) {
      for (const char* option : {"context_fn", "determinism_check", "debug", "early_stop"})
        others |= PyUnicode_CompareWithASCIIString(name, option) == 0;
      if (PyList_Append(names.get(), name) != 0) return nullptr;
      args.push_back(value);
    }
  }
  PyRef kwnames = PyRef::Steal(names ? PyList_AsTuple(names.get()) : nullptr);
  if (!kwnames) return nullptr;
  if (at::GradMode::is_enabled())
    return BreakNull(BreakCode::kAutograd, "checkpoint, whose inside the backward is to compute again");
  // A reentrant one has a backward of its own, and gives views of what it is given.
  if (call.nargs < 1 || reentrant != Py_False || others)
    return BreakNull(BreakCode::kAutograd, "checkpoint, but for use_reentrant=False without further options");
  const bool keywords = PyTuple_GET_SIZE(kwnames.get()) > 0;
  return Call(call.args[0], args.data(), call.nargs - 1, keywords ? kwnames.get() : nullptr);
}

}  // namespace framejit
