#include "backends/training/backward_node.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
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

bool HasHooks(torch::autograd::Node& leaf) {
  return !leaf.tensor_pre_hooks().empty() || !leaf.pre_hooks().empty() || !leaf.post_hooks().empty() ||
         leaf.tensor_post_acc_grad_hooks() != nullptr;
}

// Hands a gradient on when its turn has come: the engine has no order among the leaves of one node.
class Arrival : public torch::autograd::Node {
 public:
  Arrival(uint64_t sequence, torch::autograd::Edge leaf, const at::Tensor& tensor) : Node(sequence) {
    add_input_metadata(tensor);
    add_next_edge(std::move(leaf));
  }
  std::string name() const override { return "FramejitArrival"; }

 protected:
  variable_list apply(variable_list&& gradients) override { return std::move(gradients); }
};

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
                           at::Tensor generator_state, StateCheck check)
    : program_(std::move(program)),
      inputs_(inputs.begin(), inputs.end()),
      generator_state_(std::move(generator_state)),
      check_(std::move(check)) {
  torch::autograd::edge_list edges;
  edges.reserve(program_->joint().differentiable_inputs.size());
  bool hooks = false;
  for (int32_t position : program_->joint().differentiable_inputs) {
    // What a function only looks at is not behind its results: no backward of these may come to it.
    edges.push_back(program_->HasGradient(edges.size())
                        ? torch::autograd::impl::gradient_edge(inputs_[static_cast<size_t>(position)])
                        : torch::autograd::Edge());
    hooks |= edges.back().is_valid() && HasHooks(*edges.back().function);
  }
  for (size_t i = 0; hooks && i < edges.size(); ++i) {
    auto* leaf = dynamic_cast<torch::autograd::AccumulateGrad*>(edges[i].function.get());
    if (leaf == nullptr) continue;
    const at::Tensor tensor = leaf->variable;
    edges[i] = torch::autograd::Edge(MakeNode<Arrival>(sequence_nr(), std::move(edges[i]), tensor), 0);
    arrivals_ = true;
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

// Eager frees what the nodes that ran have saved; what only they need is freed here.
void BackwardNode::Free(std::shared_ptr<const Consumption> consumed) {
  consumed_ = std::move(consumed);
  if (consumed_->all) return FreeAll();
  for (int32_t index : consumed_->freed) saved_[static_cast<size_t>(index)].reset_data();
}

void BackwardNode::FreeRun(OutputMask given, const std::vector<bool>& wanted) {
  if (std::exchange(releases_, false)) {
    Free(consumed_ == nullptr ? program_->Consume(given, wanted)
                              : program_->Consume(program_->joint().engine.Order(given, wanted), consumed_.get()));
  }
}

void BackwardNode::FreeAll() {
  for (SavedVariable& saved : saved_) saved.reset_data();
  inputs_.clear();
  generator_state_.reset();
  check_ = nullptr;
}

void BackwardNode::FreeAsAfterBackward() {
  std::lock_guard<std::mutex> lock(mutex_);
  Free(program_->Consume(AllOutputs(program_->joint().differentiable_outputs.size()),
                         std::vector<bool>(num_outputs(), true)));
}

// Called behind apply by a backward that does not retain the graph, and when the node dies.
void BackwardNode::release_variables() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (last_given_ == 0) return FreeAll();
  FreeRun(std::exchange(last_given_, 0), last_wanted_);
}

// Whether eager's node number `index` would not find what it saved as it was.
bool BackwardNode::Raises(int32_t index) {
  const EngineNode& node = program_->joint().engine.nodes[static_cast<size_t>(index)];
  if (node.frees && consumed_ != nullptr && consumed_->ran[static_cast<size_t>(index)]) return true;
  const std::vector<SavedValue>& saved = program_->partition().saved;
  for (size_t i = 0; i < saved.size(); ++i) {
    const std::vector<int32_t>* held = saved[i].kind == SavedValue::Kind::kInput    ? &node.inputs
                                       : saved[i].kind == SavedValue::Kind::kOutput ? &node.outputs
                                                                                    : nullptr;
    if (held == nullptr || std::find(held->begin(), held->end(), saved[i].index) == held->end()) continue;
    try {
      CheckVersion(static_cast<int32_t>(i));
    } catch (const c10::Error&) {
      return true;
    }
  }
  return false;
}

// Raises where the tensor was written since. What is freed here may be held by nodes that are not, and says nothing.
void BackwardNode::CheckVersion(int32_t saved) {
  if (consumed_ != nullptr && std::binary_search(consumed_->freed.begin(), consumed_->freed.end(), saved)) return;
  saved_[static_cast<size_t>(saved)].unpack(getptr());
}

// What a backward for some gradients alone does not read, its nodes in eager mode may hold all the same.
void BackwardNode::CheckSaved(OutputMask given, const std::vector<bool>& wanted, const Variables& tangents) {
  try {
    TORCH_CHECK(!RunsFreed(given, wanted), torch::autograd::ERR_BACKWARD_TWICE);
    for (int32_t index : program_->Consume(given, wanted)->checked) CheckVersion(index);
  } catch (const c10::Error&) {
    RunFront(given, wanted, tangents);
    throw;
  }
}

const torch::autograd::Edge& BackwardNode::Leaf(size_t input) const {
  const torch::autograd::Edge& edge = next_edge(input);
  auto* arrival = arrivals_ ? dynamic_cast<Arrival*>(edge.function.get()) : nullptr;
  return arrival == nullptr ? edge : arrival->next_edge(0);
}

// Hooks of leaves run in eager's order.
void BackwardNode::OrderArrivals(OutputMask given, const std::vector<bool>& wanted) {
  uint64_t turn = sequence_nr() + num_outputs();
  for (int32_t input : program_->Consume(given, wanted)->arrivals) {
    auto* node = next_edge(static_cast<size_t>(input)).function.get();
    if (dynamic_cast<Arrival*>(node) != nullptr) node->set_sequence_nr(turn--);
  }
}

bool BackwardNode::RunsFreed(OutputMask given, const std::vector<bool>& wanted) const {
  if (consumed_ == nullptr) return false;
  const EngineNodes& engine = program_->joint().engine;
  const std::vector<int32_t> order = engine.Order(given, wanted);
  return std::any_of(order.begin(), order.end(), [&](int32_t index) {
    return consumed_->ran[static_cast<size_t>(index)] && engine.nodes[static_cast<size_t>(index)].frees;
  });
}

// Of a backward that raises because of what was freed or written since: in eager mode nodes run before the one that
// raises. Their gradients arrive at leaves, and at the hooks of these, and what they saved is freed.
void BackwardNode::RunFront(OutputMask given, const std::vector<bool>& wanted, const Variables& tangents) {
  const EngineNodes& engine = program_->joint().engine;
  std::vector<int32_t> nodes = engine.Order(given, wanted);
  const auto raising = std::find_if(nodes.begin(), nodes.end(), [&](int32_t index) { return Raises(index); });
  if (raising == nodes.end()) return;  // it is about something else
  nodes.erase(raising, nodes.end());
  const auto* runs = torch::autograd::get_current_graph_task_exec_info();
  const bool retains = torch::autograd::get_current_graph_task_keep_graph();
  std::vector<int32_t> leaves;
  std::vector<bool> arriving(num_outputs(), false);
  for (int32_t index : nodes) {
    const int32_t input = engine.nodes[static_cast<size_t>(index)].input;
    if (input < 0) continue;
    auto* leaf = Leaf(static_cast<size_t>(input)).function.get();
    if (dynamic_cast<torch::autograd::AccumulateGrad*>(leaf) == nullptr) continue;
    if (runs != nullptr && !runs->empty()) {
      const auto row = runs->find(leaf);
      if (row == runs->end() || !row->second.needed_) continue;
    }
    leaves.push_back(input);
    arriving[static_cast<size_t>(input)] = true;
  }
  if (!leaves.empty()) {
    Variables kept = tangents;
    const bool create = at::GradMode::is_enabled();
    Variables gradients = create ? Differentiable(tangents, given) : Run(given, arriving, kept, /*release=*/false);
    for (int32_t input : leaves) {
      const auto at = static_cast<size_t>(input);
      if (!gradients[at].defined()) continue;
      torch::autograd::Engine::get_default_engine().execute({Leaf(at)}, {gradients[at]}, /*keep_graph=*/true, create,
                                                            /*accumulate_grad=*/true);
    }
  }
  if (!retains) Free(program_->Consume(nodes, consumed_.get()));
}

std::vector<bool> BackwardNode::WantedGradients() {
  std::vector<bool> wanted(num_outputs());
  for (size_t i = 0; i < wanted.size(); ++i) wanted[i] = !program_->HasGradient(i) || task_should_compute_output(i);
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
BackwardNode::Variables BackwardNode::RunSection(size_t section, const std::vector<bool>& wanted, Variables& tangents,
                                                 bool release) {
  bool by_operator = false;
  for (const at::Tensor& tangent : tangents) by_operator |= tangent.defined() && !IsPlain(tangent);
  const BackwardVariant& variant = program_->Backward(section, wanted, by_operator);
  std::vector<const void*> converted;
  std::vector<at::Tensor> inputs = SectionInputs(variant, tangents, by_operator, &converted), outputs;
  if (release) {
    FreeRun(program_->joint().sections[section].tangents, wanted);
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
  const std::vector<bool> wanted = WantedGradients();
  const bool whole =
      given == AllOutputs(tangents.size()) && std::find(wanted.begin(), wanted.end(), false) == wanted.end();
  if (!whole || consumed_ != nullptr) CheckSaved(given, wanted, tangents);
  if (check_) check_();
  if (arrivals_) OrderArrivals(given, wanted);
  last_given_ = given;
  last_wanted_ = wanted;
  releases_ = !torch::autograd::get_current_graph_task_keep_graph();
  if (at::GradMode::is_enabled()) return Differentiable(tangents, given);
  const Consumption* before = consumed_.get();
  try {
    return Run(given, wanted, tangents, releases_);
  } catch (const c10::Error&) {
    if (consumed_.get() == before) RunFront(given, wanted, tangents);
    throw;
  }
}

BackwardNode::Variables BackwardNode::Run(OutputMask given, const std::vector<bool>& wanted, Variables& tangents,
                                          bool release) {
  const JointGraph& joint = program_->joint();
  for (size_t i = 0; i < joint.sections.size(); ++i) {
    if (joint.sections[i].tangents == given) return RunSection(i, wanted, tangents, release);
  }
  Variables sum(num_outputs());
  for (size_t i = 1; i < joint.sections.size(); ++i) {
    if (joint.sections[i].tangents & given) Add(sum, RunSection(i, wanted, tangents, false));
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
