#include "backends/training/reconnect.h"

#include <algorithm>
#include <utility>

#include "graph/autograd/record_backward.h"

namespace framejit {
namespace {

using torch::autograd::Edge;
using GradNode = torch::autograd::Node;
using torch::autograd::variable_list;

std::vector<GradNode*> Reachable(const variable_list& tensors, absl::flat_hash_set<GradNode*> seen) {
  std::vector<GradNode*> nodes;
  const auto visit = [&](GradNode* node) {
    if (node != nullptr && seen.insert(node).second) nodes.push_back(node);
  };
  for (const at::Tensor& tensor : tensors) {
    if (tensor.defined()) visit(tensor.grad_fn().get());
  }
  for (size_t i = 0; i < nodes.size(); ++i) {  // grows
    for (const Edge& edge : nodes[i]->next_edges()) visit(edge.function.get());
  }
  return nodes;
}

}  // namespace

bool LeadsToProgram(const variable_list& results, absl::flat_hash_set<GradNode*> ends) {
  const std::vector<GradNode*> nodes = Reachable(results, std::move(ends));
  return std::any_of(nodes.begin(), nodes.end(), [](GradNode* node) { return RunsProgram(*node); });
}

void Reconnect(const std::vector<ResultEdges>& results, const variable_list& gradients,
               absl::flat_hash_set<GradNode*> ends) {
  for (const ResultEdges& result : results) ends.insert(result.own.function.get());
  const std::vector<GradNode*> nodes = Reachable(gradients, std::move(ends));
  for (GradNode* node : nodes) {
    // Behind its constructor a node's edges are not to be changed, since numbers have to fall along them: these do.
    for (Edge& edge : node->next_edges()) {
      const auto row = std::find_if(results.begin(), results.end(), [&](const auto& r) { return r.again == edge; });
      if (row != results.end()) edge = row->own;
    }
  }
}

}  // namespace framejit
