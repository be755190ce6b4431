// Calls of custom autograd Functions and of torch.utils.checkpoint.
#include <ATen/core/grad_mode.h>

#include "graph/capture/recorder_impl.h"

namespace framejit {
namespace {

bool RequiresGrad(PyObject* const* args, Py_ssize_t count) {
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (IsTensor(args[i]) && TensorOf(args[i]).requires_grad()) return true;
  }
  return false;
}

}  // namespace

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
