// A backward graph for tangents in other layouts than it was recorded with.
#ifndef FRAMEJIT_BACKENDS_TRAINING_LAYOUTS_H_
#define FRAMEJIT_BACKENDS_TRAINING_LAYOUTS_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "graph/graph.h"

namespace framejit {

// The graph as its operators would have been recorded on inputs with these strides, by position; empty ones as they
// are. So its results have the strides that eager's have. Requires the GIL.
absl::StatusOr<Graph> WithInputStrides(const Graph& graph, const std::vector<std::vector<int64_t>>& strides);

}  // namespace framejit

#endif  // FRAMEJIT_BACKENDS_TRAINING_LAYOUTS_H_
