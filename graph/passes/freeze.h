// Freezing: rewrites that hold as long as some inputs (weights) are the tensors they are now, with the content they
// have now. Whoever runs the graph checks that.
#ifndef FRAMEJIT_GRAPH_PASSES_FREEZE_H_
#define FRAMEJIT_GRAPH_PASSES_FREEZE_H_

#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/timing.h"
#include "graph/graph.h"

namespace framejit {

using FrozenValues = std::vector<std::pair<ValueId, at::Tensor>>;

// Runs the passes over a functional graph, and before and after them those below. No constant of the result shares
// memory with a frozen tensor. `timings` may be null.
absl::Status RunFrozenPipeline(Graph& graph, const FrozenValues& frozen, Timings* timings);

// Batch norm with running statistics, into the convolution or the product in front of it: weights and bias are scaled,
// in double precision, and rounded once.
int FoldBatchNorms(Graph& graph, const FrozenValues& frozen);
// What is computed of frozen values and constants alone becomes a constant.
int FoldFrozen(Graph& graph, const FrozenValues& frozen);
// Weights of products and convolutions of float32 on the CPU, in the layouts that are fastest for the shapes they meet.
int PackWeights(Graph& graph, const FrozenValues& frozen);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_PASSES_FREEZE_H_
