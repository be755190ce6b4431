// What operators write that their schemas do not say.
#ifndef FRAMEJIT_GRAPH_FAKE_MUTATION_H_
#define FRAMEJIT_GRAPH_FAKE_MUTATION_H_

#include "graph/graph.h"

namespace framejit {

// Positions of aten::native_batch_norm's operands.
inline constexpr size_t kBatchNormMean = 3;
inline constexpr size_t kBatchNormVariance = 4;
inline constexpr size_t kBatchNormTraining = 5;

// Batch normalization in training mode updates its running mean and variance.
bool WritesRunningStatistics(const Node& node);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_FAKE_MUTATION_H_
