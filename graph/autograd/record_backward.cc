#include "graph/autograd/record_backward.h"

#include <ATen/EmptyTensor.h>
#include <c10/core/AutogradState.h>
#include <c10/util/strides.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <exception>
#include <optional>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "frame_eval/cpython/py_ref.h"
#include "graph/error_text.h"
#include "graph/fake/shown_numbers.h"
#include "graph/passes/analysis.h"

namespace framejit {
namespace {

using torch::autograd::Node;
using torch::autograd::variable_list;
using NodeSet = absl::flat_hash_set<Node*>;

// The nodes that a backward of `output` runs.
NodeSet Reachable(const at::Tensor& output) {
  NodeSet seen;
  std::vector<Node*> open{output.grad_fn().get()};
  while (!open.empty()) {
    Node* node = open.back();
    open.pop_back();
    if (node == nullptr || !seen.insert(node).second) continue;
    for (const torch::autograd::Edge& edge : node->next_edges()) open.push_back(edge.function.get());
  }
  return seen;
}

// Why what a node runs cannot be recorded; empty where it can.
std::string Unrecordable(Node& node, bool program) {
  if (!program && IsCustomFunction(node)) return absl::StrCat("the custom autograd Function ", node.name());
  const bool hooked = !node.pre_hooks().empty() || !node.post_hooks().empty() ||
                      (!program && !node.tensor_pre_hooks().empty()) || node.tensor_post_acc_grad_hooks() != nullptr;
  return hooked ? absl::StrCat("a hook on ", node.name()) : "";
}

// Why the nodes that code of the program recorded, from `first_node` on, are no part of a backward graph: that runs
// later, perhaps more than once.
std::string UnfitForBackward(Graph& graph, size_t first_node, size_t first_value) {
  for (size_t i = first_node; i < graph.nodes.size(); ++i) {
    framejit::Node& node = graph.nodes[i];
    node.torch_call = kBackwardCall;
    if (IsRandom(node.op)) return "a backward that draws random numbers";
    if (HasEffect(node) && !MutatesArguments(node.op)) return "a backward that writes statistics";
  }
  const absl::flat_hash_set<int32_t> written = WrittenStorages(graph, first_node);
  for (size_t i = 0; i < first_value; ++i) {
    if (written.contains(graph.values[i].storage)) return "a backward that writes what it is given";
  }
  return "";
}

// The inputs and outputs of a call, by their memory: a write to one is noticed where it, or a view of it, was saved.
class Saved {
 public:
  explicit Saved(const Graph& graph) {
    for (size_t i = 0; i < graph.inputs.size(); ++i) inputs_.emplace(graph.meta(graph.inputs[i]).storage, i);
    for (size_t i = 0; i < graph.outputs.size(); ++i) outputs_.emplace(graph.meta(graph.outputs[i]).storage, i);
  }

  // Notes what a node holds; whether there is a tensor in it.
  bool Note(PyObject* value, EngineNode& node) const {
    if (THPVariable_Check(value)) {
      NoteTensor(THPVariable_Unpack(value), node);
      return true;
    }
    if (!PyTuple_Check(value) && !PyList_Check(value)) return false;
    bool any = false;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(value); ++i)
      any |= Note(PySequence_Fast_GET_ITEM(value, i), node);
    return any;
  }

 private:
  void NoteTensor(const at::Tensor& tensor, EngineNode& node) const {
    if (!IsFake(tensor)) return;
    const int32_t storage = FakeSession::MetaOf(tensor).storage;
    if (const auto row = inputs_.find(storage); row != inputs_.end()) node.inputs.push_back(row->second);
    if (const auto row = outputs_.find(storage); row != outputs_.end()) node.outputs.push_back(row->second);
  }

  absl::flat_hash_map<int32_t, int32_t> inputs_, outputs_;  // by storage
};

// Whether a node has saved tensors, which it frees once it has run: its Python attributes _saved_* show them. What
// cannot be read counts as saved.
bool SavesTensors(Node& node, const Saved& saved, EngineNode& made) {
  const ShownNumbers shown;
  PyRef object = PyRef::Steal(torch::autograd::functionToPyObject(node.getptr()));
  PyRef names = PyRef::Steal(object ? PyObject_Dir(reinterpret_cast<PyObject*>(Py_TYPE(object.get()))) : nullptr);
  bool known = static_cast<bool>(names);
  bool saves = false;
  for (Py_ssize_t i = 0; known && i < PyList_GET_SIZE(names.get()); ++i) {
    const char* name = PyUnicode_AsUTF8(PyList_GET_ITEM(names.get(), i));
    known = name != nullptr;
    if (!known || std::string_view(name).rfind("_saved_", 0) != 0) continue;
    PyRef value = PyRef::Steal(PyObject_GetAttr(object.get(), PyList_GET_ITEM(names.get(), i)));
    known = static_cast<bool>(value);
    if (known) saves |= saved.Note(value.get(), made);
  }
  PyErr_Clear();
  const bool generated =
      object && std::string_view(Py_TYPE(object.get())->tp_name).find("Backward") != std::string::npos;
  return saves || !known || !generated;
}

class ReleasedGil {
 public:
  ReleasedGil() : state_(PyEval_SaveThread()) {}
  ~ReleasedGil() { PyEval_RestoreThread(state_); }
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;

 private:
  PyThreadState* state_;
};

}  // namespace

EngineInThisThread::EngineInThisThread() : before_(c10::AutogradState::get_tls_state().get_multithreading_enabled()) {
  c10::AutogradState::get_tls_state().set_multithreading_enabled(false);
}

EngineInThisThread::~EngineInThisThread() { c10::AutogradState::get_tls_state().set_multithreading_enabled(before_); }

StoppedGradients::StoppedGradients(at::ArrayRef<at::Tensor> tensors) {
  struct Stop : torch::autograd::FunctionPreHook {
    explicit Stop(uint32_t slot) : slot(slot) {}
    variable_list operator()(const variable_list& gradients) override {
      variable_list rest = gradients;
      rest[slot] = at::Tensor();
      return rest;
    }
    uint32_t slot;
  };
  for (const at::Tensor& tensor : tensors) {
    tensors_.push_back(tensor);
    tensor.grad_fn()->add_pre_hook(std::make_unique<Stop>(tensor.output_nr()));
  }
}

StoppedGradients::~StoppedGradients() {
  for (const at::Tensor& tensor : tensors_) tensor.grad_fn()->pre_hooks().pop_back();
}

namespace {

class BackwardRecorder {
 public:
  BackwardRecorder(FakeSession& session, const std::vector<LiftedInput>& inputs, const std::vector<at::Tensor>& outputs,
                   const ProgramBackward* program)
      : session_(session), graph_(session.graph()), all_inputs_(inputs), all_outputs_(outputs), program_(program) {}

  absl::StatusOr<std::unique_ptr<JointGraph>> Run() {
    if (absl::Status status = FindEnds(); !status.ok()) return status;
    if (absl::Status status = JudgeDevices(); !status.ok()) return status;
    if (absl::Status status = JudgeNodes(); !status.ok()) return status;
    for (const at::Tensor& output : outputs_) {
      absl::StatusOr<at::Tensor> tangent = MakeTangent(output);
      if (!tangent.ok()) return tangent.status();
      tangents_.push_back(*std::move(tangent));
    }
    const OutputMask all = AllOutputs(outputs_.size());
    const Graph before = graph_;
    try {
      if (all != 0) {
        if (absl::Status status = AddSection(all); !status.ok()) return status;
      }
    } catch (const std::exception& error) {
      if (!IsAboutFreed(error)) throw;
      graph_ = before;
      return Freed(all);
    }
    for (size_t i = 0; outputs_.size() > 1 && i < outputs_.size(); ++i) {
      if (absl::Status status = AddSection(OutputMask{1} << i); !status.ok()) return status;
    }
    FindNodes();
    if (absl::Status status = AddCuts(); !status.ok()) return status;
    if (absl::Status status = JudgeDevices(); !status.ok()) return status;
    joint_->graph = graph_;
    return std::move(joint_);
  }

 private:
  static bool IsAboutFreed(const std::exception& error) {
    return absl::StartsWith(ErrorText(error), "Trying to backward through the graph a second time");
  }

  // Where a backward inside has freed the graph: whatever is asked for must raise that.
  absl::StatusOr<std::unique_ptr<JointGraph>> Freed(OutputMask all) {
    const Graph before = graph_;
    for (size_t i = 0; i < outputs_.size(); ++i) {
      for (const at::Tensor& input : inputs_) {
        bool freed = false;
        try {
          freed = !Gradients({outputs_[i]}, {input}, {tangents_[i]})[0].defined();
        } catch (const std::exception& error) {
          if (!IsAboutFreed(error)) throw;
          freed = true;
        }
        if (!freed) return absl::UnimplementedError("a backward inside has freed a part of the graph");
      }
    }
    graph_ = before;
    joint_->freed = true;
    std::vector<EngineNode>& nodes = joint_->engine.nodes;
    nodes.push_back({.frees = true});
    for (size_t i = 0; i < inputs_.size(); ++i) {
      nodes[0].next.push_back(static_cast<int32_t>(nodes.size()));
      nodes.push_back({.input = static_cast<int32_t>(i)});
    }
    joint_->engine.roots.assign(outputs_.size(), 0);
    joint_->sections.push_back({.tangents = all, .gradients = std::vector<int32_t>(inputs_.size(), -1)});
    joint_->graph = graph_;
    return std::move(joint_);
  }

  variable_list Gradients(const variable_list& outputs, const variable_list& inputs, const variable_list& tangents) {
    ReleasedGil released;
    const EngineInThisThread one_thread;
    // Autocast does not reach into a backward that is started outside of it.
    c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    return torch::autograd::grad(outputs, inputs, tangents, /*retain_graph=*/true, /*create_graph=*/false,
                                 /*allow_unused=*/true);
  }

  absl::Status FindEnds() {
    joint_->input_count = graph_.inputs.size();
    absl::flat_hash_map<size_t, const at::Tensor*> fakes;
    for (const LiftedInput& input : all_inputs_) fakes.emplace(input.position, &input.fake);
    for (size_t i = 0; i < graph_.inputs.size(); ++i) {
      const TensorMeta& meta = graph_.meta(graph_.inputs[i]);
      auto row = fakes.find(i);
      if (row == fakes.end()) {
        if (meta.requires_grad) return absl::UnimplementedError("an input that requires grad is replaced");
        continue;
      }
      joint_->differentiable_inputs.push_back(static_cast<int32_t>(i));
      inputs_.push_back(*row->second);
    }
    for (const at::Tensor& output : all_outputs_) {
      if (!output.requires_grad()) continue;
      if (output.retains_grad()) return absl::UnimplementedError("a result retains its gradient");
      if (output.grad_fn() == nullptr) return absl::UnimplementedError("a result is a leaf that requires grad");
    }
    absl::StatusOr<ForwardOutputs> forward = FindForwardOutputs(graph_, all_inputs_, all_outputs_);
    if (!forward.ok()) return forward.status();
    graph_.outputs = std::move(forward->values);
    joint_->output_count = graph_.outputs.size();
    joint_->views = std::move(forward->views);
    looks_at_inputs_ = std::move(forward->looks_at_inputs);
    absl::flat_hash_set<int32_t> of_inputs;
    for (ValueId input : graph_.inputs) of_inputs.insert(graph_.meta(input).storage);
    for (size_t i = 0; i < forward->fakes.size(); ++i) {
      const at::Tensor& fake = forward->fakes[i];
      const bool own = !fake.is_inference() && !of_inputs.contains(graph_.meta(graph_.outputs[i]).storage);
      joint_->output_versions.push_back(own ? static_cast<uint32_t>(fake._version()) : 0);
      if (!fake.requires_grad()) continue;
      joint_->differentiable_outputs.push_back(static_cast<int32_t>(i));
      outputs_.push_back(fake);
    }
    if (outputs_.empty() && joint_->views.calls.empty()) return absl::UnimplementedError("no result requires grad");
    if (outputs_.size() > kMaxDifferentiableOutputs) {
      return absl::UnimplementedError(absl::StrCat(outputs_.size(), " results require grad"));
    }
    return absl::OkStatus();
  }

  // Eager runs each node in the thread and on the stream of its device: all of a call is one node, of one device. What
  // else is on the CPU goes with any.
  absl::Status JudgeDevices() const {
    std::optional<c10::Device> device;
    for (const auto* tensors : {&outputs_, &inputs_}) {
      for (const at::Tensor& tensor : *tensors) {
        if (!device.has_value()) device = tensor.device();
        if (tensor.device() != *device)
          return absl::UnimplementedError(absl::StrCat("inputs and results that require grad are on ", device->str(),
                                                       " and on ", tensor.device().str()));
      }
    }
    for (const TensorMeta& meta : graph_.values) {
      if (device.has_value() && meta.device != *device && !meta.device.is_cpu())
        return absl::UnimplementedError(
            absl::StrCat("what requires grad is on ", device->str(), ", something on ", meta.device.str()));
    }
    return absl::OkStatus();
  }

  absl::Status JudgeNodes() {
    if (torch::autograd::AnomalyMode::is_enabled()) return absl::UnimplementedError("anomaly detection is on");
    absl::flat_hash_map<Node*, int> runs_program;  // for how many outputs
    for (const at::Tensor& output : outputs_) reachable_.push_back(Reachable(output));
    for (const NodeSet& nodes : reachable_) {
      for (Node* node : nodes) {
        if (std::string why = Unrecordable(*node, program_ != nullptr); !why.empty())
          return absl::UnimplementedError(why);
        if (!RunsProgram(*node) || ++runs_program[node] == 1) continue;
        joint_->shares_program = true;
        // The backward of two results of three would be a sum of backwards.
        if (outputs_.size() > 2)
          return absl::UnimplementedError("a custom Function or a hook behind several of more than two results");
      }
    }
    return absl::OkStatus();
  }

  void FindNodes() {
    absl::flat_hash_map<Node*, int32_t> index;
    std::vector<Node*> all;
    for (const NodeSet& nodes : reachable_) {
      for (Node* node : nodes) {
        if (index.emplace(node, static_cast<int32_t>(all.size())).second) all.push_back(node);
      }
    }
    for (const at::Tensor& output : outputs_) joint_->engine.roots.push_back(index.at(output.grad_fn().get()));
    const Saved saved(graph_);
    index_ = index;
    for (Node* node : all) {
      EngineNode& made = joint_->engine.nodes.emplace_back();
      made.sequence = node->sequence_nr();
      for (const torch::autograd::Edge& edge : node->next_edges()) {
        if (edge.is_valid()) made.next.push_back(index.at(edge.function.get()));
      }
      if (auto* leaf = dynamic_cast<torch::autograd::AccumulateGrad*>(node)) {
        const auto is_it = [&](const at::Tensor& input) { return input.is_same(leaf->variable); };
        const auto input = std::find_if(inputs_.begin(), inputs_.end(), is_it);
        if (input != inputs_.end()) made.input = static_cast<int32_t>(input - inputs_.begin());
      } else {
        made.frees = IsFreed(*node, saved, made);
      }
    }
    joint_->views.inputs = OrderOfLooks();
  }

  OutputViews::Order OrderOfLooks() const {
    bool before = true, behind = true, behind_saved = true;
    for (const EngineNode& node : joint_->engine.nodes) {
      for (uint64_t look : looks_at_inputs_) {
        // A leaf runs as soon as it can.
        if (node.next.empty() || node.sequence == look) continue;
        (look < node.sequence ? behind : before) = false;
        if (node.frees && look < node.sequence) behind_saved = false;
      }
    }
    if (behind) return OutputViews::Order::kBehind;
    if (before) return OutputViews::Order::kBefore;
    return behind_saved ? OutputViews::Order::kMixedBehind : OutputViews::Order::kMixed;
  }

  // A custom Function notices only where it asks for what it saved.
  bool IsFreed(Node& node, const Saved& saved, EngineNode& made) {
    if (!IsCustomFunction(node)) return SavesTensors(node, saved, made);
    PyRef context = PyRef::Steal(torch::autograd::functionToPyObject(node.getptr()));
    return !context || program_->reads_saved(context.get());
  }

  // The gradient of an output: its layout where that has one element per address, else a contiguous one.
  absl::StatusOr<at::Tensor> MakeTangent(const at::Tensor& output) {
    const bool same_layout = output.is_non_overlapping_and_dense();
    const c10::DimVector contiguous = c10::contiguous_strides(output.sizes());
    examples_.push_back(TensorWithoutMemory(output.sizes(),
                                            same_layout ? output.strides() : at::IntArrayRef(contiguous),
                                            output.scalar_type(), output.device()));
    return session_.MakeInput(examples_.back());
  }

  absl::Status AddSection(OutputMask mask) {
    variable_list outputs, tangents;
    for (size_t i = 0; i < outputs_.size(); ++i) {
      if ((mask >> i & 1) == 0) continue;
      outputs.push_back(outputs_[i]);
      tangents.push_back(tangents_[i]);
    }
    variable_list gradients;
    const size_t first_node = graph_.nodes.size(), first_value = graph_.values.size();
    if (!inputs_.empty()) gradients = Gradients(outputs, inputs_, tangents);
    if (session_.failure().has_value()) return absl::UnimplementedError(session_.failure()->detail);
    if (program_ != nullptr) {
      std::string why = program_->failure();
      if (why.empty()) why = UnfitForBackward(graph_, first_node, first_value);
      if (!why.empty()) return absl::UnimplementedError(why);
    }
    BackwardSection& section = joint_->sections.emplace_back();
    section.tangents = mask;
    return AddGradients(gradients, section.gradients);
  }

  absl::Status AddGradients(at::ArrayRef<at::Tensor> gradients, std::vector<int32_t>& positions) {
    for (const at::Tensor& gradient : gradients) {
      positions.push_back(gradient.defined() ? static_cast<int32_t>(graph_.outputs.size()) : -1);
      if (!gradient.defined()) continue;
      const ValueId id = session_.ValueOf(gradient);
      if (id == kNoValue) return absl::UnimplementedError("a gradient is a constant");
      graph_.outputs.push_back(id);
    }
    return absl::OkStatus();
  }

  // Where some results are made of others: the backward of each up to these.
  absl::Status AddCuts() {
    std::vector<at::Tensor> points;
    for (size_t i = 0; i < outputs_.size(); ++i) {
      joint_->cut_points.push_back({.output = static_cast<int32_t>(i)});
      points.push_back(outputs_[i]);
    }
    for (size_t i = 0; i < joint_->views.results.size(); ++i) {
      if (joint_->views.results[i].view == kNoValue || !all_outputs_[i].requires_grad()) continue;
      joint_->cut_points.push_back({.result = static_cast<int32_t>(i)});
      points.push_back(all_outputs_[i]);
    }
    std::vector<CutSection> cuts(outputs_.size());
    absl::flat_hash_map<Node*, int> runs_program;
    bool any = false;
    for (size_t i = 0; i < outputs_.size(); ++i) {
      for (Node* node : FindPoints(points, i, cuts[i])) {
        if (RunsProgram(*node)) ++runs_program[node];
      }
      any |= !cuts[i].points.empty();
    }
    if (!any) return absl::OkStatus();
    for (const auto& [node, count] : runs_program) {
      if (count > 1)
        return absl::UnimplementedError("a custom Function or a hook behind results that are made of others");
    }
    for (size_t i = 0; i < outputs_.size(); ++i) {
      if (absl::Status status = AddCut(points, i, cuts[i]); !status.ok()) return status;
    }
    joint_->cuts = std::move(cuts);
    return absl::OkStatus();
  }

  // The cut points that output `i` is made of; gives the nodes in front of them.
  NodeSet FindPoints(const std::vector<at::Tensor>& points, size_t i, CutSection& cut) {
    absl::flat_hash_map<std::pair<Node*, uint32_t>, int32_t> at;
    for (size_t k = 0; k < points.size(); ++k) {
      if (k != i) at.emplace(std::make_pair(points[k].grad_fn().get(), points[k].output_nr()), static_cast<int32_t>(k));
    }
    NodeSet seen{outputs_[i].grad_fn().get()};
    std::vector<Node*> open{outputs_[i].grad_fn().get()}, order;
    absl::flat_hash_set<int32_t> found;
    absl::flat_hash_set<Node*> leads;
    while (!open.empty()) {
      Node* node = open.back();
      open.pop_back();
      order.push_back(node);
      for (const torch::autograd::Edge& edge : node->next_edges()) {
        if (!edge.is_valid()) continue;
        if (const auto row = at.find({edge.function.get(), edge.input_nr}); row != at.end()) {
          found.insert(row->second);
          leads.insert(node);
        } else if (seen.insert(edge.function.get()).second) {
          open.push_back(edge.function.get());
        }
      }
    }
    for (bool more = !leads.empty(); more;) {
      more = false;
      for (Node* node : order) {
        const bool on = std::any_of(node->next_edges().begin(), node->next_edges().end(), [&](const auto& edge) {
          return edge.is_valid() && leads.contains(edge.function.get()) &&
                 !at.contains({edge.function.get(), edge.input_nr});
        });
        if (on && leads.insert(node).second) more = true;
      }
    }
    cut.points.assign(found.begin(), found.end());
    std::sort(cut.points.begin(), cut.points.end());
    for (Node* node : leads) cut.nodes.push_back(index_.at(node));
    std::sort(cut.nodes.begin(), cut.nodes.end());
    return seen;
  }

  absl::Status AddCut(const std::vector<at::Tensor>& points, size_t i, CutSection& cut) {
    cut.section.tangents = OutputMask{1} << i;
    if (cut.points.empty()) return absl::OkStatus();
    variable_list targets, gradients;
    for (int32_t point : cut.points) targets.push_back(points[static_cast<size_t>(point)]);
    const StoppedGradients stopped(targets);
    targets.insert(targets.end(), inputs_.begin(), inputs_.end());
    const size_t first_node = graph_.nodes.size(), first_value = graph_.values.size();
    gradients = Gradients({outputs_[i]}, targets, {tangents_[i]});
    if (session_.failure().has_value()) return absl::UnimplementedError(session_.failure()->detail);
    if (program_ != nullptr) {
      std::string why = program_->failure();
      if (why.empty()) why = UnfitForBackward(graph_, first_node, first_value);
      if (!why.empty()) return absl::UnimplementedError(why);
    }
    const at::ArrayRef<at::Tensor> all(gradients);
    absl::Status status = AddGradients(all.slice(0, cut.points.size()), cut.point_gradients);
    return status.ok() ? AddGradients(all.slice(cut.points.size()), cut.section.gradients) : status;
  }

  FakeSession& session_;
  Graph& graph_;
  const std::vector<LiftedInput>& all_inputs_;
  const std::vector<at::Tensor>& all_outputs_;
  const ProgramBackward* program_;             // or null
  std::vector<NodeSet> reachable_;             // by differentiable output
  absl::flat_hash_map<Node*, int32_t> index_;  // in EngineNodes
  std::unique_ptr<JointGraph> joint_ = std::make_unique<JointGraph>();
  std::vector<at::Tensor> inputs_, outputs_;  // the differentiable ones
  std::vector<uint64_t> looks_at_inputs_;     // sequence numbers of nodes of views of inputs
  std::vector<at::Tensor> tangents_;
  std::vector<at::Tensor> examples_;  // alive, so that no two have one address
};

}  // namespace

bool IsCustomFunction(const torch::autograd::Node& node) { return absl::EndsWith(node.name(), "Backward"); }
bool RunsProgram(torch::autograd::Node& node) { return IsCustomFunction(node) || !node.tensor_pre_hooks().empty(); }

absl::StatusOr<std::unique_ptr<JointGraph>> RecordBackward(FakeSession& session, const std::vector<LiftedInput>& inputs,
                                                           const std::vector<at::Tensor>& outputs,
                                                           const ProgramBackward* program) {
  Graph forward = session.graph();
  session.SetPosition(-1, kBackwardCall);
  absl::StatusOr<std::unique_ptr<JointGraph>> joint = absl::InternalError("");
  try {
    joint = BackwardRecorder(session, inputs, outputs, program).Run();
  } catch (const python_error&) {
    joint = absl::UnimplementedError("a formula of the backward raised in Python");
  } catch (const std::exception& error) {
    const std::string message = ErrorText(error);
    joint = absl::UnimplementedError(
        absl::StrCat("the backward cannot be recorded: ", message.substr(0, message.find("\n"))));
  }
  PyErr_Clear();
  session.graph() = std::move(forward);
  return joint;
}

}  // namespace framejit
