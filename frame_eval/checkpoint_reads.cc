#include "frame_eval/checkpoint_reads.h"

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>

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

absl::StatusOr<std::shared_ptr<CheckpointReads>> CheckpointReads::Make(const SourceTable& sources,
                                                                       const GuardList& reads, const CallState& state,
                                                                       std::vector<std::string> argument_names) {
  absl::StatusOr<std::unique_ptr<GuardProgram>> guards =
      GuardProgram::Build(sources, reads, {}, state, std::move(argument_names));
  if (!guards.ok()) return guards.status();
  // Its guards may hold Python objects; calls share it.
  std::shared_ptr<std::unique_ptr<CheckpointReads>> owner =
      SharedWithGil(std::unique_ptr<CheckpointReads>(new CheckpointReads(*std::move(guards))));
  return std::shared_ptr<CheckpointReads>(owner, owner->get());
}

StateCheck CheckpointReads::CheckOfThisCall(const std::shared_ptr<CheckpointReads>& reads) {
  const CallState& current = *reads->current_;
  HeldCall call{PyRef::Borrow(current.function), {}, current.function_varies};
  for (PyObject* slot : current.slots) call.slots.push_back(PyRef::Borrow(slot));
  return [reads, held = SharedWithGil(std::move(call))] {
    pybind11::gil_scoped_acquire gil;
    std::vector<PyObject*> slots;
    for (const PyRef& slot : held->slots) slots.push_back(slot.get());
    const CallState state{held->function.get(), slots, held->function_varies};
    const GuardResult result = reads->guards_->Check(state);
    PyErr_Clear();
    if (result != GuardResult::kPass) Raise(reads->guards_->ExplainFailure(state));
    reads->guards_->Release();
  };
}

}  // namespace framejit
