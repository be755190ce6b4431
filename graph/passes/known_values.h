// What values are worth that depend on frozen inputs and constants alone; for the passes of freeze.h.
#ifndef FRAMEJIT_GRAPH_PASSES_KNOWN_VALUES_H_
#define FRAMEJIT_GRAPH_PASSES_KNOWN_VALUES_H_

#include <vector>

#include "graph/passes/analysis.h"
#include "graph/passes/freeze.h"

namespace framejit {

class KnownValues {
 public:
  // The graph may get new values and constants while this lives, but keeps its nodes.
  KnownValues(const Graph& graph, const FrozenValues& frozen);

  // Undefined where it is not known. Computed at most once.
  at::Tensor Find(ValueId id);
  // A view of a frozen input, or one itself.
  bool IsMemoryOfInput(ValueId id) const;

 private:
  bool Computable(const Node& node) const;

  const Graph& graph_;
  const MemoryFacts facts_;
  std::vector<int> maker_;         // by value: the node that makes it alone; -1: none, or it failed
  std::vector<at::Tensor> known_;  // by value
  std::vector<int32_t> frozen_storages_;
};

// The constant becomes a value of the graph, with memory of its own.
ValueId AddConstant(Graph& graph, at::Tensor tensor);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_PASSES_KNOWN_VALUES_H_
