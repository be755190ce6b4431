// Which operators are known to raise nothing once their metadata was computed: those alone may be dropped where nobody
// uses their result. Kernels raise for dtypes that metadata accept, for indices, for singular matrices, and for numbers
// that a dtype cannot hold.
#ifndef FRAMEJIT_GRAPH_PASSES_TOTAL_H_
#define FRAMEJIT_GRAPH_PASSES_TOTAL_H_

#include "graph/graph.h"

namespace framejit {

// Rows of total_operators.def, and views.
bool IsTotal(const Graph& graph, const Node& node);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_PASSES_TOTAL_H_
