#include "backends/training/training.h"

#include <ATen/SavedTensorHooks.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/dispatch.h"
#include "backends/training/backward_node.h"
#include "backends/training/program.h"
#include "backends/training/result_nodes.h"

namespace framejit {
namespace {

// What only eager does exactly: anomaly detection names operators and lines, hooks pack each tensor that is saved.
bool NeedsEager() {
  return torch::autograd::AnomalyMode::is_enabled() || at::SavedTensorDefaultHooks::get_hooks().has_value();
}

// Makes the results of one call that are views, under torch's own autograd.
class ViewMaker {
 public:
  ViewMaker(const OutputViews& views, c10::ArrayRef<at::Tensor> inputs) : views_(views), tensors_(views.value_count) {
    for (const OutputViews::Root& root : views_.roots) {
      if (root.is_input) tensors_[static_cast<size_t>(root.value)] = inputs[root.position];
    }
  }

  void LookAtInputs() {
    Call([](const OutputViews::Call& call) { return call.of_input; });
  }

  // Those that the program made before `sequence`, of inputs and of the forward graph's `outputs` that have histories.
  void MakeUpTo(uint64_t sequence, const std::vector<at::Tensor>& outputs) {
    for (const OutputViews::Root& root : views_.roots) {
      if (!root.is_input && outputs[root.position].grad_fn() != nullptr) Take(root, outputs);
    }
    Call([&](const OutputViews::Call& call) { return call.sequence != 0 && call.sequence < sequence; });
  }

  const at::Tensor& Result(size_t number) const { return tensors_[static_cast<size_t>(views_.results[number].view)]; }

  // `outputs`: the forward graph's, in place of which the call's results are put.
  void Finish(std::vector<at::Tensor>& outputs) {
    for (const OutputViews::Root& root : views_.roots) Take(root, outputs);
    Call([](const OutputViews::Call&) { return true; });
    std::vector<at::Tensor> results;
    results.reserve(views_.results.size());
    for (const OutputViews::Result& result : views_.results) {
      results.push_back(result.output >= 0 ? outputs[static_cast<size_t>(result.output)]
                                           : tensors_[static_cast<size_t>(result.view)]);
    }
    outputs = std::move(results);
  }

 private:
  void Take(const OutputViews::Root& root, const std::vector<at::Tensor>& outputs) {
    if (!root.is_input) tensors_[static_cast<size_t>(root.value)] = outputs[root.position];
  }

  // Of those that are selected, which were not made and whose operand is there.
  template <typename Select>
  void Call(Select selected) {
    torch::jit::Stack stack;
    for (const OutputViews::Call& call : views_.calls) {
      ValueId operand = kNoValue;
      ForEachOperandValue(call.node, [&](ValueId id) { operand = id; });
      const bool ready = tensors_[static_cast<size_t>(operand)].defined();
      if (!ready || !selected(call) || tensors_[static_cast<size_t>(call.node.outputs[0])].defined()) continue;
      at::AutoGradMode mode(call.gradients);
      stack.clear();
      PushOperands(call.node, tensors_, stack);
      call.node.op.callBoxed(stack);
      TORCH_INTERNAL_ASSERT(TakeResults(call.node, stack, tensors_), OperatorName(call.node.op),
                            " returned other results than were recorded");
    }
  }

  const OutputViews& views_;
  std::vector<at::Tensor> tensors_;  // by value of OutputViews
};

class TrainingGraph : public CompiledGraph {
 public:
  TrainingGraph(std::shared_ptr<TrainingProgram> program, std::unique_ptr<CompiledGraph> forward)
      : program_(std::move(program)), forward_(std::move(forward)) {}

  void Run(c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs) override {
    TORCH_CHECK(!NeedsEager(), "anomaly detection or default hooks on saved tensors are active");
    const OutputViews& views = program_->joint().views;
    const bool mixed = views.inputs == OutputViews::Order::kMixed || views.inputs == OutputViews::Order::kMixedBehind;
    TORCH_CHECK(!mixed || !BackwardNode::LeavesHaveHooks(*program_, inputs),
                "leaves have hooks, and views of inputs are made between what the backward computes");
    std::optional<DefaultGeneratorStates> generators;
    if (!program_->random().empty()) generators = DefaultGeneratorStates::Take(program_->random());
    StateCheck check = program_->CheckOfThisCall();
    forward_->Run(inputs, outputs);
    ViewMaker maker(views, inputs);
    // Of two nodes of autograd that could run, the one made later does.
    const bool one_node = program_->joint().differentiable_outputs.size() == 1 && program_->joint().cuts.empty();
    if (views.inputs == OutputViews::Order::kBefore || (one_node && views.inputs == OutputViews::Order::kMixed))
      maker.LookAtInputs();
    Differentiate(inputs, outputs, std::move(generators), std::move(check), one_node, maker);
    if (!views.calls.empty()) maker.Finish(outputs);
  }

  // Of the forward.
  std::vector<StepTime> TimeSteps(c10::ArrayRef<at::Tensor> inputs, double patience) override {
    return forward_->TimeSteps(inputs, patience);
  }

  std::string Describe() const override { return absl::StrCat(forward_->Describe(), program_->Describe()); }

 private:
  void Differentiate(c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs,
                     std::optional<DefaultGeneratorStates> generators, StateCheck check, bool one_node,
                     ViewMaker& maker) {
    const JointGraph& joint = program_->joint();
    if (joint.differentiable_outputs.empty()) return;
    auto node = MakeNode<BackwardNode>(program_, inputs, std::move(generators), std::move(check));
    for (int32_t position : joint.differentiable_outputs) {
      at::Tensor& output = outputs[static_cast<size_t>(position)];
      if (output.is_view()) Detach(output);
    }
    if (one_node) {
      torch::autograd::set_history(outputs[static_cast<size_t>(joint.differentiable_outputs[0])], node);
    } else {
      SetHistories(
          node, outputs, [&](uint64_t sequence) { maker.MakeUpTo(sequence, outputs); },
          [&](size_t result) -> const at::Tensor& { return maker.Result(result); });
    }
    for (size_t i = 0; i < joint.output_count; ++i) RaiseVersion(outputs[i], joint.output_versions[i]);
    node->Save(outputs);
    if (joint.freed) node->FreeAsAfterBackward();
    outputs.resize(joint.output_count);
  }

  // Without the base that it is a view of: nobody sees that.
  static void Detach(at::Tensor& output) {
    output = at::Tensor(output.unsafeGetTensorImpl()->shallow_copy_and_detach(c10::VariableVersion(0),
                                                                              /*allow_tensor_metadata_change=*/true));
  }

  const std::shared_ptr<TrainingProgram> program_;
  const std::unique_ptr<CompiledGraph> forward_;
};

}  // namespace

void RaiseVersion(const at::Tensor& result, uint32_t version) {
  if (version == 0 || result.is_inference()) return;
  c10::VariableVersion counter = result.unsafeGetTensorImpl()->version_counter();  // shares the count
  if (counter.current_version() < version) counter.set_version(version);
}

absl::StatusOr<std::unique_ptr<CompiledGraph>> CompileTraining(TrainingRequest request) {
  CompileRequest forward_request;
  forward_request.graph = &request.partition.forward;
  absl::StatusOr<std::unique_ptr<CompiledGraph>> forward = request.backend->Compile(forward_request);
  if (!forward.ok()) return forward.status();
  auto program = std::make_shared<TrainingProgram>(std::move(request));
  return std::make_unique<TrainingGraph>(std::move(program), *std::move(forward));
}

}  // namespace framejit
