#include "frame_eval/checkpoint_reads.h"

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "frame_eval/with_gil.h"
#include "graph/capture/imported.h"

namespace framejit {
namespace {

struct HeldCall {
  PyRef function;
  std::vector<PyRef> slots;
  bool function_varies;
};

[[noreturn]] void Raise(const std::string& what) {
  PyRef error = ImportedAttribute("torch.utils.checkpoint", "CheckpointError");
  if (error) {
    const std::string text = absl::StrCat(
        "framejit: what a checkpointed function reads changed between the forward and the backward: ", what);
    PyErr_SetString(error.get(), text.c_str());
  }
  python_error raised;
  raised.persist();
  throw std::move(raised);
}

}  // namespace

absl::StatusOr<std::shared_ptr<CheckpointReads>> CheckpointReads::Make(
    const SourceTable& sources, const GuardList& reads, const std::vector<SourceId>& inputs, std::vector<size_t> saved,
    const CallState& state, std::vector<std::string> argument_names) {
  GuardList others;
  std::vector<SourceId> fetch;
  std::vector<size_t> tensors;
  for (const Guard& guard : reads.guards()) {
    if (guard.kind != GuardKind::kTensorMatches) {
      others.Add(guard);
      continue;
    }
    const auto input = std::find(inputs.begin(), inputs.end(), guard.source);
    if (input == inputs.end()) continue;
    fetch.push_back(guard.source);
    tensors.push_back(static_cast<size_t>(input - inputs.begin()));
  }
  absl::StatusOr<std::unique_ptr<GuardProgram>> guards =
      GuardProgram::Build(sources, others, fetch, state, std::move(argument_names));
  if (!guards.ok()) return guards.status();
  // Its guards may hold Python objects; calls share it.
  std::shared_ptr<std::unique_ptr<CheckpointReads>> owner =
      SharedWithGil(std::unique_ptr<CheckpointReads>(new CheckpointReads(*std::move(guards))));
  (*owner)->tensors_ = std::move(tensors);
  (*owner)->saved_ = std::move(saved);
  return std::shared_ptr<CheckpointReads>(owner, owner->get());
}

// The inputs, with the tensors in their place that are there now.
std::vector<at::Tensor> CheckpointReads::Fetch(c10::ArrayRef<at::Tensor> inputs) const {
  std::vector<at::Tensor> now = inputs.vec();
  for (size_t i = 0; i < tensors_.size(); ++i) {
    PyObject* object = guards_->Fetched()[i];
    at::Tensor& input = now[tensors_[i]];
    if (!THPVariable_Check(object)) Raise("a tensor is none any more");
    const at::Tensor& tensor = THPVariable_Unpack(object);
    if (tensor.is_same(input)) continue;
    const bool alike = tensor.scalar_type() == input.scalar_type() && tensor.sizes() == input.sizes() &&
                       tensor.device() == input.device() && tensor.layout() == input.layout() &&
                       tensor.key_set() == input.key_set() && tensor.requires_grad() == input.requires_grad();
    if (!alike) Raise("a tensor was replaced by one of another kind");
    if (std::find(saved_.begin(), saved_.end(), tensors_[i]) != saved_.end())
      Raise("a tensor was replaced that the function reads outside of checkpoints as well");
    input = tensor.detach();
  }
  return now;
}

StateCheck CheckpointReads::CheckOfThisCall(const std::shared_ptr<CheckpointReads>& reads) {
  const CallState& current = *reads->current_;
  HeldCall call{PyRef::Borrow(current.function), {}, current.function_varies};
  for (PyObject* slot : current.slots) call.slots.push_back(PyRef::Borrow(slot));
  return [reads, held = SharedWithGil(std::move(call))](c10::ArrayRef<at::Tensor> inputs) {
    pybind11::gil_scoped_acquire gil;
    std::vector<PyObject*> slots;
    for (const PyRef& slot : held->slots) slots.push_back(slot.get());
    const CallState state{held->function.get(), slots, held->function_varies};
    const GuardResult result = reads->guards_->Check(state);
    PyErr_Clear();
    if (result != GuardResult::kPass) Raise(reads->guards_->ExplainFailure(state));
    std::vector<at::Tensor> now = reads->Fetch(inputs);
    reads->guards_->Release();
    return now;
  };
}

}  // namespace framejit
