// The torch-level graph as text, for FRAMEJIT_LOG=graph. It is for reading and has no parser: its operands are Python
// objects. Runs no user code: objects of unknown types print as their type. Requires the GIL.
#ifndef FRAMEJIT_GRAPH_PRINT_TORCH_GRAPH_H_
#define FRAMEJIT_GRAPH_PRINT_TORCH_GRAPH_H_

#include <string>

#include "graph/torch_graph.h"

namespace framejit {

// `graph` gives the locations.
std::string PrintTorchGraph(const TorchGraph& torch_graph, const Graph& graph);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_PRINT_TORCH_GRAPH_H_
