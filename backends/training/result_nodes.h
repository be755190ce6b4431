// The nodes of torch's autograd for a call with several results. Each result has one of its own, so that hooks on it
// run in eager's order and see what comes from results that are made of it; behind each stands a node that hands
// gradients to the leaves it leads to. What lies between is computed at once, for all results that got a gradient.
#ifndef FRAMEJIT_BACKENDS_TRAINING_RESULT_NODES_H_
#define FRAMEJIT_BACKENDS_TRAINING_RESULT_NODES_H_

#include <functional>
#include <vector>

#include "backends/training/backward_node.h"

namespace framejit {

using BackwardCore = decltype(MakeNode<BackwardNode>(nullptr, c10::ArrayRef<at::Tensor>(), at::Tensor(), nullptr));

// Gives the differentiable results among `outputs`, the forward graph's, their history. `view` gives the call's result
// of that number, a view; what it looks at has its history by then.
void SetHistories(const BackwardCore& core, std::vector<at::Tensor>& outputs,
                  const std::function<const at::Tensor&(size_t result)>& view);

}  // namespace framejit

#endif  // FRAMEJIT_BACKENDS_TRAINING_RESULT_NODES_H_
