#include "backends/native/node_splitter.h"

#include <algorithm>
#include <utility>

#include "graph/operator_table.h"

namespace framejit::native {

NodeSplitter::NodeSplitter(Graph& graph, const char* target)
    : graph_(graph), facts_(graph), target_(FindOperator(target)) {
  for (const TensorMeta& meta : graph.values) next_storage_ = std::max(next_storage_, meta.storage + 1);
}

void NodeSplitter::Run() {
  if (!target_) return;
  std::vector<bool> splits;
  for (const Node& node : graph_.nodes) splits.push_back(node.op == *target_ && Applies(node));
  if (std::find(splits.begin(), splits.end(), true) == splits.end()) return;
  std::vector<Node> old = std::exchange(graph_.nodes, {});
  for (size_t i = 0; i < old.size(); ++i) {
    if (splits[i])
      Split(old[i]);
    else
      graph_.nodes.push_back(std::move(old[i]));
  }
}

ValueId NodeSplitter::New(TensorMeta meta) {
  meta.storage = next_storage_++;
  return graph_.AddValue(std::move(meta));
}

void NodeSplitter::Add(const char* name, const Node& origin, absl::InlinedVector<Operand, 4> operands, ValueId result) {
  Node node{*FindOperator(name)};
  node.operands = std::move(operands);
  const auto& arguments = node.op.schema().arguments();
  for (size_t i = node.operands.size(); i < arguments.size(); ++i)
    node.operands.push_back(Operand::Constant(*arguments[i].default_value()));
  node.location = origin.location;
  node.torch_call = origin.torch_call;
  if (!node.op.schema().returns().empty()) node.outputs.push_back(result);
  graph_.nodes.push_back(std::move(node));
}

}  // namespace framejit::native
