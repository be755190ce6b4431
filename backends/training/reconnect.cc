#include "backends/training/reconnect.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "graph/autograd/record_backward.h"

namespace framejit {
namespace {

using torch::autograd::Edge;
using GradNode = torch::autograd::Node;
using torch::autograd::variable_list;

// Runs the hooks of a result on the gradient that comes to the same result of the second run.
class HooksOf : public torch::autograd::FunctionPreHook {
 public:
  HooksOf(Edge result, uint32_t slot) : result_(std::move(result)), slot_(slot) {}

  variable_list operator()(const variable_list& gradients) override {
    GradNode& node = *result_.function;
    variable_list own(node.num_inputs());
    own[result_.input_nr] = gradients[slot_];
    for (const auto& hook : node.tensor_pre_hooks()) own = (*hook)(own);
    if (auto row = node.retains_grad_hooks().find(static_cast<int>(result_.input_nr));
        row != node.retains_grad_hooks().end())
      own = (*row->second)(own);
    variable_list changed = gradients;
    changed[slot_] = own[result_.input_nr];
    return changed;
  }

 private:
  const Edge result_;
  const uint32_t slot_;
};

std::vector<GradNode*> Reachable(const variable_list& gradients, absl::flat_hash_set<GradNode*> seen) {
  std::vector<GradNode*> nodes;
  const auto visit = [&](GradNode* node) {
    if (node != nullptr && seen.insert(node).second) nodes.push_back(node);
  };
  for (const at::Tensor& gradient : gradients) {
    if (gradient.defined()) visit(gradient.grad_fn().get());
  }
  for (size_t i = 0; i < nodes.size(); ++i) {  // grows
    for (const Edge& edge : nodes[i]->next_edges()) visit(edge.function.get());
  }
  return nodes;
}

}  // namespace

void Reconnect(const std::vector<ResultEdges>& results, const variable_list& gradients,
               absl::flat_hash_set<GradNode*> ends) {
  for (const ResultEdges& result : results) ends.insert(result.own.function.get());
  const std::vector<GradNode*> nodes = Reachable(gradients, std::move(ends));
  // Code of the program need not be linear: what comes to it through a result and past it has to come there at once.
  if (std::any_of(nodes.begin(), nodes.end(), [](GradNode* node) { return RunsProgram(*node); })) {
    for (const auto& [again, own] : results)
      again.function->add_pre_hook(std::make_unique<HooksOf>(own, again.input_nr));
    return;
  }
  for (GradNode* node : nodes) {
    // Behind its constructor a node's edges are not to be changed, since numbers have to fall along them: these do.
    for (Edge& edge : node->next_edges()) {
      const auto row = std::find_if(results.begin(), results.end(), [&](const auto& r) { return r.again == edge; });
      if (row != results.end()) edge = row->own;
    }
  }
}

}  // namespace framejit
