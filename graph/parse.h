// Reads the textual form of a graph (described in graph/print.h). Operators are looked up in torch's dispatcher, and
// operands are read by their schema types. Says nothing of whether the graph makes sense: that is graph/verify.h.
#ifndef FRAMEJIT_GRAPH_PARSE_H_
#define FRAMEJIT_GRAPH_PARSE_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "graph/graph.h"

namespace framejit {

// InvalidArgument names the line, the column and what was expected there.
absl::StatusOr<Graph> ParseGraph(std::string_view text);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_PARSE_H_
