#include "backends/training/backward_node.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/utils/pybind.h>

#include <optional>
#include <utility>

namespace framejit {
namespace {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// Anything but a dense tensor in CPU memory goes through the dispatcher: batched tensors of vmap, subclasses, sparse
// ones.
bool IsPlain(const at::Tensor& tensor) {
  static const c10::DispatchKeySet plain =
      c10::DispatchKeySet(c10::DispatchKey::CPU) |
      c10::getAutogradRelatedKeySetFromBackend(c10::BackendComponent::CPUBit) |
      c10::getAutocastRelatedKeySetFromBackend(c10::BackendComponent::CPUBit) |
      c10::DispatchKeySet({c10::DispatchKey::ADInplaceOrView, c10::DispatchKey::Conjugate, c10::DispatchKey::Negative,
                           c10::DispatchKey::ZeroTensor});
  return (tensor.key_set().raw_repr() & ~plain.raw_repr()) == 0 && tensor.has_storage();
}

// The tensor in the layout that the backward was compiled for: gradients come in any, and an operator of the forward
// may have given its result another one than was recorded.
at::Tensor InLayout(const at::Tensor& tensor, const TensorMeta& meta) {
  bool same = tensor.scalar_type() == meta.dtype && !tensor.is_conj() && !tensor.is_neg() && !tensor._is_zerotensor();
  for (size_t i = 0; same && i < meta.sizes.size(); ++i) {
    same = meta.sizes[i] <= 1 || tensor.stride(static_cast<int64_t>(i)) == meta.strides[i];
  }
  if (same) return tensor;
  return at::empty_strided(meta.sizes, meta.strides, tensor.options().dtype(meta.dtype)).copy_(tensor);
}

void Add(variable_list& sum, variable_list&& more) {
  for (size_t i = 0; i < sum.size(); ++i) {
    if (!more[i].defined()) continue;
    sum[i] = sum[i].defined() ? sum[i].add(more[i]) : std::move(more[i]);
  }
}

// The default generator as it was before the forward, and as it is now afterwards.
class ReplayedGenerator {
 public:
  explicit ReplayedGenerator(const at::Tensor& state) : generator_(at::detail::getDefaultCPUGenerator()) {
    if (!state.defined()) return;
    std::lock_guard<std::mutex> lock(generator_.mutex());
    now_ = generator_.get_state();
    generator_.set_state(state);
  }
  ~ReplayedGenerator() {
    if (!now_.defined()) return;
    std::lock_guard<std::mutex> lock(generator_.mutex());
    generator_.set_state(now_);
  }
  ReplayedGenerator(const ReplayedGenerator&) = delete;
  ReplayedGenerator& operator=(const ReplayedGenerator&) = delete;

 private:
  at::Generator generator_;
  at::Tensor now_;
};

}  // namespace

BackwardNode::BackwardNode(std::shared_ptr<TrainingProgram> program, c10::ArrayRef<at::Tensor> inputs,
                           at::Tensor generator_state)
    : program_(std::move(program)),
      inputs_(inputs.begin(), inputs.end()),
      generator_state_(std::move(generator_state)) {
  torch::autograd::edge_list edges;
  edges.reserve(program_->joint().differentiable_inputs.size());
  for (int32_t position : program_->joint().differentiable_inputs) {
    edges.push_back(torch::autograd::impl::gradient_edge(inputs_[static_cast<size_t>(position)]));
  }
  set_next_edges(std::move(edges));
  versions_.reserve(inputs_.size());
  for (const at::Tensor& input : inputs_) versions_.push_back(input.is_inference() ? 0 : input._version());
}

void BackwardNode::Save(const std::vector<at::Tensor>& results) {
  saved_.reserve(program_->partition().saved.size());
  for (const SavedValue& saved : program_->partition().saved) {
    const auto index = static_cast<size_t>(saved.index);
    switch (saved.kind) {
      case SavedValue::Kind::kInput:
        saved_.emplace_back(inputs_[index], false);
        break;
      case SavedValue::Kind::kOutput:
        saved_.emplace_back(results[index], results[index].requires_grad());
        break;
      case SavedValue::Kind::kIntermediate: {
        at::Tensor tensor = results[index];
        if (saved.shares_output >= 0) {
          const at::Tensor& output = results[static_cast<size_t>(saved.shares_output)];
          tensor = at::Tensor(tensor.unsafeGetTensorImpl()->shallow_copy_and_detach(
              output.unsafeGetTensorImpl()->version_counter(), /*allow_tensor_metadata_change=*/true));
        }
        saved_.emplace_back(tensor, false);
        break;
      }
    }
  }
}

void BackwardNode::CheckNotFreed(OutputMask given) const {
  TORCH_CHECK((freed_ & given) == 0, torch::autograd::ERR_BACKWARD_TWICE);
}

// Eager frees what the nodes that ran have saved, which is what these outputs and those that share such nodes need.
void BackwardNode::Free(OutputMask given) {
  const JointGraph& joint = program_->joint();
  for (size_t i = 0; i < joint.frees.size(); ++i) {
    if (given >> i & 1) freed_ |= joint.frees[i];
  }
  for (size_t i = 0; i < saved_.size(); ++i) {
    if ((program_->partition().saved[i].used_by & ~freed_) == 0) saved_[i].reset_data();
  }
  const OutputMask all = (OutputMask{1} << joint.frees.size()) - 1;
  if ((freed_ & all) != all) return;
  inputs_.clear();
  generator_state_.reset();
}

// Called after apply by a backward that does not retain the graph, and when the node dies.
void BackwardNode::release_variables() {
  std::lock_guard<std::mutex> lock(mutex_);
  const OutputMask all = (OutputMask{1} << program_->joint().frees.size()) - 1;
  Free(last_given_ == 0 ? all : last_given_);
}

std::vector<bool> BackwardNode::WantedGradients() {
  std::vector<bool> wanted(num_outputs());
  for (size_t i = 0; i < wanted.size(); ++i) wanted[i] = task_should_compute_output(i);
  return wanted;
}

// Adds to `converted` the memory of tangents that were brought into another layout.
std::vector<at::Tensor> BackwardNode::SectionInputs(const BackwardVariant& variant, const Variables& tangents,
                                                    bool by_operator, std::vector<const void*>* converted) {
  std::vector<at::Tensor> inputs;
  inputs.reserve(variant.plan.graph.inputs.size());
  auto add = [&](const at::Tensor& tensor) {
    const TensorMeta& meta = variant.plan.graph.meta(variant.plan.graph.inputs[inputs.size()]);
    inputs.push_back(by_operator ? tensor : InLayout(tensor, meta));
  };
  for (int32_t index : variant.plan.saved) add(saved_[static_cast<size_t>(index)].unpack(getptr()));
  for (int32_t index : variant.plan.tangents) {
    const at::Tensor& tangent = tangents[static_cast<size_t>(index)];
    add(tangent);
    if (!inputs.back().is_same(tangent)) converted->push_back(inputs.back().storage().unsafeGetStorageImpl());
  }
  return inputs;
}

// With `release`, what only this section needs dies while it runs.
BackwardNode::Variables BackwardNode::RunSection(size_t section, Variables& tangents, bool release) {
  bool by_operator = false;
  for (const at::Tensor& tangent : tangents) by_operator |= tangent.defined() && !IsPlain(tangent);
  const BackwardVariant& variant = program_->Backward(section, WantedGradients(), by_operator);
  std::vector<const void*> converted;
  std::vector<at::Tensor> inputs = SectionInputs(variant, tangents, by_operator, &converted), outputs;
  if (release) {
    Free(program_->joint().sections[section].tangents);
    tangents.clear();
    variant.graph->RunReleasing(std::move(inputs), outputs);
  } else {
    variant.graph->Run(inputs, outputs);
  }
  Variables gradients(variant.plan.gradients.size());
  for (size_t i = 0; i < gradients.size(); ++i) {
    const int32_t position = variant.plan.gradients[i];
    if (position < 0) continue;
    const at::Tensor& output = outputs[static_cast<size_t>(position)];
    // Of a tangent in its own layout eager would have a view that no gradient keeps, and copy it.
    const bool of_converted =
        !converted.empty() && output.defined() && output.has_storage() &&
        std::find(converted.begin(), converted.end(), output.storage().unsafeGetStorageImpl()) != converted.end();
    gradients[i] = of_converted || variant.plan.copied[static_cast<size_t>(position)] ? output.clone() : output;
  }
  return gradients;
}

BackwardNode::Variables BackwardNode::apply(Variables&& tangents) {
  std::lock_guard<std::mutex> lock(mutex_);
  OutputMask given = 0;
  for (size_t i = 0; i < tangents.size(); ++i) given |= OutputMask{tangents[i].defined()} << i;
  if (given == 0) return Variables(num_outputs());
  CheckNotFreed(given);
  last_given_ = given;
  if (at::GradMode::is_enabled()) return Differentiable(tangents, given);
  const JointGraph& joint = program_->joint();
  const bool release = !torch::autograd::get_current_graph_task_keep_graph();
  for (size_t i = 0; i < joint.sections.size(); ++i) {
    if (joint.sections[i].tangents == given) return RunSection(i, tangents, release);
  }
  Variables sum(num_outputs());
  for (size_t i = 1; i < joint.sections.size(); ++i) {
    if (joint.sections[i].tangents & given) Add(sum, RunSection(i, tangents, false));
  }
  return sum;
}

// Inputs for a second run of the forward, under autograd: looks at those that require grad, so that the gradients with
// respect to them do not go on into what made them; copies of those that the forward writes.
BackwardNode::Variables BackwardNode::AutogradInputs() const {
  Variables inputs = inputs_;
  const Partition& partition = program_->partition();
  std::vector<bool> written(inputs.size(), false);
  for (int32_t position : partition.written_inputs) {
    written[static_cast<size_t>(position)] = true;
    inputs[static_cast<size_t>(position)] = inputs[static_cast<size_t>(position)].clone();
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    const bool changed = !written[i] && !inputs[i].is_inference() && inputs[i]._version() != versions_[i];
    TORCH_CHECK(!changed,
                "one of the variables needed for gradient computation has been modified by an inplace "
                "operation: [",
                inputs[i].toString(), " ", inputs[i].sizes(), "] is at version ", inputs[i]._version(),
                "; expected version ", versions_[i],
                " instead. A backward that is itself differentiated computes the "
                "compiled function again and needs all of its inputs.");
  }
  for (int32_t position : partition.joint.differentiable_inputs) {
    at::Tensor& input = inputs[static_cast<size_t>(position)];
    input = input.view_as(input);
  }
  return inputs;
}

// create_graph: the function runs again under torch's own autograd, which can differentiate what it records.
BackwardNode::Variables BackwardNode::Differentiable(const Variables& tangents, OutputMask given) {
  const JointGraph& joint = program_->joint();
  for (size_t i = 0; i < saved_.size(); ++i) {
    if (program_->partition().saved[i].used_by & given) saved_[i].unpack(getptr());
  }
  const Variables inputs = AutogradInputs();
  std::vector<at::Tensor> outputs;
  {
    pybind11::gil_scoped_acquire gil;
    ReplayedGenerator generator(generator_state_);
    program_->AutogradGraph().Run(inputs, outputs);
  }
  Variables results, gradients, targets;
  for (size_t i = 0; i < tangents.size(); ++i) {
    if ((given >> i & 1) == 0) continue;
    results.push_back(outputs[static_cast<size_t>(joint.differentiable_outputs[i])]);
    gradients.push_back(tangents[i]);
  }
  for (int32_t position : joint.differentiable_inputs) targets.push_back(inputs[static_cast<size_t>(position)]);
  return torch::autograd::grad(results, targets, gradients, /*retain_graph=*/true, /*create_graph=*/true,
                               /*allow_unused=*/true);
}

}  // namespace framejit
