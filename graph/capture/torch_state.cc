// Thread-local torch state: set for real while recording, put back on every path, and set again by the exit plan where
// the function leaves it changed.
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>

#include "graph/capture/recorder_impl.h"

namespace framejit {
namespace {

constexpr at::DeviceType kAutocastDevices[] = {at::kCPU, at::kCUDA};

}  // namespace

ProgramTorchState ProgramTorchState::Current() {
  ProgramTorchState state;
  state.grad_mode = at::GradMode::is_enabled();
  state.autocast_cache = at::autocast::is_autocast_cache_enabled();
  state.autocast_nesting = at::autocast::increment_nesting() - 1;
  at::autocast::decrement_nesting();
  for (size_t i = 0; i < 2; ++i) {
    state.autocast[i] = at::autocast::is_autocast_enabled(kAutocastDevices[i]);
    state.autocast_dtype[i] = at::autocast::get_autocast_dtype(kAutocastDevices[i]);
  }
  return state;
}

void RecorderState::Impl::SaveTorchState() {
  entry_state = ProgramTorchState::Current();
  entry_torch_function = at::impl::PythonTorchFunctionTLS::get_state();
  entry_modes = at::impl::PythonTorchFunctionTLS::stack_len();
}

void RecorderState::Impl::RestoreTorchState() {
  at::impl::PythonTorchFunctionTLS::set_state(entry_torch_function);
  const ProgramTorchState now = ProgramTorchState::Current();
  if (now == entry_state) return;
  for (int i = now.autocast_nesting; i > entry_state.autocast_nesting; --i) at::autocast::decrement_nesting();
  for (int i = now.autocast_nesting; i < entry_state.autocast_nesting; ++i) at::autocast::increment_nesting();
  at::GradMode::set_enabled(entry_state.grad_mode);
  at::autocast::set_autocast_cache_enabled(entry_state.autocast_cache);
  for (size_t i = 0; i < 2; ++i) {
    at::autocast::set_autocast_enabled(kAutocastDevices[i], entry_state.autocast[i]);
    at::autocast::set_autocast_dtype(kAutocastDevices[i], entry_state.autocast_dtype[i]);
  }
  // Casts of fakes must not outlive the recording.
  at::autocast::clear_cache();
}

void RecorderState::Impl::AddTorchStateEffects() {
  using at::impl::PythonTorchFunctionTLS;
  if (PythonTorchFunctionTLS::stack_len() != entry_modes ||
      PythonTorchFunctionTLS::get_disabled_state() != at::impl::ENABLED) {
    return Break(BreakCode::kTorchState, "a torch function mode is left active");
  }
  ProgramTorchState now = ProgramTorchState::Current();
  if (now == entry_state) return;
  const bool grad_mode = now.grad_mode;
  now.grad_mode = entry_state.grad_mode;
  if (!(now == entry_state)) return Break(BreakCode::kTorchState, "autocast is left changed");
  PyRef module = PyRef::Steal(PyImport_ImportModule("torch._C"));
  Effect effect{.kind = EffectKind::kCall, .callable = {}, .arguments = {}};
  if (module) effect.callable = PyRef::Steal(PyObject_GetAttrString(module.get(), "_set_grad_enabled"));
  effect.arguments = PyRef::Steal(PyTuple_Pack(1, grad_mode ? Py_True : Py_False));
  if (!effect.callable || !effect.arguments) return Break(BreakCode::kInternalError, "torch._C._set_grad_enabled");
  recording->exit_plan.effects.push_back(std::move(effect));
}

}  // namespace framejit
