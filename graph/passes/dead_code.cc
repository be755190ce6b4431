// Dead code elimination: one walk from the last node to the first, keeping what has an effect or is used by what is
// kept. What nobody uses and may raise stays: eager would raise.
#include "graph/passes/analysis.h"
#include "graph/passes/pipeline.h"
#include "graph/passes/total.h"

namespace framejit {

int EliminateDeadCode(Graph& graph) {
  std::vector<bool> used(graph.values.size(), false);
  for (ValueId id : graph.outputs) used[id] = true;
  for (const InputMutation& mutation : graph.mutations) used[mutation.value] = true;

  std::vector<Node> kept;
  kept.reserve(graph.nodes.size());
  for (size_t i = graph.nodes.size(); i-- > 0;) {
    Node& node = graph.nodes[i];
    bool needed = HasEffect(node);
    for (ValueId id : node.outputs) needed |= id != kNoValue && used[id];
    if (!needed && IsTotal(graph, node)) continue;
    ForEachOperandValue(node, [&used](ValueId& id) { used[id] = true; });
    kept.push_back(std::move(node));
  }
  std::reverse(kept.begin(), kept.end());
  int removed = static_cast<int>(graph.nodes.size() - kept.size());
  graph.nodes = std::move(kept);
  removed += static_cast<int>(
      std::erase_if(graph.constants, [&used](const GraphConstant& constant) { return !used[constant.id]; }));
  return removed;
}

}  // namespace framejit
