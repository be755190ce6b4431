// Running one node's operator while a graph is compiled.
#ifndef FRAMEJIT_GRAPH_PASSES_EXECUTE_H_
#define FRAMEJIT_GRAPH_PASSES_EXECUTE_H_

#include <ATen/core/stack.h>

#include <functional>

#include "graph/graph.h"

namespace framejit {

// What the operator returns, below autograd; `tensor` gives the tensors it is called with. Throws what it throws.
torch::jit::Stack Execute(const Node& node, const std::function<at::Tensor(ValueId)>& tensor);
// The metadata of what the operator would return, for operands as the graph describes them. Throws what it throws, and
// where the operator has no metadata kernel.
torch::jit::Stack ExecuteOnMeta(const Node& node, const Graph& graph);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_PASSES_EXECUTE_H_
