#include "backends/training/training.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/SavedTensorHooks.h>
#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <memory>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/training/backward_node.h"
#include "backends/training/program.h"

namespace framejit {
namespace {

// What only eager does exactly: anomaly detection names operators and lines, hooks pack each tensor that is saved, and
// forward-mode gradients go along.
bool NeedsEager() {
  return torch::autograd::AnomalyMode::is_enabled() || at::SavedTensorDefaultHooks::get_hooks().has_value() ||
         torch::autograd::ForwardADLevel::try_get_by_idx(0) != nullptr;
}

at::Tensor GeneratorState() {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

class TrainingGraph : public CompiledGraph {
 public:
  TrainingGraph(std::shared_ptr<TrainingProgram> program, std::unique_ptr<CompiledGraph> forward)
      : program_(std::move(program)), forward_(std::move(forward)) {}

  void Run(c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs) override {
    TORCH_CHECK(!NeedsEager(),
                "anomaly detection, default hooks on saved tensors or forward-mode gradients are active");
    at::Tensor generator_state;
    if (program_->random()) generator_state = GeneratorState();
    StateCheck check = program_->CheckOfThisCall();
    forward_->Run(inputs, outputs);
    auto node = MakeNode<BackwardNode>(program_, inputs, std::move(generator_state), std::move(check));
    for (int32_t position : program_->joint().differentiable_outputs) {
      at::Tensor& output = outputs[static_cast<size_t>(position)];
      if (output.is_view()) Detach(output);
      torch::autograd::set_history(output, node);
    }
    node->Save(outputs);
    if (program_->joint().freed) node->FreeAsAfterBackward();
    outputs.resize(program_->joint().output_count);
  }

  std::string Describe() const override { return absl::StrCat(forward_->Describe(), program_->Describe()); }

 private:
  // Without the base that it is a view of: nobody sees that.
  static void Detach(at::Tensor& output) {
    output = at::Tensor(output.unsafeGetTensorImpl()->shallow_copy_and_detach(c10::VariableVersion(0),
                                                                              /*allow_tensor_metadata_change=*/true));
  }

  const std::shared_ptr<TrainingProgram> program_;
  const std::unique_ptr<CompiledGraph> forward_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CompiledGraph>> CompileTraining(TrainingRequest request) {
  CompileRequest forward_request;
  forward_request.graph = &request.partition.forward;
  absl::StatusOr<std::unique_ptr<CompiledGraph>> forward = request.backend->Compile(forward_request);
  if (!forward.ok()) return forward.status();
  auto program = std::make_shared<TrainingProgram>(std::move(request));
  return std::make_unique<TrainingGraph>(std::move(program), *std::move(forward));
}

}  // namespace framejit
