// The verifier: what every graph must satisfy between any two passes. A violation is our bug, never the user's.
#ifndef FRAMEJIT_GRAPH_VERIFY_H_
#define FRAMEJIT_GRAPH_VERIFY_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "graph/graph.h"

namespace framejit {

struct GraphError {
  int node = -1;  // index into Graph::nodes; -1: inputs, constants, mutations or outputs
  std::string message;
};

std::vector<GraphError> FindErrors(const Graph& graph);
// Internal, with each error under the line it is about.
absl::Status Verify(const Graph& graph);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_VERIFY_H_
