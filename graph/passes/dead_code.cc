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

  std::vector<bool> keep(graph.nodes.size(), false);
  for (size_t i = graph.nodes.size(); i-- > 0;) {
    const Node& node = graph.nodes[i];
    bool needed = HasEffect(node);
    for (ValueId id : node.outputs) needed |= id != kNoValue && used[id];
    if (!needed && IsTotal(graph, node)) continue;
    ForEachOperandValue(node, [&used](ValueId id) { used[id] = true; });
    keep[i] = true;
  }
  int removed = 0;
  {
    KeptNodes kept(graph.nodes);
    for (size_t i = 0; i < keep.size(); ++i) {
      if (keep[i]) kept.Keep(graph.nodes[i]);
    }
    removed = static_cast<int>(keep.size() - kept.size());
  }
  removed += static_cast<int>(
      std::erase_if(graph.constants, [&used](const GraphConstant& constant) { return !used[constant.id]; }));
  return removed;
}

}  // namespace framejit
