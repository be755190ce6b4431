// Running one node's operator for real, while a graph is compiled.
#ifndef FRAMEJIT_GRAPH_PASSES_EXECUTE_H_
#define FRAMEJIT_GRAPH_PASSES_EXECUTE_H_

#include <ATen/core/stack.h>

#include <functional>

#include "graph/graph.h"

namespace framejit {

// What the operator returns, below autograd; `tensor` gives the tensors it is called with. Throws what it throws.
torch::jit::Stack Execute(const Node& node, const std::function<at::Tensor(ValueId)>& tensor);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_PASSES_EXECUTE_H_
