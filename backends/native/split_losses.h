// Takes the negative log likelihood of log_softmax apart, so that what it picks from each row is picked where the row
// is computed, and the probabilities need not lie in memory for it.
#ifndef FRAMEJIT_BACKENDS_NATIVE_SPLIT_LOSSES_H_
#define FRAMEJIT_BACKENDS_NATIVE_SPLIT_LOSSES_H_

#include "backends/native/facts.h"

namespace framejit::native {

// nll_loss_forward over rows becomes a gather, ATen's nll_loss_forward without reduction on what was gathered (which
// checks the targets and raises as eager does; on a GPU comparisons of the targets and an assertion), and sums.
void SplitLosses(Graph& graph);

// Whether the node is such a gather: nothing sees its result before its indices are checked.
bool IsCheckedGather(const GraphFacts& facts, const Node& node);

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_SPLIT_LOSSES_H_
