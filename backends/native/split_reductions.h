// Reductions over dimensions that do not lie together in memory become several, each over some that do.
#ifndef FRAMEJIT_BACKENDS_NATIVE_SPLIT_REDUCTIONS_H_
#define FRAMEJIT_BACKENDS_NATIVE_SPLIT_REDUCTIONS_H_

#include "graph/graph.h"

namespace framejit::native {

// Sums, means, extremes, any, all, variances and standard deviations: a kernel has rows, or columns, and such
// dimensions are neither. What is between two of them is small. Variances are taken around the mean in double
// precision, as ATen's are.
void SplitReductions(Graph& graph);

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_SPLIT_REDUCTIONS_H_
