// Running one node's operator for real, while a graph is compiled.
#ifndef FRAMEJIT_GRAPH_PASSES_EXECUTE_H_
#define FRAMEJIT_GRAPH_PASSES_EXECUTE_H_

#include <ATen/core/stack.h>

#include <functional>

#include "graph/graph.h"

namespace framejit {

// What the operator returns, below autograd; `tensor` gives the tensors it is called with. Throws what it throws.
torch::jit::Stack Execute(const Node& node, const std::function<at::Tensor(ValueId)>& tensor);

// Whether the operator raises for tensors of these dtypes, as a kernel does that is not implemented for one: metadata
// does not tell. Found out by calling it, once per process for an operator of torch and its dtypes.
bool RaisesForItsTypes(const Graph& graph, const Node& node);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_PASSES_EXECUTE_H_
