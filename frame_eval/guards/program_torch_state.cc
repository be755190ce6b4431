#include "frame_eval/guards/program_torch_state.h"

#include <ATen/autocast_mode.h>
#include <c10/core/AutogradState.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/ScalarTypeToTypeMeta.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace framejit {
namespace {

constexpr at::DeviceType kAutocastDevices[] = {at::kCPU, at::kCUDA};

}  // namespace

AutogradModes AutogradModes::Current() {
  const c10::AutogradState& state = c10::AutogradState::get_tls_state();
  return {state.get_grad_mode(), state.get_inference_mode(), state.get_fw_grad_mode(),
          state.get_multithreading_enabled()};
}

// The dispatch keys as c10::InferenceMode sets them, which keeps those before for its own end.
void AutogradModes::Set() const {
  c10::AutogradState state = c10::AutogradState::get_tls_state();
  const bool changes = state.get_inference_mode() != inference;
  state.set_grad_mode(grad);
  state.set_inference_mode(inference);
  state.set_fw_grad_mode(forward_grad);
  state.set_multithreading_enabled(multithreading);
  c10::AutogradState::set_tls_state(state);
  if (!changes) return;
  const c10::DispatchKeySet in_place(c10::DispatchKey::ADInplaceOrView);
  const c10::impl::LocalDispatchKeySet now = c10::impl::tls_local_dispatch_key_set();
  c10::impl::PODLocalDispatchKeySet keys{};
  keys.set_included(inference ? now.included_ - in_place : now.included_ | in_place);
  keys.set_excluded(inference ? now.excluded_ | c10::autograd_dispatch_keyset
                              : now.excluded_ - c10::autograd_dispatch_keyset);
  c10::impl::_force_tls_local_dispatch_key_set(keys);
}

ProgramTorchState ProgramTorchState::Current() {
  ProgramTorchState state;
  state.autograd = AutogradModes::Current();
  state.default_dtype = c10::typeMetaToScalarType(c10::get_default_dtype());
  state.autocast_cache = at::autocast::is_autocast_cache_enabled();
  state.autocast_nesting = at::autocast::increment_nesting() - 1;
  at::autocast::decrement_nesting();
  for (size_t i = 0; i < 2; ++i) {
    state.autocast[i] = at::autocast::is_autocast_enabled(kAutocastDevices[i]);
    state.autocast_dtype[i] = at::autocast::get_autocast_dtype(kAutocastDevices[i]);
  }
  return state;
}

void ProgramTorchState::Set() const {
  const ProgramTorchState now = Current();
  if (now == *this) return;
  for (int i = now.autocast_nesting; i > autocast_nesting; --i) at::autocast::decrement_nesting();
  for (int i = now.autocast_nesting; i < autocast_nesting; ++i) at::autocast::increment_nesting();
  autograd.Set();
  if (now.default_dtype != default_dtype) c10::set_default_dtype(c10::scalarTypeToTypeMeta(default_dtype));
  at::autocast::set_autocast_cache_enabled(autocast_cache);
  for (size_t i = 0; i < 2; ++i) {
    at::autocast::set_autocast_enabled(kAutocastDevices[i], autocast[i]);
    at::autocast::set_autocast_dtype(kAutocastDevices[i], autocast_dtype[i]);
  }
  at::autocast::clear_cache();
}

}  // namespace framejit
