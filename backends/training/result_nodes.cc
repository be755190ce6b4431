#include "backends/training/result_nodes.h"

#include <torch/csrc/autograd/edge.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <utility>

namespace framejit {
namespace {

using torch::autograd::Edge;
using torch::autograd::variable_list;
using Core = BackwardCore;

// Hands gradients to the leaves that a result depends on.
class LeavesNode : public torch::autograd::Node {
 public:
  LeavesNode(Core core, size_t output, const at::Tensor& result) : core_(std::move(core)), output_(output) {
    add_input_metadata(result);
    for (int32_t input : core_->program().InputsOf(output)) add_next_edge(core_->next_edge(static_cast<size_t>(input)));
  }
  std::string name() const override { return "FramejitLeaves"; }

 protected:
  variable_list apply(variable_list&&) override { return core_->HandOut(output_); }

 private:
  const Core core_;
  const size_t output_;
};

// Whether this backward runs the node, or gives the gradients that arrive there.
bool Runs(torch::autograd::Node* node) {
  const auto* runs = torch::autograd::get_current_graph_task_exec_info();
  if (runs == nullptr || runs->empty()) return true;
  const auto row = runs->find(node);
  return row != runs->end() && row->second.should_execute();
}

// Whether the backward comes to the node, and anybody sees the gradient that arrives there.
bool IsObserved(const torch::autograd::Node* address) {
  auto& node = *const_cast<torch::autograd::Node*>(address);
  if (!Runs(&node)) return false;
  if (!node.tensor_pre_hooks().empty() || !node.pre_hooks().empty() || !node.post_hooks().empty() ||
      !node.retains_grad_hooks().empty())
    return true;
  const auto* runs = torch::autograd::get_current_graph_task_exec_info();
  if (runs == nullptr) return false;
  const auto row = runs->find(&node);
  return row != runs->end() && row->second.captures_ != nullptr;
}

// Of the results that one operator gave: its edges lead to their LeavesNode, and to the cut points that they are made
// of. Hooks on each of them run where any of them gets a gradient, as on the results of a node of eager's.
class ResultNode : public torch::autograd::Node {
 public:
  ResultNode(Core core, std::vector<size_t> outputs, Edge leaves, const std::vector<Edge>& points)
      : core_(std::move(core)), outputs_(std::move(outputs)), leaves_turn_(leaves.function->sequence_nr()) {
    add_next_edge(std::move(leaves));
    for (const Edge& point : points) {
      add_next_edge(point);
      Watch(point.function.get());
    }
  }
  ~ResultNode() override { core_->RemoveResultNode(this); }
  ResultNode(const ResultNode&) = delete;
  ResultNode& operator=(const ResultNode&) = delete;
  std::string name() const override { return "FramejitBackward"; }

 protected:
  variable_list apply(variable_list&& tangents) override {
    variable_list gradients(num_outputs());
    const bool any = std::any_of(tangents.begin(), tangents.end(), [](const auto& t) { return t.defined(); });
    if (core_->leads_on()) {
      for (size_t i = 0; i < outputs_.size(); ++i) {
        if (tangents[i].defined()) core_->PassOn(outputs_[i]);
        gradients[i] = std::move(tangents[i]);
      }
      return gradients;
    }
    const bool goes_on = Runs(next_edge(0).function.get());
    const bool observed = std::any_of(watched_.begin(), watched_.end(), IsObserved);
    if (goes_on) HurryLeaves();
    if (observed && any) {
      variable_list of_points = core_->RunCut(outputs_, std::move(tangents), goes_on);
      std::move(of_points.begin(), of_points.end(), gradients.begin() + 1);
    } else if (goes_on) {
      for (size_t i = 0; i < outputs_.size(); ++i) core_->Arrive(outputs_[i], std::move(tangents[i]));
    } else if (any) {
      core_->RunAlone(outputs_[0]);
    }
    return gradients;
  }

 private:
  // In eager mode leaves get their gradients as soon as they can. Here all results that come in are computed with at
  // once, unless somebody would notice: then those of this one are handed out before the next one's turn.
  void HurryLeaves() {
    torch::autograd::Node& leaves = *next_edge(0).function;
    leaves.set_sequence_nr(core_->ArrivesBeforeHooks(outputs_) ? sequence_nr() : leaves_turn_);
  }

  // The point, and what lies behind it up to the leaves of the call: views, and the points of the result that they are
  // of. All of them live as long as this node.
  void Watch(const torch::autograd::Node* point) {
    for (const torch::autograd::Node* node = point; node != nullptr;) {
      watched_.push_back(node);
      if (const auto* result = dynamic_cast<const ResultNode*>(node)) {
        watched_.insert(watched_.end(), result->watched_.begin(), result->watched_.end());
        return;
      }
      node = node->num_outputs() == 1 ? node->next_edge(0).function.get() : nullptr;
    }
  }

  const Core core_;
  const std::vector<size_t> outputs_;  // by its inputs
  const uint64_t leaves_turn_;
  std::vector<const torch::autograd::Node*> watched_;
};

}  // namespace

void SetHistories(const BackwardCore& core, std::vector<at::Tensor>& outputs,
                  const std::function<void(uint64_t sequence)>& make_views,
                  const std::function<const at::Tensor&(size_t result)>& view) {
  const JointGraph& joint = core->program().joint();
  const size_t count = joint.differentiable_outputs.size();
  core->ReserveArrivals();
  // In the order in which the program made them: of two that could run, the engine takes the later one.
  std::vector<std::vector<size_t>> groups;  // by operator
  for (size_t i = 0; i < count; ++i) {
    const auto same = [&](const std::vector<size_t>& group) {
      return joint.engine.roots[group[0]] == joint.engine.roots[i];
    };
    const auto group = std::find_if(groups.begin(), groups.end(), same);
    group == groups.end() ? void(groups.push_back({i})) : group->push_back(i);
  }
  std::vector<Edge> leaves(count);
  for (const std::vector<size_t>& group : groups) {
    const at::Tensor& output = outputs[static_cast<size_t>(joint.differentiable_outputs[group[0]])];
    leaves[group[0]] = Edge(MakeNode<LeavesNode>(core, group[0], output), 0);
  }
  const auto sequence = [&](const std::vector<size_t>& group) {
    return joint.engine.nodes[static_cast<size_t>(joint.engine.roots[group[0]])].sequence;
  };
  std::stable_sort(groups.begin(), groups.end(),
                   [&](const auto& a, const auto& b) { return sequence(a) < sequence(b); });
  std::vector<Edge> nodes(count);
  for (const std::vector<size_t>& group : groups) {
    make_views(sequence(group));
    std::vector<Edge> points;  // the same for all of the group
    for (size_t k = 0; !joint.cuts.empty() && k < joint.cuts[group[0]].points.size(); ++k) {
      const CutPoint& point = joint.cut_points[static_cast<size_t>(joint.cuts[group[0]].points[k])];
      const at::Tensor& tensor =
          point.output >= 0
              ? outputs[static_cast<size_t>(joint.differentiable_outputs[static_cast<size_t>(point.output)])]
              : view(static_cast<size_t>(point.result));
      points.push_back(torch::autograd::impl::gradient_edge(tensor));
    }
    auto node = MakeNode<ResultNode>(core, group, leaves[group[0]], points);
    for (size_t i : group) {
      at::Tensor& output = outputs[static_cast<size_t>(joint.differentiable_outputs[i])];
      torch::autograd::set_history(output, node);
      nodes[i] = torch::autograd::impl::gradient_edge(output);
    }
    core->ReserveArrivals();
  }
  for (const Edge& node : nodes) core->AddResultNode(node.function.get(), node.input_nr);
}

}  // namespace framejit
