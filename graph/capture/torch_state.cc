// Thread-local torch state: set for real while recording, put back on every path, and set again by the exit plan where
// the function leaves it changed.
#include <c10/core/DefaultDtype.h>
#include <c10/core/ScalarTypeToTypeMeta.h>
#include <torch/csrc/DynamicTypes.h>

#include <algorithm>

#include "graph/capture/imported.h"
#include "graph/capture/recorder_impl.h"

namespace framejit {
namespace {

PyObject* Truth(bool value) { return value ? Py_True : Py_False; }

// Whether the operator computes the same whatever the default dtype is: from floating-point tensors, of their dtypes.
bool IgnoresDefaultDtype(const Node& node, const Graph& graph) {
  std::vector<at::ScalarType> dtypes;
  ForEachOperandValue(node, [&](ValueId id) { dtypes.push_back(graph.meta(id).dtype); });
  if (dtypes.empty() ||
      !std::all_of(dtypes.begin(), dtypes.end(), [](at::ScalarType t) { return at::isFloatingType(t); }))
    return false;
  return std::all_of(node.outputs.begin(), node.outputs.end(), [&](ValueId id) {
    return id == kNoValue || std::find(dtypes.begin(), dtypes.end(), graph.meta(id).dtype) != dtypes.end();
  });
}

}  // namespace

void RecorderState::Impl::SaveTorchState() {
  entry_state = ProgramTorchState::Current();
  entry_torch_function = at::impl::PythonTorchFunctionTLS::get_state();
  entry_modes = at::impl::PythonTorchFunctionTLS::stack_len();
}

void RecorderState::Impl::RestoreTorchState() {
  at::impl::PythonTorchFunctionTLS::set_state(entry_torch_function);
  entry_state.Set();  // and casts of fakes do not outlive the recording
}

void RecorderState::Impl::AddTorchStateEffects() {
  using at::impl::PythonTorchFunctionTLS;
  if (PythonTorchFunctionTLS::stack_len() != entry_modes ||
      PythonTorchFunctionTLS::get_disabled_state() != at::impl::ENABLED) {
    return Break(BreakCode::kTorchState, "a torch function mode is left active");
  }
  ProgramTorchState now = ProgramTorchState::Current();
  if (now == entry_state) return;
  const auto add_call = [&](const char* module, const char* name, PyRef arguments) {
    Effect effect{
        .kind = EffectKind::kCall, .callable = ImportedAttribute(module, name), .arguments = std::move(arguments)};
    if (!effect.callable || !effect.arguments) return Break(BreakCode::kInternalError, name);
    recording->exit_plan.effects.push_back(std::move(effect));
  };
  const AutogradModes modes = std::exchange(now.autograd, entry_state.autograd);
  const at::ScalarType dtype = std::exchange(now.default_dtype, entry_state.default_dtype);
  if (!(now == entry_state)) return Break(BreakCode::kTorchState, "autocast is left changed");
  if (dtype != entry_state.default_dtype)
    add_call("torch._C", "_set_default_dtype", PyRef::Steal(PyTuple_Pack(1, torch::getTHPDtype(dtype))));
  now.autograd.grad = modes.grad;
  if (!(now.autograd == modes)) {
    add_call("framejit._C", "exchange_autograd_modes",
             PyRef::Steal(PyTuple_Pack(4, Truth(modes.grad), Truth(modes.inference), Truth(modes.forward_grad),
                                       Truth(modes.multithreading))));
  } else if (modes.grad != entry_state.autograd.grad) {
    add_call("torch._C", "_set_grad_enabled", PyRef::Steal(PyTuple_Pack(1, Truth(modes.grad))));
  }
}

// Operators that were recorded under another default dtype than the entry's run under the entry's, but for the
// torch-level graph.
void RecorderState::Impl::CheckDefaultDtype() {
  const Graph& graph = session.graph();
  const size_t end = graph.nodes.size();
  const size_t begin = std::exchange(dtype_checked, end);
  if (c10::typeMetaToScalarType(c10::get_default_dtype()) == entry_state.default_dtype) return;
  const bool same = std::all_of(graph.nodes.begin() + static_cast<std::ptrdiff_t>(begin), graph.nodes.end(),
                                [&](const Node& node) { return IgnoresDefaultDtype(node, graph); });
  if (!same) recording->torch_level = "operators under another default dtype";
}

PyObject* RecorderState::Impl::ModelTorchState(const NativeCall& call) {
  TorchCall record{.kind = TorchCall::Kind::kFunction,
                   .target = PyRef::Borrow(call.callable),
                   .args = {},
                   .kwargs = {},
                   .result = {}};
  for (Py_ssize_t i = 0; i < call.nargs; ++i) {
    if (!IsConstant(call.args[i])) return BreakNull(BreakCode::kTorchState, QualifiedName(call.callable));
    record.args.emplace_back().constant = PyRef::Borrow(call.args[i]);
  }
  if (call.kwnames != nullptr) return BreakNull(BreakCode::kTorchState, QualifiedName(call.callable));
  record.location = CurrentLocation();
  CheckDefaultDtype();
  const bool inference = AutogradModes::Current().inference;
  PyRef result = PyRef::Steal(CallReal(call));
  if (!result) return nullptr;
  changes_inference |= AutogradModes::Current().inference != inference;
  changes_dtype |= c10::typeMetaToScalarType(c10::get_default_dtype()) != entry_state.default_dtype;
  record.result.constant = result;
  recording->torch_graph.calls.push_back(std::move(record));
  return result.release();
}

// torch's own object sets the state of its thread again when it dies, which may be long after the recording.
PyObject* RecorderState::Impl::ModelInferenceMode(const NativeCall& call) {
  PyRef stand_in = ImportedAttribute("framejit._state", "InferenceMode");
  return stand_in ? Call(stand_in.get(), call.args, call.nargs, call.kwnames) : nullptr;
}

}  // namespace framejit
