#include "frame_eval/guards/torch_state.h"

#include <ATen/Context.h>
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/autocast_mode.h>
#include <c10/core/AutogradState.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/ScalarTypeToTypeMeta.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/Device.h>
#include <torch/csrc/PyInterpreter.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "frame_eval/cpython/py_ref.h"

namespace framejit {
namespace {

uint32_t AutogradFlags() {
  const c10::AutogradState& state = c10::AutogradState::get_tls_state();
  return (state.get_grad_mode() ? 1u : 0u) | (state.get_inference_mode() ? 2u : 0u) |
         (state.get_fw_grad_mode() ? 4u : 0u);
}

uint32_t ProcessFlags() {
  const at::Context& context = at::globalContext();
  return (context.deterministicAlgorithms() ? 1u : 0u) | (context.userEnabledFlashSDP() ? 2u : 0u) |
         (context.userEnabledMemEfficientSDP() ? 4u : 0u) | (context.userEnabledMathSDP() ? 8u : 0u) |
         (context.userEnabledMkldnn() ? 16u : 0u);
}

PyObject* FunctionMode(int64_t index) {
  return at::impl::PythonTorchFunctionTLS::get_stack_at(index)->ptr(getPyInterpreter());
}

// The mode's device; 0 where it has none. torch.device contexts are made anew each time, at whatever address.
uint64_t DeviceOfMode(PyObject* mode) {
  PyRef device = PyRef::Steal(PyObject_GetAttrString(mode, "device"));
  if (!device || !THPDevice_Check(device.get())) return PyErr_Clear(), 0;
  const c10::Device& value = reinterpret_cast<THPDevice*>(device.get())->device;
  return static_cast<uint64_t>(static_cast<uint8_t>(value.type())) << 8 | static_cast<uint8_t>(value.index()) |
         1u << 16;
}

uint64_t DevicesOfModes(int64_t length) {
  uint64_t devices = 0;
  for (int64_t i = 0; i < length; ++i) devices = devices * 1000003u + DeviceOfMode(FunctionMode(i));
  return devices;
}

// torch.utils._device.DeviceContext; null where this torch has none.
PyObject* DeviceContextType() {
  static PyObject* const type = [] {
    PyRef module = PyRef::Steal(PyImport_ImportModule("torch.utils._device"));
    PyObject* found = module ? PyObject_GetAttrString(module.get(), "DeviceContext") : nullptr;
    if (found == nullptr) PyErr_Clear();
    return found;
  }();
  return type;
}

}  // namespace

TorchState TorchState::Capture() {
  TorchState state;
  const c10::impl::LocalDispatchKeySet keys = c10::impl::tls_local_dispatch_key_set();
  state.included_keys = keys.included_.raw_repr();
  state.excluded_keys = keys.excluded_.raw_repr();
  state.autograd_flags = AutogradFlags();
  state.process_flags = ProcessFlags();
  const int64_t function_modes = at::impl::PythonTorchFunctionTLS::stack_len();
  state.function_modes = static_cast<uint32_t>(function_modes) << 2 |
                         static_cast<uint32_t>(at::impl::PythonTorchFunctionTLS::get_disabled_state());
  if (function_modes != 0) state.default_device = DevicesOfModes(function_modes);
  state.dispatch_modes = static_cast<uint32_t>(c10::impl::TorchDispatchModeTLS::stack_len());
  state.default_dtype = static_cast<int8_t>(c10::typeMetaToScalarType(c10::get_default_dtype()));
  state.autocast_cpu_dtype = static_cast<int8_t>(at::autocast::get_autocast_dtype(at::kCPU));
  state.autocast_cuda_dtype = static_cast<int8_t>(at::autocast::get_autocast_dtype(at::kCUDA));
  state.autocast_cache = at::autocast::is_autocast_cache_enabled();
  return state;
}

std::string TorchState::Difference(const TorchState& actual) const {
  std::vector<std::string> parts;
  auto flag = [&](const char* name, uint32_t expected_bits, uint32_t actual_bits, uint32_t bit) {
    if (((expected_bits ^ actual_bits) & bit) == 0) return;
    parts.push_back(absl::StrCat(name, " is ", (actual_bits & bit) ? "True" : "False", ", expected ",
                                 (expected_bits & bit) ? "True" : "False"));
  };
  auto dtype = [&](const char* name, int8_t expected_dtype, int8_t actual_dtype) {
    if (expected_dtype == actual_dtype) return;
    parts.push_back(absl::StrCat(name, " is ", c10::toString(static_cast<c10::ScalarType>(actual_dtype)), ", expected ",
                                 c10::toString(static_cast<c10::ScalarType>(expected_dtype))));
  };
  flag("grad_mode", autograd_flags, actual.autograd_flags, 1);
  flag("inference_mode", autograd_flags, actual.autograd_flags, 2);
  flag("forward_grad_mode", autograd_flags, actual.autograd_flags, 4);
  flag("deterministic_algorithms", process_flags, actual.process_flags, 1);
  flag("flash_sdp_enabled", process_flags, actual.process_flags, 2);
  flag("mem_efficient_sdp_enabled", process_flags, actual.process_flags, 4);
  flag("math_sdp_enabled", process_flags, actual.process_flags, 8);
  flag("mkldnn_enabled", process_flags, actual.process_flags, 16);
  dtype("default_dtype", default_dtype, actual.default_dtype);
  dtype("autocast dtype on cpu", autocast_cpu_dtype, actual.autocast_cpu_dtype);
  dtype("autocast dtype on cuda", autocast_cuda_dtype, actual.autocast_cuda_dtype);
  flag("autocast_cache", autocast_cache, actual.autocast_cache, 1);
  if (function_modes != actual.function_modes || default_device != actual.default_device) {
    parts.push_back("torch function modes (default device, user modes) differ");
  }
  if (dispatch_modes != actual.dispatch_modes) parts.push_back("torch dispatch modes differ");
  auto keys = [&](const char* name, uint64_t expected_keys, uint64_t actual_keys) {
    if (expected_keys == actual_keys) return;
    c10::DispatchKeySet changed(c10::DispatchKeySet::RAW, expected_keys ^ actual_keys);
    parts.push_back(
        absl::StrCat(name, " dispatch keys differ (autocast, functorch or modes): ", c10::toString(changed)));
  };
  keys("included", included_keys, actual.included_keys);
  keys("excluded", excluded_keys, actual.excluded_keys);
  return absl::StrJoin(parts, "; ");
}

bool UserModesActive() {
  if (c10::impl::TorchDispatchModeTLS::stack_len() != 0) return true;
  if (c10::impl::tls_local_dispatch_key_set().included_.has(c10::DispatchKey::Tracer)) return true;
  for (int64_t i = at::impl::PythonTorchFunctionTLS::stack_len(); i-- > 0;) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(FunctionMode(i))) != DeviceContextType()) return true;
  }
  return false;
}

}  // namespace framejit
