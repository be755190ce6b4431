// Whether a graph that has numbers for inputs is that of a recording in which they are what they are.
#ifndef FRAMEJIT_GRAPH_SYMBOLIC_OPEN_GRAPH_H_
#define FRAMEJIT_GRAPH_SYMBOLIC_OPEN_GRAPH_H_

#include <ATen/core/Tensor.h>

#include <vector>

#include "absl/types/span.h"
#include "frame_eval/cpython/py_ref.h"
#include "graph/graph.h"
#include "graph/symbolic/replay.h"

namespace framejit {

// What the inputs for numbers are worth where the symbols are worth that.
std::vector<at::Scalar> NumberValues(absl::Span<const NumberInput> inputs, const std::vector<PyRef>& symbols);

// `numbers`: what the inputs of `open` for numbers are worth, in order.
bool IsOpenFormOf(const Graph& open, absl::Span<const at::Scalar> numbers, const Graph& recorded);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_SYMBOLIC_OPEN_GRAPH_H_
