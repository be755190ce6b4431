// Rows picked by position: embeddings, index_select, and indexing by one tensor of integers.
#ifndef FRAMEJIT_BACKENDS_CPU_ROW_GATHERS_H_
#define FRAMEJIT_BACKENDS_CPU_ROW_GATHERS_H_

#include "backends/native/plan.h"
#include "graph/graph.h"

namespace framejit::cpu {

// Copies of what lies together in a contiguous tensor, or none where the node is something else. ATen's indexing goes
// element by element. Positions are checked before anything is written; a wrong one raises what eager raises.
native::DirectCall FindRowGather(const Graph& graph, const Node& node);

}  // namespace framejit::cpu

#endif  // FRAMEJIT_BACKENDS_CPU_ROW_GATHERS_H_
