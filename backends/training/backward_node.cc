#include "backends/training/backward_node.h"

#include <ATen/ATen.h>
#include <ATen/SequenceNumber.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "graph/autograd/record_backward.h"

namespace framejit {
namespace {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// Anything but a dense tensor in memory of the CPU or a GPU goes through the dispatcher: batched tensors of vmap,
// subclasses, sparse ones.
bool IsPlain(const at::Tensor& tensor) {
  static const c10::DispatchKeySet plain = [] {
    c10::DispatchKeySet keys({c10::DispatchKey::CPU, c10::DispatchKey::CUDA, c10::DispatchKey::ADInplaceOrView,
                              c10::DispatchKey::Conjugate, c10::DispatchKey::Negative, c10::DispatchKey::ZeroTensor});
    for (c10::BackendComponent backend : {c10::BackendComponent::CPUBit, c10::BackendComponent::CUDABit}) {
      keys =
          keys | c10::getAutogradRelatedKeySetFromBackend(backend) | c10::getAutocastRelatedKeySetFromBackend(backend);
    }
    return keys;
  }();
  return (tensor.key_set().raw_repr() & ~plain.raw_repr()) == 0 && tensor.has_storage();
}

bool IsInLayout(const at::Tensor& tensor, const TensorMeta& meta) {
  bool same = tensor.scalar_type() == meta.dtype && !tensor.is_conj() && !tensor.is_neg() && !tensor._is_zerotensor();
  for (size_t i = 0; same && i < meta.sizes.size(); ++i) {
    same = meta.sizes[i] <= 1 || tensor.stride(static_cast<int64_t>(i)) == meta.strides[i];
  }
  return same;
}

// The tensor in the layout that the backward was compiled for: an operator of the forward may have given its result
// another one than was recorded.
at::Tensor InLayout(const at::Tensor& tensor, const TensorMeta& meta) {
  if (IsInLayout(tensor, meta)) return tensor;
  return at::empty_strided(meta.sizes, meta.strides, tensor.options().dtype(meta.dtype)).copy_(tensor);
}

// The tensor in memory of its own, expanded as it is.
at::Tensor CopyOf(const at::Tensor& tensor) {
  at::Tensor one = tensor;
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.stride(d) == 0 && tensor.size(d) > 1) one = one.narrow(d, 0, 1);
  }
  one = one.clone();
  return one.sizes() == tensor.sizes() ? one : one.expand(tensor.sizes());
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

class Unlocked {
 public:
  explicit Unlocked(std::mutex& mutex) : mutex_(mutex) { mutex_.unlock(); }
  ~Unlocked() { mutex_.lock(); }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  std::mutex& mutex_;
};

OutputMask Defined(const variable_list& tangents) {
  OutputMask defined = 0;
  for (size_t i = 0; i < tangents.size(); ++i) defined |= OutputMask{tangents[i].defined()} << i;
  return defined;
}

void Add(variable_list& sum, variable_list&& more) {
  for (size_t i = 0; i < sum.size(); ++i) {
    if (!more[i].defined()) continue;
    sum[i] = sum[i].defined() ? sum[i].add(more[i]) : std::move(more[i]);
  }
}

}  // namespace

BackwardNode::BackwardNode(std::shared_ptr<TrainingProgram> program, c10::ArrayRef<at::Tensor> inputs,
                           std::optional<DefaultGeneratorStates> generators, StateCheck check)
    : program_(std::move(program)),
      inputs_(inputs.begin(), inputs.end()),
      generators_(std::move(generators)),
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

bool BackwardNode::LeavesHaveHooks(const TrainingProgram& program, c10::ArrayRef<at::Tensor> inputs) {
  const std::vector<int32_t>& positions = program.joint().differentiable_inputs;
  return std::any_of(positions.begin(), positions.end(), [&](int32_t position) {
    return HasHooks(*torch::autograd::impl::gradient_edge(inputs[static_cast<size_t>(position)]).function);
  });
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
  now_.clear();
  generators_.reset();
  check_ = nullptr;
}

// What the checks of a node that leads on do not need.
void BackwardNode::FreeAllButOutputs() {
  for (size_t i = 0; i < saved_.size(); ++i) {
    if (program_->partition().saved[i].kind != SavedValue::Kind::kOutput) saved_[i].reset_data();
  }
  inputs_.clear();
  now_.clear();
  generators_.reset();
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
  if (leads_on_) return;  // what was recorded there is freed
  if (last_given_ == 0) return FreeAll();
  FreeRun(std::exchange(last_given_, 0), last_wanted_);
}

// Whether eager's node number `index` would not find what it saved as it was.
bool BackwardNode::Raises(int32_t index) {
  const EngineNode& node = program_->joint().engine.nodes[static_cast<size_t>(index)];
  if (IsFreed(index)) return true;
  const std::vector<SavedValue>& saved = program_->partition().saved;
  for (size_t i = 0; i < saved.size(); ++i) {
    const std::vector<int32_t>* held = saved[i].kind == SavedValue::Kind::kInput    ? &node.inputs
                                       : saved[i].kind == SavedValue::Kind::kOutput ? &node.outputs
                                                                                    : nullptr;
    if (held == nullptr || saved[i].read_anew || std::find(held->begin(), held->end(), saved[i].index) == held->end())
      continue;
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

// By node of EngineNodes: its place in a backward; those that do not run come last.
std::vector<size_t> BackwardNode::TurnsOf(const std::vector<int32_t>& order) const {
  std::vector<size_t> turns(program_->joint().engine.nodes.size(), order.size());
  for (size_t i = 0; i < order.size(); ++i) turns[static_cast<size_t>(order[i])] = i;
  return turns;
}

// Hooks of leaves run in eager's order: behind those of the results that come first there, in front of the others.
void BackwardNode::OrderArrivals(OutputMask given, const std::vector<bool>& wanted) {
  const EngineNodes& engine = program_->joint().engine;
  const OutputMask coming = Coming(), hooked = Hooked(coming);
  const std::vector<int32_t> order = engine.Order(given | coming, wanted);
  const std::vector<size_t> turns = TurnsOf(order);
  uint64_t rank = num_outputs();
  for (int32_t index : order) {
    const int32_t input = engine.nodes[static_cast<size_t>(index)].input;
    if (input < 0) continue;
    auto* arrival = dynamic_cast<Arrival*>(next_edge(static_cast<size_t>(input)).function.get());
    if (arrival == nullptr) continue;
    uint64_t next = sequence_nr();  // of the result with hooks whose turn is next
    for (size_t i = 0; i < result_nodes_.size(); ++i) {
      const size_t turn = turns[static_cast<size_t>(engine.roots[i])];
      if ((hooked >> i & 1) != 0 && turn > turns[static_cast<size_t>(index)])
        next = std::max(next, result_nodes_[i]->sequence_nr());
    }
    arrival->set_sequence_nr(next + rank--);
  }
}

// Those of `coming` whose hooks may see what has arrived at leaves. None where leaves have to wait for all results.
OutputMask BackwardNode::Hooked(OutputMask coming) const {
  OutputMask hooked = 0;
  for (size_t i = 0; i < result_nodes_.size() && !program_->joint().shares_program; ++i) {
    if ((coming >> i & 1) == 0) continue;
    torch::autograd::Node& node = *result_nodes_[i];
    if (HasHooks(node) || !node.retains_grad_hooks().empty()) hooked |= OutputMask{1} << i;
  }
  return hooked;
}

bool BackwardNode::ArrivesBeforeHooks(const std::vector<size_t>& outputs) {
  const JointGraph& joint = program_->joint();
  OutputMask own = 0;
  for (size_t output : outputs) own |= OutputMask{1} << output;
  const OutputMask coming = Coming(), hooked = Hooked(coming & ~own);
  if (hooked == 0) return false;
  std::vector<bool> leaves(num_outputs(), false);
  for (int32_t input : program_->InputsOf(outputs[0])) {
    const torch::autograd::Edge& leaf = Leaf(static_cast<size_t>(input));
    leaves[static_cast<size_t>(input)] = leaf.is_valid() && HasHooks(*leaf.function);
  }
  if (std::find(leaves.begin(), leaves.end(), true) == leaves.end()) return false;
  const std::vector<int32_t> order = joint.engine.Order(coming, WantedGradients());
  const std::vector<size_t> turns = TurnsOf(order);
  for (size_t i = 0; i < result_nodes_.size(); ++i) {
    if ((hooked >> i & 1) == 0) continue;
    const auto end = order.begin() + static_cast<std::ptrdiff_t>(turns[static_cast<size_t>(joint.engine.roots[i])]);
    const bool before = std::any_of(order.begin(), end, [&](int32_t node) {
      const int32_t input = joint.engine.nodes[static_cast<size_t>(node)].input;
      return input >= 0 && leaves[static_cast<size_t>(input)];
    });
    if (before) return true;
  }
  return false;
}

// Whether eager's node number `index` has freed what it saved.
bool BackwardNode::IsFreed(int32_t index) const {
  return consumed_ != nullptr && consumed_->ran[static_cast<size_t>(index)] &&
         program_->joint().engine.nodes[static_cast<size_t>(index)].frees;
}

bool BackwardNode::RunsFreed(OutputMask given, const std::vector<bool>& wanted) const {
  if (consumed_ == nullptr) return false;
  const std::vector<int32_t> order = program_->joint().engine.Order(given, wanted);
  return std::any_of(order.begin(), order.end(), [&](int32_t index) { return IsFreed(index); });
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
  const OutputMask present = Defined(tangents);  // of others their part is computed
  if (!leaves.empty() && present != 0) {
    Variables kept = tangents;
    const bool create = at::GradMode::is_enabled();
    Variables gradients = create ? Differentiable(tangents, present) : Run(present, arriving, kept, /*release=*/false);
    const Unlocked unlocked(mutex_);  // hooks of leaves may come back here
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
  for (int32_t index : variant.plan.saved) {
    const SavedValue& saved = program_->partition().saved[static_cast<size_t>(index)];
    const bool anew = saved.read_anew && !now_.empty();
    add(anew ? now_[static_cast<size_t>(saved.index)] : saved_[static_cast<size_t>(index)].unpack(getptr()));
  }
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
  const BackwardVariant& variant =
      program_->Backward(section, wanted, by_operator, by_operator ? TangentStrides() : StridesOf(tangents));
  std::vector<const void*> converted;
  std::vector<at::Tensor> inputs = SectionInputs(variant, tangents, by_operator, &converted), outputs;
  if (release) {
    FreeRun(last_given_, wanted);
    tangents.clear();
    variant.graph->RunReleasing(std::move(inputs), outputs);
  } else {
    variant.graph->Run(inputs, outputs);
  }
  std::vector<int32_t> positions = variant.plan.gradients;
  positions.insert(positions.end(), variant.plan.point_gradients.begin(), variant.plan.point_gradients.end());
  Variables gradients(positions.size());
  for (size_t i = 0; i < gradients.size(); ++i) {
    const int32_t position = positions[i];
    if (position < 0) continue;
    const at::Tensor& output = outputs[static_cast<size_t>(position)];
    // Of a tangent in its own layout eager would have a view that no gradient keeps, and copy it.
    const bool of_converted =
        !converted.empty() && output.defined() && output.has_storage() &&
        std::find(converted.begin(), converted.end(), output.storage().unsafeGetStorageImpl()) != converted.end();
    gradients[i] = of_converted || variant.plan.copied[static_cast<size_t>(position)] ? CopyOf(output) : output;
  }
  return gradients;
}

BackwardNode::Variables BackwardNode::apply(Variables&& tangents) {
  if (leads_on_) {
    Variables passed(num_outputs());
    if (tangents[0].defined()) PassOn(0);
    passed[0] = std::move(tangents[0]);
    return passed;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  return Apply(std::move(tangents), 0, 0, !torch::autograd::get_current_graph_task_keep_graph());
}

// `cut`: outputs whose gradients up to cut points were computed before, `ran`: all outputs that were.
BackwardNode::Variables BackwardNode::Apply(Variables&& tangents, OutputMask cut, OutputMask ran, bool release) {
  const OutputMask given = Defined(tangents);
  if ((given | cut) == 0) return Variables(num_outputs());
  const std::vector<bool> wanted = WantedGradients();
  const OutputMask all_given = given | cut | ran;
  const bool whole =
      all_given == AllOutputs(tangents.size()) && std::find(wanted.begin(), wanted.end(), false) == wanted.end();
  if (!whole || consumed_ != nullptr || program_->partition().holds_unread) CheckSaved(all_given, wanted, tangents);
  if (check_) now_ = check_(inputs_);
  if (arrivals_) OrderArrivals(all_given, wanted);
  last_given_ = all_given;
  last_wanted_ = wanted;
  releases_ = release;
  if (given == 0) return Variables(num_outputs());
  if (at::GradMode::is_enabled()) return Differentiable(tangents, given);
  const Consumption* before = consumed_.get();
  try {
    return Run(given, wanted, tangents, release);
  } catch (const c10::Error&) {
    if (consumed_.get() == before) RunFront(given, wanted, tangents);
    throw;
  }
}

// Empty where all are as recorded.
TangentStrides BackwardNode::StridesOf(const Variables& tangents) const {
  TangentStrides strides;
  for (size_t i = 0; i < tangents.size(); ++i) {
    const at::Tensor& tangent = tangents[i];
    if (!tangent.defined() || IsInLayout(tangent, program_->TangentMeta(i))) continue;
    if (tangent.scalar_type() != program_->TangentMeta(i).dtype || tangent.is_conj() || tangent.is_neg() ||
        tangent._is_zerotensor())
      continue;
    strides.resize(tangents.size());
    strides[i] = tangent.strides().vec();
  }
  return strides;
}

bool BackwardNode::Task::any() const {
  const auto defined = [](const at::Tensor& tensor) { return tensor.defined(); };
  return std::any_of(tangents.begin(), tangents.end(), defined) || (cut & ~ran) != 0;
}

void BackwardNode::TaskTable::Erase(int id) {
  std::shared_ptr<Task> erased;  // its tensors die behind the lock
  {
    std::lock_guard<std::mutex> lock(mutex);
    auto row = tasks.find(id);
    if (row == tasks.end()) return;
    erased = std::move(row->second);
    tasks.erase(row);
  }
  // One inside of another: that counts on the edges as they are as well.
  const int outer = torch::autograd::get_current_graph_task_id();
  if (erased->second_run != nullptr && outer != -1 && outer != id)
    torch::autograd::Engine::get_default_engine().queue_callback([run = erased->second_run] {});
}

// What the engine holds for as long as a backward runs.
class BackwardNode::TaskEnd {
 public:
  TaskEnd(std::weak_ptr<TaskTable> table, int id) : table_(std::move(table)), id_(id) {}
  ~TaskEnd() {
    if (std::shared_ptr<TaskTable> table = table_.lock()) table->Erase(id_);
  }
  TaskEnd(const TaskEnd&) = delete;
  TaskEnd& operator=(const TaskEnd&) = delete;

 private:
  const std::weak_ptr<TaskTable> table_;
  const int id_;
};

std::shared_ptr<BackwardNode::Task> BackwardNode::CurrentTask() {
  const int id = torch::autograd::get_current_graph_task_id();
  std::lock_guard<std::mutex> lock(tasks_->mutex);
  std::shared_ptr<Task>& task = tasks_->tasks[id];
  if (task == nullptr) {
    task = std::make_shared<Task>();
    // Callbacks die with the backward that they were queued in, whether it came to their turn or not.
    auto end = std::make_shared<TaskEnd>(tasks_, id);
    torch::autograd::Engine::get_default_engine().queue_callback([end] {});
  }
  return task;
}

void BackwardNode::Arrive(size_t output, at::Tensor tangent) {
  std::lock_guard<std::mutex> lock(mutex_);
  const std::shared_ptr<Task> held = CurrentTask();
  Task& task = *held;
  task.arrived |= OutputMask{1} << output;
  task.tangents.resize(program_->joint().differentiable_outputs.size());
  task.tangents[output] = std::move(tangent);
}

// The outputs whose nodes run in this backward.
OutputMask BackwardNode::Coming() const {
  const auto* nodes = torch::autograd::get_current_graph_task_nodes_in_graph();
  const auto* runs = torch::autograd::get_current_graph_task_exec_info();
  const auto is_left_out = [&](torch::autograd::Node* node) {
    if (runs == nullptr || runs->empty()) return false;
    const auto row = runs->find(node);
    return row == runs->end() || !row->second.should_execute();
  };
  OutputMask coming = 0;
  for (size_t i = 0; i < result_nodes_.size(); ++i) {
    torch::autograd::Node* node = result_nodes_[i];
    const bool comes = nodes != nullptr && nodes->count(node) != 0 && !is_left_out(node);
    coming |= OutputMask{comes} << i;
  }
  return coming;
}

BackwardNode::Variables BackwardNode::HandOut(size_t output) {
  std::lock_guard<std::mutex> lock(mutex_);
  const std::shared_ptr<Task> held = CurrentTask();
  Task& task = *held;
  task.gradients.resize(num_outputs());
  task.tangents.resize(program_->joint().differentiable_outputs.size());
  if (task.any()) {
    // In the engine's order the others have come in by now; else what they need stays.
    const bool release = !torch::autograd::get_current_graph_task_keep_graph() && (Coming() & ~task.arrived) == 0;
    Variables tangents = std::exchange(task.tangents, Variables(task.tangents.size()));
    const OutputMask cut = task.cut & ~task.ran, ran = task.ran;
    task.ran |= cut | Defined(tangents);
    Add(task.gradients, Apply(std::move(tangents), cut, ran, release));
    FreeRun(std::exchange(last_given_, 0), last_wanted_);
  }
  Variables gradients;
  for (int32_t input : program_->InputsOf(output))
    gradients.push_back(std::exchange(task.gradients[static_cast<size_t>(input)], at::Tensor()));
  return gradients;
}

BackwardNode::Variables BackwardNode::RunCut(const std::vector<size_t>& outputs, Variables tangents, bool goes_on) {
  std::lock_guard<std::mutex> lock(mutex_);
  const JointGraph& joint = program_->joint();
  const CutSection& cut = joint.cuts[outputs[0]];
  const bool freed = std::any_of(cut.nodes.begin(), cut.nodes.end(), [&](int32_t node) { return IsFreed(node); });
  TORCH_CHECK(!freed, torch::autograd::ERR_BACKWARD_TWICE);
  if (check_) now_ = check_(inputs_);
  Variables of_points(cut.points.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    Variables gradients(num_outputs() + of_points.size());
    const bool given = tangents[i].defined();
    if (given) gradients = RunCutOf(outputs[i], std::move(tangents[i]), goes_on);
    Add(of_points, Variables(gradients.begin() + static_cast<std::ptrdiff_t>(num_outputs()), gradients.end()));
    if (!goes_on) continue;
    gradients.resize(num_outputs());
    const std::shared_ptr<Task> held = CurrentTask();
    Task& task = *held;
    task.arrived |= OutputMask{1} << outputs[i];
    task.cut |= OutputMask{given} << outputs[i];
    task.gradients.resize(num_outputs());
    Add(task.gradients, std::move(gradients));
  }
  if (!goes_on && !torch::autograd::get_current_graph_task_keep_graph())
    Free(program_->Consume(cut.nodes, consumed_.get()));
  return of_points;
}

// Of one output: gradients of the inputs, then of its cut points.
BackwardNode::Variables BackwardNode::RunCutOf(size_t output, at::Tensor tangent, bool goes_on) {
  const JointGraph& joint = program_->joint();
  const std::vector<bool> wanted = goes_on ? WantedGradients() : std::vector<bool>(num_outputs(), false);
  // Of a graph that was freed, nodes that saved nothing can run: what they compute depends on the tangent alone.
  const bool only_tangent = inputs_.empty() && num_outputs() > 0;
  TORCH_CHECK(!only_tangent || !goes_on, torch::autograd::ERR_BACKWARD_TWICE);
  if (at::GradMode::is_enabled() && !(only_tangent && !tangent.requires_grad())) {
    TORCH_CHECK(!only_tangent, torch::autograd::ERR_BACKWARD_TWICE);
    return DifferentiableCut(output, tangent, goes_on);
  }
  at::NoGradGuard no_grad;
  Variables tangents(joint.differentiable_outputs.size());
  tangents[output] = std::move(tangent);
  return RunSection(joint.sections.size() + output, wanted, tangents, false);
}

void BackwardNode::RunAlone(size_t output) {
  std::lock_guard<std::mutex> lock(mutex_);
  const int32_t root = program_->joint().engine.roots[output];
  TORCH_CHECK(!IsFreed(root), torch::autograd::ERR_BACKWARD_TWICE);
  std::shared_ptr<const Consumption> consumed = program_->Consume({root}, consumed_.get());
  for (int32_t index : consumed->checked) CheckVersion(index);
  if (!torch::autograd::get_current_graph_task_keep_graph()) Free(std::move(consumed));
}

void BackwardNode::AddResultNode(torch::autograd::Node* node, uint32_t slot) {
  std::lock_guard<std::mutex> lock(result_nodes_mutex_);
  result_nodes_.push_back(node);
  result_slots_.push_back(slot);
}

void BackwardNode::RemoveResultNode(const torch::autograd::Node* node) {
  std::lock_guard<std::mutex> lock(result_nodes_mutex_);
  std::replace(result_nodes_.begin(), result_nodes_.end(), const_cast<torch::autograd::Node*>(node),
               static_cast<torch::autograd::Node*>(nullptr));
}

void BackwardNode::ReserveArrivals() const {
  for (size_t i = 0; arrivals_ && i < num_outputs(); ++i) at::sequence_number::get_and_increment();
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

}  // namespace framejit
