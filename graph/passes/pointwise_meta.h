// The metadata that eager PyTorch gives the result of a pointwise operator, for nodes that passes make.
#ifndef FRAMEJIT_GRAPH_PASSES_POINTWISE_META_H_
#define FRAMEJIT_GRAPH_PASSES_POINTWISE_META_H_

#include <optional>

#include "absl/types/span.h"
#include "graph/graph.h"

namespace framejit {

// Sizes by broadcasting, strides by TensorIterator's rules (aten/src/ATen/TensorIterator.cpp: all operands alike keep
// their layout, otherwise the result is dense in the order of the operands' strides), device of the first operand.
// nullopt where the sizes do not broadcast. `storage` stays -1.
std::optional<TensorMeta> PointwiseMeta(absl::Span<const TensorMeta* const> operands, at::ScalarType dtype);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_PASSES_POINTWISE_META_H_
