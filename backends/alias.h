// Which values of a functional graph share memory, and which operators are views that metadata alone describes.
#ifndef FRAMEJIT_BACKENDS_ALIAS_H_
#define FRAMEJIT_BACKENDS_ALIAS_H_

#include <vector>

#include "graph/graph.h"

namespace framejit {

// True where every output is a view of operand 0 whose address is operand 0's address plus a constant that the recorded
// storage offsets give, with the same dtype.
bool IsMetadataView(const Graph& graph, const Node& node);

// For each value, the value whose memory it lives in: a graph input, a constant, or a node's own new result. An
// operator whose schema says that its result may alias an argument is taken at its word.
std::vector<ValueId> AliasRoots(const Graph& graph);

// For each node, its index as producer of a value; -1 for inputs and constants. Indexed by ValueId.
std::vector<int32_t> Producers(const Graph& graph);

}  // namespace framejit

#endif  // FRAMEJIT_BACKENDS_ALIAS_H_
