// The nodes of torch's autograd for a call with several results. Each result has one of its own, so that hooks on it
// run in eager's order and see what comes from results that are made of it; behind each stands a node that hands
// gradients to the leaves it leads to. What lies between is computed at once, for all results that got a gradient.
#ifndef FRAMEJIT_BACKENDS_TRAINING_RESULT_NODES_H_
#define FRAMEJIT_BACKENDS_TRAINING_RESULT_NODES_H_

#include <functional>
#include <vector>

#include "backends/training/backward_node.h"

namespace framejit {

using BackwardCore = decltype(MakeNode<BackwardNode>(nullptr, c10::ArrayRef<at::Tensor>(), std::nullopt, nullptr));

// Gives the differentiable results among `outputs`, the forward graph's, their history. `make_views` makes the call's
// results that are views of what has its history by then, up to a sequence number of the recording; `view` gives the
// one of that number.
void SetHistories(const BackwardCore& core, std::vector<at::Tensor>& outputs,
                  const std::function<void(uint64_t sequence)>& make_views,
                  const std::function<const at::Tensor&(size_t result)>& view);

}  // namespace framejit

#endif  // FRAMEJIT_BACKENDS_TRAINING_RESULT_NODES_H_
